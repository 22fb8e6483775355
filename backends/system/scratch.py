"""Private temporary directories for a whole database, and the removal of those that a killed process left behind.

They are made in a directory where everybody may write, such as /var/tmp, or in a node's directory. A lock, not a
process number, shows whether a process still works in one: a number that is unknown here may be that of a process in
another PID namespace (a `verify` in one container removed the scratch directory of a running one in another container).
Directories of other users are never entered: nested ones with such a name, made by another user, ended every command
with RecursionError.
"""

import fcntl
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backends.errors import BackupError
from backends.system.giving_back import give_back, open_large
from backends.system.interrupts import deferred

_PREFIX = ".lightningd-backup-"
_LOCK = "lock"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 4
"""How many levels of nested directories are removed; commands make fewer than that."""
_LOCKED_BY_THEN = 3600.0
"""Seconds after which a directory without a lock file counts as left behind: its maker was killed between two calls."""


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A new directory of mode 0700 in `parent`, removed at the end of the block, also after an error.

    Directories that killed processes left behind are removed first. Raises OSError, and BackupError if another user
    could replace the directory.
    """
    remove_left_over(parent)
    scratch = _Scratch(parent)
    try:
        scratch.make()
        yield scratch.path
    finally:
        try:
            with deferred():
                scratch.remove()
        except KeyboardInterrupt:  # it may have come in the few instructions before it was deferred
            with deferred():
                scratch.remove()
            raise


def scratch_place() -> Path:
    """A directory for temporary copies of a whole database: not in memory, where /tmp often is."""
    chosen = Path(tempfile.gettempdir())
    return Path("/var/tmp") if chosen == Path("/tmp") and Path("/var/tmp").is_dir() else chosen


def remove_left_over(parent: Path) -> None:
    """Remove this user's scratch directories in `parent` that no process works in: each may hold a whole database.

    Directories that cannot be removed are left alone.
    """
    with suppress(OSError), _opened(parent) as above:
        for name in os.listdir(above):  # noqa: PTH208 (an open directory has no path)
            if name.startswith(_PREFIX):
                with suppress(OSError), _opened(name, above) as directory:
                    _remove_if_left_over(above, name, directory)


def _remove_if_left_over(above: int, name: str, directory: int) -> None:
    found = os.fstat(directory)
    if found.st_uid != os.geteuid():
        return
    try:
        lock = os.open(_LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:  # its maker has only just started, or was killed before it made the lock
        if time.time() - found.st_mtime > _LOCKED_BY_THEN:
            os.rmdir(name, dir_fd=above)
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _empty(directory, _DEEPEST)
        os.rmdir(name, dir_fd=above)
    finally:
        os.close(lock)


class _Scratch:
    """One scratch directory. `remove` works whether or not the directory was made, or removed already."""

    def __init__(self, parent: Path) -> None:
        self._above: int | None = None
        self._directory: int | None = None
        self._lock: int | None = None
        self._parent = parent
        self._name = ""
        self._begin()

    def _begin(self) -> None:
        self._name = _PREFIX + secrets.token_hex(8)  # known before there is anything to remove
        self.path = self._parent / self._name

    def make(self) -> None:
        """Make and lock the directory.

        Until it is locked, another process may treat it as left behind and remove it; then another one is made.
        """
        while not self._make():
            self.remove()
            self._begin()

    def _make(self) -> bool:
        # The path `parent` is used only once: a user who may rename it could otherwise redirect each step elsewhere.
        with deferred():
            above = self._above = os.open(self._parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            os.mkdir(self._name, 0o700, dir_fd=above)
            try:
                directory = self._directory = os.open(self._name, _DIRECTORY, dir_fd=above)
                lock = self._lock = os.open(_LOCK, _NEW, 0o600, dir_fd=directory)
            except FileNotFoundError:
                return False
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:  # a filesystem without locks: no other process can lock and remove the directory either
                pass
        self._refuse_foreign(os.fstat(above), os.fstat(directory))
        return os.fstat(lock).st_nlink > 0

    def _refuse_foreign(self, above: os.stat_result, ours: os.stat_result) -> None:
        """Raise BackupError if another user could give the directory's name to something else: SQLite opens by name."""
        if above.st_mode & stat.S_ISVTX and above.st_uid in (0, os.geteuid()):
            return
        has_modes = stat.S_IMODE(ours.st_mode) & 0o077 == 0
        foreign = above.st_uid not in (0, os.geteuid())
        if foreign or (above.st_mode & stat.S_IWOTH and has_modes):
            raise BackupError(
                f"other users may rename the files in {self._parent}, so no copy of the database is made there; "
                "nothing was changed. Name a directory that is yours alone with --scratch, or with TMPDIR"
            )

    def remove(self) -> None:
        with suppress(OSError):  # the next command removes what is left
            if self._directory is not None:
                _empty(self._directory, _DEEPEST)
            if self._above is not None:
                os.rmdir(self._name, dir_fd=self._above)
        descriptors = self._lock, self._directory, self._above
        self._lock = self._directory = self._above = None
        for descriptor in descriptors:
            if descriptor is not None:
                os.close(descriptor)


def _empty(directory: int, deepest: int) -> None:
    """Remove everything in an open directory, the lock last: until then other processes see that it is in use."""
    for name in sorted(os.listdir(directory), key=lambda name: name == _LOCK):
        if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            large = open_large(name, directory)
            try:
                os.unlink(name, dir_fd=directory)
            finally:
                if large is not None:
                    give_back(large, synced=False)
        elif deepest:
            with _opened(name, directory) as inner:
                _empty(inner, deepest - 1)
            os.rmdir(name, dir_fd=directory)


@contextmanager
def _opened(path: Path | str, above: int | None = None) -> Iterator[int]:
    """A directory's descriptor, open during the block. If `above` is given, `path` is a name in it and no link."""
    flags = _DIRECTORY if above is not None else _DIRECTORY & ~os.O_NOFOLLOW
    descriptor = os.open(path, flags, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
