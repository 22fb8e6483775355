#!/bin/bash
# Makes two disks (or partitions of two disks) into one mirrored filesystem for backups.
#
#   setup.sh [--wipe] [--owner USER] [--label LABEL] DEVICE DEVICE MOUNTPOINT
#   setup.sh --owner lightning /dev/sdb1 /dev/sdc1 /mnt/backup
#
# btrfs keeps a checksum of every block on both disks: a block that one disk returns wrongly is recognised, read from
# the other disk and repaired. Without --wipe a disk that is not empty is not touched. FSTAB=FILE is for trying it out.
set -euo pipefail

fail() {
    echo "error: $*" >&2
    exit 1
}

# The first directory on the way to $1 (or $1 itself, if it exists) that does not belong to root alone: its owner, or
# anyone who may write there, could redirect root to another place. In a sticky directory like /tmp nobody else can
# rename or remove what belongs to root.
not_roots() {
    local place=$1 owner mode
    while :; do
        if [[ -e $place || -L $place ]]; then
            read -r owner mode < <(stat -c '%u %a' -- "$place")
            if ((owner != 0 || (8#$mode & 8#22 && !(8#$mode & 8#1000)))); then
                echo "$place"
                return
            fi
        fi
        [[ $place != / ]] || return 0
        place=$(dirname -- "$place")
    done
}

wipe=no owner=lightning label=LNBACKUP
while [[ ${1-} == --* ]]; do
    case $1 in
        --wipe) wipe=yes ;;
        --owner) owner=${2-} && shift ;;
        --label) label=${2-} && shift ;;
        *) fail "there is no option $1; see the head of $0" ;;
    esac
    shift
done
[[ $# == 3 ]] || fail "say which: setup.sh [--wipe] [--owner USER] [--label LABEL] DEVICE DEVICE MOUNTPOINT"
devices=("$(readlink -f "$1")" "$(readlink -f "$2")") mountpoint=$(realpath -m -- "$3") fstab=${FSTAB:-/etc/fstab}

# Check everything that can be wrong before anything is changed.
[[ $EUID == 0 ]] || fail "only root may make filesystems; repeat this with sudo"
for tool in mkfs.btrfs btrfs wipefs lsblk; do
    command -v "$tool" > /dev/null || fail "$tool is missing; install it: apt-get install btrfs-progs util-linux"
done
id "$owner" > /dev/null 2>&1 || fail "there is no user $owner; name the one that lightningd runs as with --owner"
[[ $3 == /* ]] || fail "$3 is not an absolute path"
[[ $mountpoint =~ ^[A-Za-z0-9/._-]+$ ]] || fail "$mountpoint has other characters than letters, digits, / . _ and -; use another one"
foreign=$(not_roots "$mountpoint")
[[ -z $foreign ]] || fail "$foreign does not belong to root alone, so what is mounted there is not safe; use a place like /mnt/backup"
mountpoint -q "$mountpoint" && fail "$mountpoint is in use already; use another one, or unmount it"
if [[ -d $mountpoint && -n $(ls -A "$mountpoint") ]]; then
    fail "$mountpoint is not empty: the mount would hide its contents; move them away first"
fi
grep -qE "^[^#]*[[:space:]]${mountpoint}[[:space:]]" "$fstab" && fail "$fstab has a line for $mountpoint already; remove it, or use another mount point"
for device in "${devices[@]}"; do
    [[ -b $device ]] || fail "$device is not a disk or partition; lsblk lists them"
    [[ -z $(lsblk -nro MOUNTPOINTS "$device" | tr -d '[:space:]') ]] || fail "$device is mounted; unmount it first"
    if [[ $wipe == no && -n $(wipefs --noheadings "$device") ]]; then
        fail "$device holds something ($(wipefs --noheadings -O TYPE,LABEL "$device" | tr -s '\n ' ' ')); if you do not need it any more, add --wipe"
    fi
done
disk_of() { lsblk -nrdo PKNAME "$1" | grep . || basename "$1"; }
[[ ${devices[0]} != "${devices[1]}" ]] || fail "that is the same device twice"
if [[ $(disk_of "${devices[0]}") == "$(disk_of "${devices[1]}")" ]]; then
    fail "both are on the same disk ($(disk_of "${devices[0]}")): if it dies, both halves are lost; use two disks"
fi

mkdir -p -- "$mountpoint"
[[ -z $(not_roots "$mountpoint") ]] || fail "somebody else has just created $mountpoint; nothing was changed"
mkfs.btrfs --quiet --force --label "$label" --metadata raid1 --data raid1 "${devices[@]}"
udevadm settle 2> /dev/null || true
uuid=$(blkid -s UUID -o value "${devices[0]}")

# nofail: the machine must boot without its backup disks. Not `degraded`: on one disk alone it is mounted only by hand,
# by somebody who knows that. Never nodatacow or chattr +C: without checksums nothing is recognised and nothing
# repaired.
options=noatime,nodev,nosuid,noexec,nofail,x-systemd.device-timeout=30
printf 'UUID=%s %s btrfs %s 0 0\n' "$uuid" "$mountpoint" "$options" >> "$fstab"
mount -o noatime,nodev,nosuid,noexec "${devices[0]}" "$mountpoint"
chown "$owner:" "$mountpoint"
chmod 700 "$mountpoint"

echo "Mirrored on ${devices[0]} and ${devices[1]}, mounted at $mountpoint, a line added to $fstab."
echo "Next, as $owner with the node stopped: backup-cli init $(printf %q "file://$mountpoint/lightning.bkp")"
echo "And once: systemctl enable --now backup-disk@\"\$(systemd-escape --path $(printf %q "$mountpoint"))\".timer"
