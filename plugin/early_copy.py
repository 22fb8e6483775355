"""A copy of the database, made before lightningd opens it, when the backup will need a new snapshot.

Later may be too late: a large first transaction makes SQLite write to the file before it commits, and until then nobody
can read it. The start would then be refused, and the next one as well.
"""

import time
from contextlib import ExitStack
from pathlib import Path

from backends.base import SnapshotSource
from backends.errors import BackupError
from backends.node.directory import database_path
from backends.sqlite.copy import consistent_copy
from plugin.told import number_told

LARGE = 64 << 20
"""Bytes of a database above which lightningd does not wait for a copy of it, or for a new snapshot (plugin/renewal.py).
With a smaller one that takes a second or two, with a slow stick, too."""


def is_large(size: int) -> bool:
    """Whether a database of so many bytes is LARGE, or larger than what an experiment or a test sets instead."""
    told = number_told("LIGHTNINGD_BACKUP_LARGE")
    return size > (LARGE if told is None else told)


class EarlyCopy:
    """The copy. It is on the disk of the node's directory until it is closed."""

    def __init__(self, source: SnapshotSource, held: ExitStack) -> None:
        self.source, self._held = source, held

    def close(self) -> None:
        """Remove the copy; a second call does nothing."""
        self._held.close()


def copy_early(directory: Path, until: float) -> EarlyCopy | None:
    """Copy the database of this network directory, which nobody has open; None if that fails or is not done in time.

    `until` is by the monotonic clock. The database is not written to: what a crash left beside it is left to
    lightningd.
    """

    def check_time(done: int, total: int) -> None:
        if time.monotonic() > until:
            raise BackupError("the copy took too long")

    database = database_path(directory)
    with ExitStack() as stack:
        try:
            source = stack.enter_context(consistent_copy(database, directory, writable=False, progress=check_time))
        except (BackupError, OSError):
            return None
        return EarlyCopy(source, stack.pop_all())
