#!/usr/bin/env bash
# private_root.sh DIRECTORY SHARE PLACE …: a private copy of this machine's files at DIRECTORY/root, for machine_root.py.
#
# To be started in a mount and a process namespace of its own. Says `ready`, and waits for the end of its stdin: with it
# ends everything that was started in the namespace, and every mount of it.
set -euo pipefail

directory=$1 root=$1/root share=$2 count=0
shift 2

# What is written stays in memory, over the real files.
mount -t tmpfs -o mode=755 tmpfs "$directory"
mkdir -p "$root" "$directory/share"
mount --bind "$share" "$directory/share"

# Every other mount came with the namespace, those of other tests as well. Here they would go on after their end.
others=()
while read -r _ _ _ _ point _; do
    case $point in
        / | /proc | /proc/* | /sys | /sys/* | /dev | /dev/* | "$directory" | "$directory"/*) ;;
        *) [[ " $* " == *" $point "* ]] || others+=("$point") ;;
    esac
done < /proc/self/mountinfo
[ ${#others[@]} = 0 ] || umount --lazy --no-canonicalize "${others[@]}" 2> /dev/null || true

copy() {
    local own=$directory/$((++count))
    mkdir -p "$own/written" "$own/work" "$root$1"
    mount -t overlay -o "lowerdir=$1,upperdir=$own/written,workdir=$own/work" overlay "$root$1"
}
copy /
copy /dev
for place in "$@"; do
    # What is mounted over a single file, as containers do with resolv.conf.
    if [ -d "$place" ]; then copy "$place"; else cp "$place" "$root$place"; fi
done
for place in /sys /dev/shm /dev/pts; do
    mount --rbind "$place" "$root$place"
done
mount -t proc proc "$root/proc"

# What a page finds empty.
for place in /run /mnt /media /home/me; do
    mkdir -p "$root$place"
    mount -t tmpfs -o mode=755 tmpfs "$root$place"
done
rm -rf "$root/dev/disk"
mkdir -p "$root"/mnt/{backup,nas} "$root/dev/disk/by-label" "$root/run/lock" "$root/srv/nas/export"
mount --move "$directory/share" "$root/srv/nas/export"

chmod 1777 "$root/tmp"

# On a disk, for a server that knows a file by its handle, which an overlay does not give.
mount --bind "$directory.files" "$root/var/tmp"

echo ready
exec cat
