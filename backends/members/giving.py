"""Giving the snapshot that a compaction has made at one member to the others, before it is published at all of them.

No member joins meanwhile, so this must end: it yields to the commits as one piece of work, however many files and
members there are.
"""

from collections.abc import Mapping
from contextlib import closing

from backends.errors import BackupError
from backends.log.format.records import is_part_of
from backends.log.writer.pace import Pace
from backends.members.copy_file import copy_file
from backends.storage.base import Storage

SPACE_KEPT = 16 << 20
"""Bytes that must remain free at a member for the log that goes on."""


def give_snapshot(source: Storage, targets: Mapping[str, Storage], written: str, pace: Pace) -> None:
    """Copy the snapshot with the temporary name `written`, in all its parts, to each of these members, by name.

    Raises BackupError if a member has no space for it, and OSError if one cannot be written to or the source cannot be
    read. A member that has failed is noticed by a commit.
    """
    parts = [part for part in source.names() if is_part_of(part, written)]
    size = sum(_size(source, part) for part in parts)
    for name, target in targets.items():
        if target.space().free < size + SPACE_KEPT:
            raise BackupError(f"the member {name} has no space for {size >> 20} MiB more")
        pace = pace.on_another_disk()
        for part in parts:
            copy_file(source, target, part, pace=pace)
        target.sync_names()


def _size(source: Storage, part: str) -> int:
    with closing(source.open(part)) as handle:
        return handle.size()
