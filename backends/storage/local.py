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

from backends.holder import Holder
from backends.mounts.table import mount_of
from backends.mounts.volumes import disks_of
from backends.storage.base import (
    LOCK,
    NO_LINKS,
    WRITE_BIT,
    Closed,
    FileFenced,
    Lock,
    ReadHandle,
    Space,
    Storage,
    WriteHandle,
)
from backends.storage.closed import closed_inside, closed_on_the_way
from backends.storage.local_files import Reader, Writer
from backends.system.giving_back import give_back_beside, open_large
from backends.system.locks import FileLock, NoLocks, held_by

_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600
_SEALED_MODE = 0o400

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY

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
        with self._at(above=True) as parent:
            os.mkdir(self._path.name, _DIRECTORY_MODE, dir_fd=parent)
            try:
                with _tolerated(_NO_MODES):
                    _set_mode(self._path.name, _DIRECTORY_MODE, parent)  # mkdir leaves out what the umask says
                self.sync_names()
                _sync_directory(parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.rmdir(self._path.name, dir_fd=parent)
                raise

    def unmake(self) -> None:
        """OSError when anything but plain files lies there too; that is left alone, and the directory with it."""
        for name in self.names():
            self.remove(name)
        with self._at(above=True) as parent:
            os.rmdir(self._path.name, dir_fd=parent)
            _sync_directory(parent)

    def names(self) -> list[str]:
        """Hidden names (`.nfs…`, `._…` of other systems), links, directories and the like are left out."""
        with self._listed() as entries:
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
        with self._at(name) as directory:
            # Without O_NONBLOCK a FIFO of that name would hang this call until somebody writes to it.
            descriptor = os.open(name, os.O_RDONLY | _PLAIN, dir_fd=directory)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(self._path / name))
        except BaseException:
            os.close(descriptor)
            raise
        return Reader(descriptor)

    def create(self, name: str) -> WriteHandle:
        with self._at(name) as directory, contextlib.ExitStack() as undo:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
            writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _FILE_MODE, dir_fd=directory)
            undo.callback(os.close, writing)
            with _tolerated(_NO_MODES):
                os.fchmod(writing, _FILE_MODE)  # open leaves out what the umask says
            extending = os.open(name, os.O_WRONLY | _PLAIN, dir_fd=directory)  # now: the name will change
            undo.callback(os.close, extending)
            if not os.path.samestat(os.fstat(writing), os.fstat(extending)):
                raise FileFenced(name)  # somebody has put another file in its place
            undo.pop_all()
        writer = self._written[name] = Writer(writing, extending, name)
        return writer

    def reopen(self, name: str) -> int:
        """A descriptor to write to an existing file by, which the caller closes."""
        with self._at(name) as directory:
            return os.open(name, os.O_WRONLY | _PLAIN, dir_fd=directory)

    def rename(self, old: str, new: str) -> None:
        with self._at(old, new) as directory:
            os.replace(old, new, src_dir_fd=directory, dst_dir_fd=directory)

    def rename_new(self, old: str, new: str) -> None:
        with self._at(old, new) as directory:
            try:
                os.link(old, new, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
            except FileExistsError:
                # A share whose answer was lost had made the link already.
                if not _is_same_file(old, new, directory):
                    raise
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                self.rename_unless_there(old, new)
                return
            writer = self._written.pop(old, None)
            if writer is not None:
                writer.follow(new, directory)
            with contextlib.suppress(FileNotFoundError):  # a writer that has taken over may have tidied it up
                os.unlink(old, dir_fd=directory)

    def rename_unless_there(self, old: str, new: str) -> None:
        """The same where there are no hard links: in two steps."""
        with self._at(old, new) as directory:
            os.stat(old, dir_fd=directory, follow_symlinks=False)  # FileNotFoundError for that one goes first
            with contextlib.suppress(FileNotFoundError):
                os.stat(new, dir_fd=directory, follow_symlinks=False)
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
            os.replace(old, new, src_dir_fd=directory, dst_dir_fd=directory)

    def remove(self, name: str) -> None:
        """The room that a large file takes comes back in the seconds after, beside whatever else is done."""
        with self._at(name) as directory:
            large = open_large(name, directory)
            try:
                os.unlink(name, dir_fd=directory)
            finally:
                if large is not None:
                    give_back_beside(large)

    def seal(self, name: str) -> bool:
        with self._at(name) as directory:
            descriptor = os.open(name, os.O_RDONLY | _PLAIN, dir_fd=directory)
        try:
            with _tolerated(_NO_MODES):
                os.fchmod(descriptor, _SEALED_MODE)
            return not os.fstat(descriptor).st_mode & WRITE_BIT
        finally:
            os.close(descriptor)

    def lock(self, what: str) -> Lock | None:
        with self._at(LOCK) as directory:
            lock = FileLock(self._path / LOCK, what, directory)
            try:
                lock.acquire()
            except NoLocks:
                return None
        return lock

    def locked_by(self) -> Holder | None:
        with self._at(LOCK) as directory:
            return held_by(LOCK, directory)

    def check_lock(self) -> None:
        with self._at(LOCK) as directory, contextlib.suppress(NoLocks):
            FileLock(self._path / LOCK, "", directory).look()

    def sync_names(self) -> None:
        """Does nothing on a filesystem that knows no fsync of a directory."""
        with self._at() as directory:
            _sync_directory(directory)

    def space(self) -> Space:
        status = os.statvfs(self._path)
        return Space(free=status.f_bavail * status.f_frsize, total=status.f_blocks * status.f_frsize)

    def shares_disk_with(self, path: Path) -> bool:
        """Partitions, logical volumes and btrfs subvolumes are filesystems of their own, and not disks."""
        here = self._path if self._path.exists() else self._path.parent
        return here.stat().st_dev == path.stat().st_dev or bool(disks_of(here) & disks_of(path))

    def why_unwritable(self) -> str | None:
        if os.statvfs(self._path).f_flag & os.ST_RDONLY:
            return (
                f"{mount_of(self._path).describe()} is mounted read-only. Mount it writable; if it was, the kernel has "
                "found errors on it (dmesg shows them), and another disk is due"
            )
        if not os.access(self._path, os.W_OK | os.X_OK):
            return f"{self._path} may not be written by this user. It must belong to the one that lightningd runs as"
        return None

    def closed(self) -> list[Closed]:
        on_the_way = closed_on_the_way(self._path)
        return [on_the_way] if on_the_way is not None else closed_inside(self._path)

    def directories_with(self, name: str) -> list[str]:
        """Links, hidden directories and those that may not be looked into are left out."""
        plain_name(name)
        with self._at() as directory, self._listed() as entries:
            few = self._not_endless(entries, MAX_NAMES_BESIDE)
            return sorted(entry.name for entry in few if _holds(entry, name, directory))

    @contextlib.contextmanager
    def _at(self, *names: str, above: bool = False) -> Iterator[int]:
        """The directory (or the one above it), held open while something is done with `names` in it.

        Its path was resolved before, so no link is on the way; if one is now, somebody has put it there, and it is not
        followed. Every OSError names a file by its whole path.
        """
        for name in names:
            plain_name(name)
        path = self._path.parent if above else self._path
        directory = _opened(path)
        try:
            yield directory
        except OSError as error:
            for field in ("filename", "filename2"):
                if isinstance(getattr(error, field), str):
                    setattr(error, field, str(path / getattr(error, field)))
            raise
        finally:
            os.close(directory)

    @contextlib.contextmanager
    def _listed(self) -> Iterator["Iterator[os.DirEntry[str]]"]:
        with self._at() as directory:
            reading = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
            try:
                with os.scandir(reading) as entries:
                    yield entries
            finally:
                os.close(reading)


def plain_name(name: str) -> str:
    """The name itself. ValueError for one that no backup gives to a file: it might lead out of the directory."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is no name of a file in a backup")
    return name


def _opened(path: Path) -> int:
    """A directory by its path without links: where one has been put, OSError, and it leads nowhere."""
    descriptor = os.open("/", _DIRECTORY)
    for name in path.parts[1:]:
        above = descriptor
        try:
            descriptor = os.open(name, _DIRECTORY, dir_fd=above)
        except OSError as error:
            error.filename = str(path)
            raise
        finally:
            os.close(above)
    return descriptor


def _holds(entry: os.DirEntry[str], name: str, directory: int) -> bool:
    if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
        return False
    try:
        return stat.S_ISREG(os.stat(f"{entry.name}/{name}", dir_fd=directory, follow_symlinks=False).st_mode)
    except (FileNotFoundError, PermissionError):  # the latter: `lost+found` of a stick
        return False


def _is_same_file(one: str, other: str, directory: int) -> bool:
    try:
        return os.path.samestat(
            os.stat(one, dir_fd=directory, follow_symlinks=False),
            os.stat(other, dir_fd=directory, follow_symlinks=False),
        )
    except FileNotFoundError:
        return False


def _set_mode(name: str, mode: int, above: int) -> None:
    """Of a directory just made. O_PATH also opens one that a umask lets nobody read, its owner included."""
    descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        Path(f"/proc/self/fd/{descriptor}").chmod(mode)
    finally:
        os.close(descriptor)


def _sync_directory(directory: int) -> None:
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
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
