"""The node's database file looked at from outside while lightningd writes to it."""

import os
from pathlib import Path

from backends.change import DATABASE_HEADER
from backends.node.sync_point import Fingerprint, change_counter, fingerprint_of, has_hot_journal


class DatabaseFile:
    """Looks at the file without SQLite, through a descriptor that stays open.

    Closing any descriptor of the file would give up the locks that SQLite has on it elsewhere in this process.
    """

    def __init__(self, path: Path) -> None:
        """OSError when it cannot be opened."""
        self._path = path
        self._real = Path(os.path.realpath(path))  # the journal lies beside the file, not beside a link to it
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    @property
    def directory(self) -> Path:
        """Where the file and its journal lie."""
        return self._real.parent

    def counter(self) -> int:
        """Its change counter now, for one system call: whether it is worth a closer look. OSError."""
        return change_counter(os.pread(self._descriptor, DATABASE_HEADER, 0))

    def committed(self) -> Fingerprint | None:
        """The file at one moment at which it held exactly what was committed last; None when that cannot be told.

        There is no such moment while a transaction is being written into the file. OSError when it cannot be read.
        """
        first = fingerprint_of(self._descriptor, self._real)
        if has_hot_journal(self._real) or self._path.stat().st_ino != first.inode:
            return None
        return first if fingerprint_of(self._descriptor, self._real) == first else None

    def close(self) -> None:
        """Only when nothing else in this process has the database open."""
        os.close(self._descriptor)
