#!/bin/bash
# Looks after a mirrored backup disk: are both halves there, is every block good on both, is everything mirrored?
#
#   maintain.sh MOUNTPOINT
#
# Ends with 0 when all is well, 1 when something was wrong and is mended (a disk grows old: think of a new one), 2 when
# something is wrong and is not. The node may run meanwhile.
set -euo pipefail

mountpoint=$(realpath -- "${1?say which: maintain.sh MOUNTPOINT}")
worst=0
say() {
    local level=$1
    shift
    echo "$*"
    ((level <= worst)) || worst=$level
}

# What is mended must be what root has mounted: whoever owns a directory on the way could lead this elsewhere.
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
    say 2 "one of the disks is missing: what is saved now is saved once. Plug it in and mount anew, or replace it:" \
        "btrfs replace start MISSING-DEVID NEW-DEVICE $(printf %q "$mountpoint") (btrfs filesystem show tells the number)"
fi

# Read everything, on both; mend what one has wrong from the other. With the lowest priority (-c 3).
scrub=0
report=$(btrfs scrub start -B -c 3 "$mountpoint" 2>&1) || scrub=$?
echo "$report"
if ((scrub == 3)); then
    say 2 "there are blocks that no disk has whole: run backup-cli verify now. When it fails and the node is alive," \
        "stop the node and run backup-cli resync; keep these disks"
elif ((scrub != 0)); then
    say 2 "the scrub did not end well (btrfs scrub: $scrub)"
elif grep -q 'Corrected: *[1-9]' <<< "$report"; then
    say 1 "blocks were wrong on one disk and are mended"
fi

# Blocks that were written while one half was away lie on the other one only. After the scrub: a disk that comes back
# with old blocks must be mended before anything is made of them.
if ((worst < 2)) && btrfs filesystem df "$mountpoint" 2> /dev/null | grep -qvE 'RAID1|GlobalReserve'; then
    if done=$(btrfs balance start -dconvert=raid1,soft -mconvert=raid1,soft "$mountpoint" 2>&1); then
        say 1 "not everything was mirrored, as after a time with one disk; it is now"
    else
        say 2 "not everything is mirrored, and it could not be: $done"
    fi
fi

# What the disks have counted since the last time, also while reading in between; then count anew.
if ! btrfs device stats -c "$mountpoint" > /dev/null; then
    btrfs device stats -z "$mountpoint" | grep -vE ' 0$' || true
    say 1 "a disk has made errors (above): the backup is whole, but have a look at that disk and its cable"
fi

((worst > 0)) || echo "all is well"
exit "$worst"
