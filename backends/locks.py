"""A lock on a file that dies with its process: flock. The file stays, and means nothing without the lock.

The kernel holds the lock, not the file: one left over from a crash is never in the way. Unlike a process number, it
also tells processes of different containers and PID namespaces apart. The file's text only tells a person who the
holder is.
"""

import errno
import fcntl
import os
import stat
import time
import weakref
from contextlib import suppress
from pathlib import Path

from backends.words import printable

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EBADF})
"""How filesystems say that they know no locks (some FUSE ones, shares mounted without them)."""


class Locked(OSError):
    """Another process holds the lock; `holder` says which one, for a person."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(errno.EWOULDBLOCK, f"locked by {holder}", str(path))
        self.holder = holder


class NoLocks(OSError):
    """The filesystem knows no locks."""


class FileLock:
    """A lock on the file `path` (mode 0600, made when missing), held from `acquire` to `release` or the process's end.

    `what` names this process to whoever finds the lock taken.
    """

    def __init__(self, path: Path, what: str, directory: int | None = None) -> None:
        """`directory` is that of `path`, held open while `acquire` is called."""
        self.path, self._what, self._directory = path, what, directory
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock; one that another process has is not waited for.

        Raises Locked, NoLocks, or OSError when the file cannot be opened.
        """
        if self._descriptor is not None:
            return
        name = self.path if self._directory is None else self.path.name
        descriptor = os.open(
            name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600, dir_fd=self._directory
        )
        try:
            self._refuse_borrowed(descriptor)
            if os.fstat(descriptor).st_mode & 0o077:  # copied, or restored: whoever can read a file can lock it
                with suppress(OSError):
                    os.fchmod(descriptor, 0o600)
            self._lock(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {self._what}\n".encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held.add(self)

    def _refuse_borrowed(self, descriptor: int) -> None:
        """Its text is written over: a second name of some other file, put here, would empty that one."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise OSError(errno.EMLINK, "it is a second name of another file, or no file at all", str(self.path))

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(self.path, _holder(descriptor)) from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise NoLocks(error.errno, error.strerror, str(self.path)) from None
            raise

    def release(self) -> None:
        """Give the lock up; nothing happens when it is not held. The file stays."""
        if self._descriptor is not None:
            # The text goes first: a successor writes its own as soon as it has the lock.
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            self.forget()

    def forget(self) -> None:
        """Close this process's hold on the file; a lock that another process shares stays."""
        descriptor, self._descriptor = self._descriptor, None
        _held.discard(self)
        if descriptor is not None:
            os.close(descriptor)


def held_by(name: str, directory: int) -> str | None:
    """Who holds the lock on that file of an open directory, for a person; None when nobody does. It is only read.

    Raises OSError.
    """
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(descriptor)
    finally:
        os.close(descriptor)
    return None


_NAMELESS = "one that is just starting or ending"

_UNTIL_NAMED = 0.2
"""Seconds; a holder writes its name as soon as it has the lock."""


def _holder(descriptor: int) -> str:
    """Who has written into the file; it may be about to."""
    until = time.monotonic() + _UNTIL_NAMED
    while (holder := _named_in(descriptor)) is None:
        if time.monotonic() > until:
            return _NAMELESS
        time.sleep(0.01)
    return holder


def _named_in(descriptor: int) -> str | None:
    text = os.pread(descriptor, 200, 0).decode(errors="replace")
    number, _, what = text.partition("\n")[0].partition(" ")
    if not (number.isascii() and number.isdigit()):
        return None
    return f"pid {number}, {printable(what)}" if what else f"pid {number}"


_held: "weakref.WeakSet[FileLock]" = weakref.WeakSet()


def _forget_in_child() -> None:
    """A forked child shares the open file, and with it the lock: left open, the lock would outlive its process.

    (A started program inherits nothing: Python opens every file close-on-exec.)
    """
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_forget_in_child)
