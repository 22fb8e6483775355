"""A lock on a file that dies with its process: flock. The file means nothing without the lock.

The kernel holds the lock, not the file: one left over from a crash is never in the way. Unlike a process number, it
also tells processes of different containers and PID namespaces apart. The file's text only tells a person who the
holder is.

The holder removes the file when it gives the lock up, so that no empty file puzzles anybody. Two rules make that safe:
only whoever holds the lock on a file removes its name, and whoever has got a lock looks whether its file still has the
name, and tries anew if not. (It may have opened the file just before the holder removed it: its lock would then be on
a file that nobody finds, and the next process would get one of its own on a new file, beside it.) Both rest on a name
that leads to the same file for everybody at once, which shares and FUSE do not promise: there the file stays.
"""

import errno
import fcntl
import os
import stat
import time
import weakref
from contextlib import suppress
from pathlib import Path

from backends.holder import IN_TURNS, UNNAMED, Holder
from backends.mounts.table import mount_of
from backends.system.interrupts import deferred

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EBADF})
"""How filesystems say that they know no locks (some FUSE ones, shares mounted without them)."""

_REMOVABLE = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs", "jfs", "tmpfs", "overlay"})
"""Filesystems of this machine alone, where a name and a file's number are never remembered wrongly."""

_TRIES = 1000
"""How many holders may come and go before one that wants the lock without waiting gives up."""


class Locked(OSError):
    """Another process holds the lock; `holder` says which one."""

    def __init__(self, path: Path, holder: Holder) -> None:
        super().__init__(errno.EWOULDBLOCK, f"locked by {holder}", str(path))
        self.holder = holder


class NoLocks(OSError):
    """The filesystem knows no locks."""


class FileLock:
    """A lock on the file `path` (mode 0600, made when missing), held from `acquire` to `release` or the process's end.

    `what` names this process to whoever finds the lock taken.
    """

    def __init__(self, path: Path, what: str, directory: int | None = None) -> None:
        """`directory` is that of `path`, held open while `acquire` or `look` is called."""
        self.path, self._what, self._directory = path, what, directory
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock; one that another process has is not waited for.

        Raises Locked, NoLocks, or OSError when the file cannot be opened.
        """
        if self._descriptor is not None:
            return
        try:
            with deferred():  # a stop in between would leave the file behind
                self._acquire()
        except BaseException:
            self.release()
            raise

    def look(self) -> None:
        """Raise what `acquire` would, but make, write and hold nothing. A missing file is locked by nobody.

        (For the moment of the look others see the lock taken.)
        """
        with suppress(FileNotFoundError):
            descriptor = self._open(0)
            try:
                self._refuse_borrowed(descriptor)
                self._lock(descriptor, fcntl.LOCK_SH)
            finally:
                os.close(descriptor)

    def _acquire(self) -> None:
        for _ in range(_TRIES):
            descriptor = self._open(os.O_CREAT)
            try:
                self._refuse_borrowed(descriptor)
                if os.fstat(descriptor).st_mode & 0o077:  # copied, or restored: whoever can read a file can lock it
                    with suppress(OSError):
                        os.fchmod(descriptor, 0o600)
                self._lock(descriptor, fcntl.LOCK_EX)
                ours = self._has_the_name(descriptor)
                if ours:
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{os.getpid()} {self._what}\n".encode(), 0)
            except BaseException:
                os.close(descriptor)
                raise
            if ours:
                self._hold(descriptor)
                return
            os.close(descriptor)
        raise Locked(self.path, IN_TURNS)

    def _hold(self, descriptor: int) -> None:
        self._descriptor = descriptor
        if self._directory is not None:  # its owner closes it
            self._directory = os.dup(self._directory)
        _held.add(self)

    def _open(self, flags: int) -> int:
        return os.open(self._name(), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o600, dir_fd=self._directory)

    def _name(self) -> Path | str:
        return self.path if self._directory is None else self.path.name

    def _has_the_name(self, descriptor: int) -> bool:
        """Whether this open file is the one that the next process will find.

        Where no holder removes it, numbers may be made up at each look (FUSE): there a name that is there will do.
        """
        try:
            named = os.stat(self._name(), dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(descriptor)) or not self._removable()

    def _removable(self) -> bool:
        try:
            return mount_of(self.path.parent).kind in _REMOVABLE
        except OSError:
            return False

    def _refuse_borrowed(self, descriptor: int) -> None:
        """Its text is written over: a second name of some other file, put here, would empty that one."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:  # with none, it was removed this moment
            raise OSError(errno.EMLINK, "it is a second name of another file, or no file at all", str(self.path))

    def _lock(self, descriptor: int, how: int) -> None:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(self.path, _holder(descriptor)) from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise NoLocks(error.errno, error.strerror, str(self.path)) from None
            raise

    def release(self) -> None:
        """Give the lock up, and remove the file where that is safe; nothing happens when it is not held."""
        with deferred():
            if self._descriptor is not None:
                with suppress(OSError):
                    self._leave_nothing(self._descriptor)
                self.forget()

    def _leave_nothing(self, descriptor: int) -> None:
        """While the lock is held: a successor writes its own text, or makes its own file, as soon as it has it."""
        if self._removable() and self._has_the_name(descriptor):
            with suppress(OSError):
                os.unlink(self._name(), dir_fd=self._directory)
                return
        os.ftruncate(descriptor, 0)

    def forget(self) -> None:
        """Close this process's hold on the file; a lock that another process shares stays."""
        descriptor, self._descriptor = self._descriptor, None
        _held.discard(self)
        if descriptor is not None:
            directory, self._directory = self._directory, None
            if directory is not None:
                os.close(directory)
            os.close(descriptor)


def held_by(name: str, directory: int) -> Holder | None:
    """Who holds the lock on that file of an open directory; None when nobody does. It is only read.

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


_UNTIL_NAMED = 0.2
"""Seconds; a holder writes its name as soon as it has the lock."""


def _holder(descriptor: int) -> Holder:
    """Who has written into the file; it may be about to."""
    until = time.monotonic() + _UNTIL_NAMED
    while (holder := Holder.decode(os.pread(descriptor, 200, 0))) is None:
        if time.monotonic() > until:
            return UNNAMED
        time.sleep(0.01)
    return holder


_held: "weakref.WeakSet[FileLock]" = weakref.WeakSet()


def _forget_in_child() -> None:
    """A forked child shares the open file, and with it the lock: left open, the lock would outlive its process.

    (A started program inherits nothing: Python opens every file close-on-exec.)
    """
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_forget_in_child)
