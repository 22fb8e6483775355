"""The space that a compaction leaves free for the node that runs beside it. A commit without space stops the node."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from backends.errors import BackupError
from backends.log.writer.pace import Pace
from backends.storage.base import Storage

AT_DESTINATION = 16 << 20
ON_THE_NODES_DISK = 64 << 20
"""Bytes that stay free. More on the node's disk, because SQLite writes its whole cache at once."""

NEARLY_FULL = 64 << 20
"""If fewer bytes than this will be free at the destination when the snapshot is written, it does not yield to commits:
the log grows meanwhile, and only the end of the work frees space."""

_LOOK_EVERY = 4
"""Pieces of a snapshot (1 MiB together) between two looks at the free space."""


class SpaceReserve:
    """Checks the free space while something large is written.

    `keep_reserve` is False when the node is stopped: then nothing is checked.
    """

    def __init__(self, storage: Storage, scratch: Path, *, keep_reserve: bool) -> None:
        self._storage, self._scratch, self._keep_reserve = storage, scratch, keep_reserve

    def check_scratch(self) -> None:
        """Raise BackupError when the node's own disk is nearly full."""
        if self._keep_reserve:
            _check(shutil.disk_usage(self._scratch).free, ON_THE_NODES_DISK, str(self._scratch))

    def checked(self, pieces: Iterable[bytes], size: int, pace: Pace | None) -> Iterator[bytes]:
        """The pieces of a database of `size` bytes, as long as the destination that they go to has space. With `pace`,
        they yield to commits unless the rest of them nearly fills it. Raises BackupError, OSError.
        """
        for number, piece in enumerate(pieces):
            if self._keep_reserve and number % _LOOK_EVERY == 0:
                free = self._storage.space().free
                _check(free, AT_DESTINATION, self._storage.describe())
                if pace is not None:
                    pace.short_of_space = free < max(size - pace.done, 0) + NEARLY_FULL
            yield piece


def _check(free: int, wanted: int, place: str) -> None:
    if free < wanted:
        raise BackupError(
            f"only {free >> 20} MiB are free in {place}, and the node's next commits need them. Make room there"
        )
