"""The first bytes of the node's database file, read during each call: they show the state before the call."""

import os
from pathlib import Path

from backends.change import DATABASE_HEADER


class DatabaseHeader:
    """The open database file.

    Its descriptor stays open: closing any descriptor would release the locks that SQLite holds on the file in this
    process.
    """

    def __init__(self, path: Path) -> None:
        """OSError when the file cannot be opened."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> bytes:
        """The first DATABASE_HEADER bytes, or as many as there are."""
        return os.pread(self._descriptor, DATABASE_HEADER, 0)

    def close(self) -> None:
        """Close the descriptor; only when nothing else in this process has the database open."""
        os.close(self._descriptor)
