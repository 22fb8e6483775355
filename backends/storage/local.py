"""A directory of a mounted filesystem, by plain system calls.

The path that the user gave may lead through links and is resolved once; below it no link is followed.
Every descriptor is closed on exec (Python opens them so). A place that is slow or gone makes these calls
wait or fail as the kernel does: nothing here retries.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakValueDictionary

from backends.locks import FileLock, NoLocks
from backends.mounts.table import mount_of
from backends.mounts.volumes import disks_of
from backends.storage.base import LOCK, NO_LINKS, WRITE_BIT, Fenced, Lock, ReadHandle, Space, Storage, WriteHandle
from backends.storage.local_files import Reader, Writer

_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600
_SEALED_MODE = 0o400

_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""How filesystems say that they know no fsync of a directory (some FUSE ones: exFAT, NTFS, SMB shares).

They write names at once or whenever they like, and offer nothing better. A failing disk says EIO instead.
"""

_NO_MODES = frozenset({errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""How filesystems without permissions (FAT, exFAT) refuse chmod; there the mount decides who may read."""


MAX_NAMES = 1 << 16
"""Entries of a backup's directory: a log of gigabytes has hundreds."""

MAX_NAMES_BESIDE = 1 << 20
"""Entries of the directory that it lies in, where anything else may be."""


class LocalStorage(Storage):
    """The directory `path`, which need not exist yet; no file in it is ever reached through a link."""

    def __init__(self, path: Path) -> None:
        self._given = path
        # A link that is turned elsewhere later must not move half a backup with it.
        self._path = Path(os.path.realpath(path))
        self._written: WeakValueDictionary[str, Writer] = WeakValueDictionary()

    def describe(self) -> str:
        return str(self._given)

    def about(self) -> list[str]:
        return [mount_of(self._path).describe()]

    def exists(self) -> bool:
        """NotADirectoryError when something else has the directory's name."""
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self._path))
        return True

    def make(self) -> None:
        self._path.mkdir(_DIRECTORY_MODE)
        try:
            with _tolerated(_NO_MODES):
                self._path.chmod(_DIRECTORY_MODE)  # mkdir leaves out what the umask says
            _sync_directory(self._path)
            _sync_directory(self._path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                self._path.rmdir()
            raise

    def unmake(self) -> None:
        """OSError when anything but plain files lies there too; that is left alone, and the directory with it."""
        for name in self.names():
            self.remove(name)
        self._path.rmdir()
        _sync_directory(self._path.parent)

    def names(self) -> list[str]:
        """Hidden names (`.nfs…`, `._…` of other systems), links, directories and the like are left out."""
        with os.scandir(self._path) as entries:
            return sorted(
                entry.name
                for entry in self._not_endless(entries, MAX_NAMES)
                if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False)
            )

    def _not_endless(self, entries: Iterator["os.DirEntry[str]"], most: int) -> Iterator["os.DirEntry[str]"]:
        """The entries. OSError for more than so many: a filesystem may be a stranger's program."""
        for count, entry in enumerate(entries):
            if count == most:
                raise OSError(errno.EFBIG, f"over {most} names in one directory, more than any backup has", self._given)
            yield entry

    def open(self, name: str) -> ReadHandle:
        path = self._file(name)
        # Without O_NONBLOCK a FIFO of that name would hang this call until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(path))
        except BaseException:
            os.close(descriptor)
            raise
        return Reader(descriptor)

    def create(self, name: str) -> WriteHandle:
        path = self._file(name)
        path.unlink(missing_ok=True)
        with contextlib.ExitStack() as undo:
            writing = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _FILE_MODE)
            undo.callback(os.close, writing)
            with _tolerated(_NO_MODES):
                os.fchmod(writing, _FILE_MODE)  # open leaves out what the umask says
            extending = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)  # now: the name will change
            undo.callback(os.close, extending)
            if not os.path.samestat(os.fstat(writing), os.fstat(extending)):
                raise Fenced(name)  # somebody has put another file in its place
            undo.pop_all()
        writer = self._written[name] = Writer(writing, extending, name)
        return writer

    def rename(self, old: str, new: str) -> None:
        self._file(old).replace(self._file(new))

    def rename_new(self, old: str, new: str) -> None:
        here, there = self._file(old), self._file(new)
        try:
            os.link(here, there, follow_symlinks=False)
        except FileExistsError:
            if not _is_same_file(here, there):  # a share whose answer was lost had made the link already
                raise
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            self.rename_unless_there(old, new)
            return
        writer = self._written.pop(old, None)
        if writer is not None:
            writer.follow(there)
        here.unlink(missing_ok=True)  # a writer that has taken over may have tidied it up

    def rename_unless_there(self, old: str, new: str) -> None:
        """The same where there are no hard links: in two steps."""
        here, there = self._file(old), self._file(new)
        here.lstat()  # FileNotFoundError for that one goes first
        with contextlib.suppress(FileNotFoundError):
            there.lstat()
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
        here.replace(there)

    def remove(self, name: str) -> None:
        self._file(name).unlink()

    def seal(self, name: str) -> bool:
        descriptor = os.open(self._file(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            with _tolerated(_NO_MODES):
                os.fchmod(descriptor, _SEALED_MODE)
            return not os.fstat(descriptor).st_mode & WRITE_BIT
        finally:
            os.close(descriptor)

    def lock(self, what: str) -> Lock | None:
        lock = FileLock(self._file(LOCK), what)
        try:
            lock.acquire()
        except NoLocks:
            return None
        return lock

    def sync_names(self) -> None:
        """Does nothing on a filesystem that knows no fsync of a directory."""
        _sync_directory(self._path)

    def space(self) -> Space:
        status = os.statvfs(self._path)
        return Space(free=status.f_bavail * status.f_frsize, total=status.f_blocks * status.f_frsize)

    def shares_disk_with(self, path: Path) -> bool:
        """Partitions, logical volumes and btrfs subvolumes are filesystems of their own, and not disks."""
        here = self._path if self._path.exists() else self._path.parent
        return here.stat().st_dev == path.stat().st_dev or bool(disks_of(here) & disks_of(path))

    def unwritable(self) -> str | None:
        if os.statvfs(self._path).f_flag & os.ST_RDONLY:
            return (
                f"{mount_of(self._path).describe()} is mounted read-only. Mount it writable; if it was, the kernel has "
                "found errors on it (dmesg shows them), and another disk is due"
            )
        if not os.access(self._path, os.W_OK | os.X_OK):
            return f"{self._path} may not be written by this user. Give it to the one that lightningd runs as (chown)"
        return None

    def directories_with(self, name: str) -> list[str]:
        """Links, hidden directories and those that may not be looked into are left out."""
        plain_name(name)
        with os.scandir(self._path) as entries:
            return sorted(entry.name for entry in self._not_endless(entries, MAX_NAMES_BESIDE) if _holds(entry, name))

    def _file(self, name: str) -> Path:
        return self._path / plain_name(name)


def plain_name(name: str) -> str:
    """The name itself. ValueError for one that no backup gives to a file: it might lead out of the directory."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is no name of a file in a backup")
    return name


def _holds(entry: os.DirEntry[str], name: str) -> bool:
    if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
        return False
    try:
        return stat.S_ISREG(Path(entry.path, name).lstat().st_mode)
    except (FileNotFoundError, PermissionError):  # the latter: `lost+found` of a stick
        return False


def _is_same_file(here: Path, there: Path) -> bool:
    try:
        return os.path.samestat(here.lstat(), there.lstat())
    except FileNotFoundError:
        return False


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with _tolerated(_NO_DIRECTORY_SYNC):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _tolerated(numbers: frozenset[int]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise
