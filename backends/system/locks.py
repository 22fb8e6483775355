"""A file lock that ends with its process: flock. The file means nothing without the lock.

The lock is in the kernel, not in the file: a file left over from a crash never blocks anybody. Unlike a process number,
the lock also works between containers and PID namespaces. The file's text only tells a person who the holder is.

The holder removes the file when it releases the lock, so that no empty file puzzles anybody. Two rules make that safe:
only the holder of the lock on a file removes the file's name, and a process that has got a lock checks that its file
still has the name, and tries again if not. (It may have opened the file just before the holder removed it: its lock
would then be on a file that nobody can find, and the next process would get another lock on a new file.) Both rules
require that a name means the same file to every process at any time. Network shares and FUSE do not guarantee that, so
there the file is kept.
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
"""The errors of filesystems without locks (some FUSE ones, and shares that are mounted without locks)."""

_REMOVABLE = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs", "jfs", "tmpfs", "overlay"})
"""Local filesystems, which never report an outdated name or inode number. Only there is the lock file removed."""

_TRIES = 1000
"""How many holders may come and go while this process tries to get the lock, before it gives up."""


class Locked(OSError):
    """Another process holds the lock; `holder` says which one."""

    def __init__(self, path: Path, holder: Holder) -> None:
        super().__init__(errno.EWOULDBLOCK, f"locked by {holder}", str(path))
        self.holder = holder


class NoLocks(OSError):
    """The filesystem has no locks."""


class FileLock:
    """A lock on the file `path` (mode 0600, created if missing), from `acquire` to `release` or the process's end.

    `what` is what this process calls itself (see `Holder`); it is written into the file for those who find it locked.
    """

    def __init__(self, path: Path, what: str, directory: int | None = None) -> None:
        """`directory` is an open descriptor of the directory of `path`; it must stay open in `acquire` and `look`."""
        self.path, self._what, self._directory = path, what, directory
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, without waiting for another process that holds it.

        Raises Locked, NoLocks, or OSError if the file cannot be opened.
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
        """Raise what `acquire` would raise, but create, write and hold nothing. A missing file is not locked.

        (During this call other processes may find the lock taken.)
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
                if os.fstat(descriptor).st_mode & 0o077:  # copied or restored: users who can read a file can lock it
                    with suppress(OSError):
                        os.fchmod(descriptor, 0o600)
                self._lock(descriptor, fcntl.LOCK_EX)
                ours = self._has_the_name(descriptor)
                if ours:
                    self._name_the_holder(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            if ours:
                self._hold(descriptor)
                return
            os.close(descriptor)
        raise Locked(self.path, IN_TURNS)

    def _name_the_holder(self, descriptor: int) -> None:
        """Write for others who holds the lock. On a full disk it is held all the same, by a process without a name."""
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {self._what}\n".encode(), 0)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                error.filename = str(self.path)
                raise

    def _hold(self, descriptor: int) -> None:
        self._descriptor = descriptor
        if self._directory is not None:  # the caller closes its own descriptor
            self._directory = os.dup(self._directory)
        _held.add(self)

    def _open(self, flags: int) -> int:
        return os.open(self._name(), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o600, dir_fd=self._directory)

    def _name(self) -> Path | str:
        return self.path if self._directory is None else self.path.name

    def _has_the_name(self, descriptor: int) -> bool:
        """Whether this open file is the one that the next process will find under the name.

        On filesystems where the lock file is kept, inode numbers may change from one call to the next (FUSE): there it
        is enough that the name exists.
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
        """Raise OSError if the name is a hard link to another file, which writing the lock's text would destroy."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:  # with 0 links, it has just been removed
            raise OSError(errno.EMLINK, "it is a second name of another file, or not a regular file", str(self.path))

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
        """Release the lock, and remove the file where that is safe. Does nothing if the lock is not held."""
        with deferred():
            if self._descriptor is not None:
                with suppress(OSError):
                    self._leave_nothing(self._descriptor)
                self.forget()

    def _leave_nothing(self, descriptor: int) -> None:
        """Remove or empty the file. The lock must still be held: the next holder writes its own text into the file."""
        if self._removable() and self._has_the_name(descriptor):
            with suppress(OSError):
                os.unlink(self._name(), dir_fd=self._directory)
                return
        os.ftruncate(descriptor, 0)

    def forget(self) -> None:
        """Close this process's descriptors of the file. A lock that is shared with a forked process remains."""
        descriptor, self._descriptor = self._descriptor, None
        _held.discard(self)
        if descriptor is not None:
            directory, self._directory = self._directory, None
            if directory is not None:
                os.close(directory)
            os.close(descriptor)


def held_by(name: str, directory: int) -> Holder | None:
    """Who holds the lock on the file `name` of an open directory; None if nobody does. The file is only read.

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
"""Seconds to wait for the holder's name in a locked file; a holder writes it as soon as it has the lock."""


def _holder(descriptor: int) -> Holder:
    """The holder that the file names. Waits briefly for a holder that has not written its name yet."""
    until = time.monotonic() + _UNTIL_NAMED
    while (holder := Holder.decode(os.pread(descriptor, 200, 0))) is None:
        if time.monotonic() > until:
            return UNNAMED
        time.sleep(0.01)
    return holder


_held: "weakref.WeakSet[FileLock]" = weakref.WeakSet()


def _forget_in_child() -> None:
    """Close all held locks in a forked child.

    The child shares the open file and so the lock: if left open, the lock would outlive the process that took it. (A
    program that is executed inherits nothing: Python opens every file close-on-exec.)
    """
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_forget_in_child)
