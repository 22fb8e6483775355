"""Whether there is a backup below a prefix: the object `backup`, the marker, says so, and so does the manifest.

The marker is made first and deleted last, so that two commands never make a backup in one place, and a deletion that
was killed can be repeated. But nothing that a backup consists of is in it: a backup that has lost it is whole. So
whoever only reads asks for the manifest, which is read anyway, and whoever writes puts the marker back.
"""

import errno
import os
import secrets
from contextlib import suppress

from backends.storage.objects.names import MANIFEST, Names
from backends.storage.objects.store import Exists, ObjectStore

MARKER = "backup"


class Presence:
    """The directory of a backup, as far as there is one."""

    def __init__(self, store: ObjectStore, files: Names) -> None:
        self._store, self._files = store, files
        self._marked = False

    def exists(self) -> bool:
        """Whether there is a backup, or one that is being made. What is read for that is not read again at once."""
        return self._files.foresee(MANIFEST) or self._find_marker()

    def make(self) -> None:
        """Begin a backup here. Raises FileExistsError if there is one already."""
        try:
            if self._files.look(MANIFEST).file is not None:
                raise Exists(MARKER)
            self._store.create(MARKER, new_marker())
        except Exists as error:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._store.describe()) from error
        self._marked = True

    def check(self) -> None:
        """Raise FileNotFoundError if there is no backup."""
        if not self._find_marker() and self._files.look(MANIFEST).file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._store.describe())

    def check_writable(self) -> None:
        """As `check`, before something is written, and put a lost marker back. Asked once."""
        if self._marked:
            return
        self.check()
        if not self._marked:
            with suppress(Exists):
                self._store.create(MARKER, new_marker())
            self._marked = True

    def note_marker(self) -> None:
        """The marker was just seen, or put there."""
        self._marked = True

    def unmake(self) -> None:
        """Delete the marker: the end of a backup whose other objects are deleted."""
        self._marked = False
        self._store.delete([MARKER])

    def _find_marker(self) -> bool:
        try:
            self._store.get(MARKER)
        except FileNotFoundError:
            self._marked = False
        else:
            self._marked = True
        return self._marked


def new_marker() -> bytes:
    """The marker's content, different at each call."""
    return bytes([1]) + secrets.token_bytes(16)
