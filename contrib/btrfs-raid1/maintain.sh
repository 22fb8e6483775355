#!/bin/bash
# Maintains a mirrored backup disk: are both halves there, is every block good on both, is everything mirrored?
#
#   maintain.sh MOUNTPOINT
#
# Exits with 0 if all is well, with 1 if something was wrong and has been repaired (a disk is getting old: consider a
# new one), and with 2 if something is still wrong. The node may run at the same time.
set -euo pipefail

mountpoint=$(realpath -- "${1?say which: maintain.sh MOUNTPOINT}")
worst=0
say() {
    local level=$1
    shift
    echo "$*"
    ((level <= worst)) || worst=$level
}

# Repair only what root has mounted: the owner of a directory on the way could redirect this script to another place.
place=$mountpoint
while [[ $place != / ]]; do
    place=$(dirname -- "$place")
    read -r owner mode < <(stat -c '%u %a' -- "$place")
    if ((owner != 0 || (8#$mode & 8#22 && !(8#$mode & 8#1000)))); then
        echo "$place, on the way to $mountpoint, does not belong to root alone; nothing was done" >&2
        exit 2
    fi
done

if [[ $(findmnt -nro FSTYPE --mountpoint "$mountpoint") != btrfs ]]; then
    echo "no btrfs is mounted at $mountpoint" >&2
    exit 2
fi

# Both halves?
if btrfs filesystem show "$mountpoint" 2> /dev/null | grep -qi missing; then
    say 2 "one of the disks is missing: what is saved now is saved only once. Plug it in and mount again, or replace it:" \
        "btrfs replace start MISSING-DEVID NEW-DEVICE $(printf %q "$mountpoint") (btrfs filesystem show prints the number)"
fi

# Read every block on both disks, and repair a bad one from the other disk. With the lowest priority (-c 3).
scrub=0
report=$(btrfs scrub start -B -c 3 "$mountpoint" 2>&1) || scrub=$?
echo "$report"
if ((scrub == 3)); then
    say 2 "there are blocks that no disk has whole: run backup-cli verify now. If it fails and the node is alive," \
        "stop the node and run backup-cli resync; keep these disks"
elif ((scrub != 0)); then
    say 2 "the scrub failed (btrfs scrub: exit code $scrub)"
elif grep -q 'Corrected: *[1-9]' <<< "$report"; then
    say 1 "blocks were wrong on one disk and have been repaired"
fi

# Blocks that were written while one disk was missing are on the other disk only. This comes after the scrub: a disk
# that returns with old blocks must be repaired before those blocks are used.
if ((worst < 2)) && btrfs filesystem df "$mountpoint" 2> /dev/null | grep -qvE 'RAID1|GlobalReserve'; then
    if done=$(btrfs balance start -dconvert=raid1,soft -mconvert=raid1,soft "$mountpoint" 2>&1); then
        say 1 "not everything was mirrored, as happens after a time with one disk; now it is"
    else
        say 2 "not everything is mirrored, and mirroring it failed: $done"
    fi
fi

# The errors that the disks have counted since the last run, including those of ordinary reads. -z resets the counters.
if ! btrfs device stats -c "$mountpoint" > /dev/null; then
    btrfs device stats -z "$mountpoint" | grep -vE ' 0$' || true
    say 1 "a disk has made errors (above): the backup is whole, but have a look at that disk and its cable"
fi

((worst > 0)) || echo "all is well"
exit "$worst"
