"""The node's database file, examined from outside while lightningd writes to it."""

import os
from pathlib import Path

from backends.change import DATABASE_HEADER, change_counter
from backends.node.sync_point import Fingerprint, fingerprint_of
from backends.sqlite.rollback_journal import has_hot_journal


class DatabaseFile:
    """Reads the database file without SQLite, through a descriptor that stays open.

    Closing any descriptor of the file would release the locks that SQLite holds on it elsewhere in this process.
    """

    def __init__(self, path: Path) -> None:
        """OSError when the file cannot be opened."""
        self._path = path
        self._real = Path(os.path.realpath(path))  # the journal is beside the file, not beside a link to it
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    @property
    def directory(self) -> Path:
        """The directory that holds the file and its journal."""
        return self._real.parent

    def counter(self) -> int:
        """The file's change counter now. One system call shows whether a closer look is needed. OSError."""
        return change_counter(os.pread(self._descriptor, DATABASE_HEADER, 0))

    def committed(self) -> Fingerprint | None:
        """The file's fingerprint at a moment when it held exactly the last commit; None when there is no such moment.

        There is none while a transaction is being written into the file. OSError when the file cannot be read.
        """
        first = fingerprint_of(self._descriptor, self._real)
        if has_hot_journal(self._real) or self._path.stat().st_ino != first.inode:
            return None
        return first if fingerprint_of(self._descriptor, self._real) == first else None

    def close(self) -> None:
        """Close the descriptor; only when nothing else in this process has the database open."""
        os.close(self._descriptor)
