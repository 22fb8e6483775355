"""A directory of a mounted filesystem, used through plain system calls.

The user's path may contain links; it is resolved once, and after that no link is followed. Every descriptor is closed
on exec (Python's default). If the filesystem is slow or gone, these calls wait or fail as the kernel decides: nothing
here retries.
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
from backends.storage.local_files import LocalReadHandle, LocalWriteHandle
from backends.system.giving_back import give_back_beside, open_large
from backends.system.locks import FileLock, NoLocks, held_by

_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600
_SEALED_MODE = 0o400

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY

_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""The errors with which filesystems refuse to fsync a directory (some FUSE ones: exFAT, NTFS, SMB shares).

They write names immediately or whenever they like, and offer nothing better. A failing disk gives EIO instead.
"""

_NO_MODES = frozenset({errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""The errors with which filesystems without permissions (FAT, exFAT) refuse chmod; there the mount decides who may
read."""


MAX_NAMES = 1 << 16
"""The most entries accepted in a backup's directory. A log of gigabytes has hundreds."""

MAX_NAMES_BESIDE = 1 << 20
"""The most entries accepted in the directory that contains backups; it may contain anything else, too."""


class LocalStorage(Storage):
    """The directory `path`, which need not exist yet. No file in it is ever opened through a link."""

    def __init__(self, path: Path) -> None:
        self._given = path
        # If a link on the way is changed later, half of the backup must not end up elsewhere.
        self._path = Path(os.path.realpath(path))
        self._written: WeakValueDictionary[str, LocalWriteHandle] = WeakValueDictionary()

    def describe(self) -> str:
        return str(self._given)

    @property
    def reads_while_written(self) -> bool:
        return True

    @property
    def is_mounted(self) -> bool:
        return True

    def about(self) -> list[str]:
        return [mount_of(self._path).describe()]

    def exists(self) -> bool:
        """Whether the directory exists. Raises NotADirectoryError if something else has its name."""
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
                    _set_mode(self._path.name, _DIRECTORY_MODE, parent)  # mkdir applies the umask
                self.sync_names()
                _sync_directory(parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.rmdir(self._path.name, dir_fd=parent)
                raise

    def unmake(self) -> None:
        """Remove the directory and its files. Raises OSError, and keeps the directory, if anything else is in it."""
        for name in self.names():
            self.remove(name)
        with self._at(above=True) as parent:
            os.rmdir(self._path.name, dir_fd=parent)
            _sync_directory(parent)

    def names(self) -> list[str]:
        """The names of all regular files, sorted, without hidden names (`.nfs...`, and `._...` of other systems)."""
        with self._listed() as entries:
            return sorted(
                entry.name
                for entry in self._not_endless(entries, MAX_NAMES)
                if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False)
            )

    def _not_endless(self, entries: Iterator["os.DirEntry[str]"], most: int) -> Iterator["os.DirEntry[str]"]:
        """Yield the entries; OSError for more than `most`. A FUSE filesystem is a program and may list them forever."""
        for count, entry in enumerate(entries):
            if count == most:
                raise OSError(errno.EFBIG, f"over {most} names in one directory, more than any backup has", self._given)
            yield entry

    def open(self, name: str) -> ReadHandle:
        with self._at(name) as directory:
            # Without O_NONBLOCK, a FIFO of that name would block this call until somebody writes to it.
            descriptor = os.open(name, os.O_RDONLY | _PLAIN, dir_fd=directory)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(self._path / name))
        except BaseException:
            os.close(descriptor)
            raise
        return LocalReadHandle(descriptor)

    def create(self, name: str) -> WriteHandle:
        with self._at(name) as directory, contextlib.ExitStack() as undo:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
            writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _FILE_MODE, dir_fd=directory)
            undo.callback(os.close, writing)
            with _tolerated(_NO_MODES):
                os.fchmod(writing, _FILE_MODE)  # open applies the umask
            extending = os.open(name, os.O_WRONLY | _PLAIN, dir_fd=directory)  # now, because the name will change
            undo.callback(os.close, extending)
            if not os.path.samestat(os.fstat(writing), os.fstat(extending)):
                raise FileFenced(name)  # another writer has put its own file in this place
            undo.pop_all()
        writer = self._written[name] = LocalWriteHandle(writing, extending, name)
        return writer

    def reopen(self, name: str) -> int:
        """A new descriptor for writing to an existing file. The caller closes it."""
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
                # A network share may have made the link although its answer was lost.
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
            with contextlib.suppress(FileNotFoundError):  # a writer that took over may have removed it
                os.unlink(old, dir_fd=directory)

    def rename_unless_there(self, old: str, new: str) -> None:
        """Do what `rename_new` does, but where there are no hard links: in two steps, not atomically."""
        with self._at(old, new) as directory:
            os.stat(old, dir_fd=directory, follow_symlinks=False)  # a missing `old` is reported first
            with contextlib.suppress(FileNotFoundError):
                os.stat(new, dir_fd=directory, follow_symlinks=False)
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
            os.replace(old, new, src_dir_fd=directory, dst_dir_fd=directory)

    def remove(self, name: str) -> None:
        """Remove a file. The space of a large one is freed in the background within the following seconds."""
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
        """Sync the directory. Does nothing on a filesystem that has no fsync for directories."""
        with self._at() as directory:
            _sync_directory(directory)

    def space(self) -> Space:
        status = os.statvfs(self._path)
        return Space(free=status.f_bavail * status.f_frsize, total=status.f_blocks * status.f_frsize)

    def shares_disk_with(self, path: Path) -> bool:
        """Compare disks, not filesystems: partitions, logical volumes and btrfs subvolumes may share one disk."""
        here = self._path if self._path.exists() else self._path.parent
        return here.stat().st_dev == path.stat().st_dev or bool(disks_of(here) & disks_of(path))

    def why_unwritable(self) -> str | None:
        if os.statvfs(self._path).f_flag & os.ST_RDONLY:
            return (
                f"{mount_of(self._path).describe()} is mounted read-only. Mount it writable; if it was, the kernel has "
                "found errors on it (dmesg shows them), and you need another disk"
            )
        if not os.access(self._path, os.W_OK | os.X_OK):
            return f"{self._path} may not be written by this user. It must belong to the user that lightningd runs as"
        return None

    def closed(self) -> list[Closed]:
        on_the_way = closed_on_the_way(self._path)
        return [on_the_way] if on_the_way is not None else closed_inside(self._path)

    def directories_with(self, name: str) -> list[str]:
        """The subdirectories that contain a file called `name`, sorted.

        Links, hidden directories and directories that this user may not enter are left out.
        """
        plain_name(name)
        with self._at() as directory, self._listed() as entries:
            few = self._not_endless(entries, MAX_NAMES_BESIDE)
            return sorted(entry.name for entry in few if _holds(entry, name, directory))

    @contextlib.contextmanager
    def _at(self, *names: str, above: bool = False) -> Iterator[int]:
        """A descriptor of the directory (or of its parent), held open while the block works on `names` in it.

        The path was resolved in `__init__`, so no part of it was a link; if one is now, somebody has put it there, and
        it is not followed. The file names in every OSError of the block are replaced by whole paths.
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
    """Return `name`. Raises ValueError for a name that no file of a backup has: it might lead out of the directory."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a possible name of a file in a backup")
    return name


def _opened(path: Path) -> int:
    """Open a directory by a path without links. Raises OSError if a part of the path is a link; none is followed."""
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
    except (FileNotFoundError, PermissionError):  # PermissionError: `lost+found` of a stick
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
    """Set the mode of a new directory. O_PATH can open it even if the umask took away its owner's read permission."""
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
