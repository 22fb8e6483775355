"""The file operations that a backup needs from the place that holds it.

The record log uses these operations and nothing else. So a new kind of storage, or a test storage that loses whatever
was not synced, is one class.

Durability is that of POSIX: file contents are durable after `sync`; a created, renamed or removed name is durable after
`sync_names`. Every method raises OSError (with errno) when the storage fails.
"""

import errno
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from backends.holder import Holder

_BLOCK = 1 << 18

NO_LINKS = frozenset(
    {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
)
"""The errors with which storage without hard links (FAT, exFAT, some shares and servers) refuses to make one."""

WRITE_BIT = 0o200
"""The owner's write permission in a file's mode. `Storage.seal` removes it."""

LOCK = "lock"
"""The file in a backup that is locked, so that only one process of this machine writes the backup."""


def is_full(error: OSError) -> bool:
    """Whether there was no space for what was to be written, or a quota was used up: it was certainly not written."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class FileFenced(OSError):
    """Another writer has taken this file over: its write bit (see `Storage.seal`) or its last name was removed."""

    def __init__(self, name: str) -> None:
        super().__init__(errno.EPERM, "another writer has taken this backup over", name)


class Lock(Protocol):
    """A lock; it is held until `release` is called or the process ends."""

    def release(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes on the filesystem that holds the backup. A place that cannot tell says UNKNOWN_SPACE."""

    free: int
    total: int

    @property
    def is_known(self) -> bool:
        """Whether these are numbers to show to people. No filesystem that can tell its size has an exbibyte."""
        return self.total < UNKNOWN_SPACE.total


UNKNOWN_SPACE = Space(1 << 60, 1 << 60)
"""The space at a place that has no size of its own, such as a bucket: whatever a backup needs fits there."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A file or directory that belongs to another user and that this user may not read.

    `uid` and `gid` are its owner and group, None when unknown.
    """

    name: str
    uid: int | None
    gid: int | None


class ReadHandle(ABC):
    """A file that is open for reading. It stays readable after its name is replaced or removed."""

    survives_fork = False
    """Whether a forked process may read it, too, while this one goes on: not where a connection is behind it."""

    @abstractmethod
    def size(self) -> int:
        """The current size of the file in bytes."""

    @abstractmethod
    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`; fewer only at the end of the file."""

    def drop_cached(self, offset: int, end: int) -> None:  # noqa: B027 (most storage keeps nothing in memory)
        """These bytes will not be read again soon: this machine's memory for them can be used for others."""

    def blocks(self, offset: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `offset` to `end` in blocks of bounded size. Raises OSError if the file ends earlier."""
        while offset < end:
            block = self.read(offset, min(_BLOCK, end - offset))
            if not block:
                raise OSError(errno.EIO, f"the file ends at byte {offset}, but a moment ago it reached byte {end}")
            yield block
            offset += len(block)

    @abstractmethod
    def close(self) -> None: ...


class WriteHandle(ABC):
    """A file that is open for writing. Only the backup's one writer has such a handle."""

    safe_to: int | None = None
    """Up to which byte the file may be written; None means no limit.

    Set when a connection broke while zeros were preallocated: they may still arrive, and would overwrite what was
    written there meanwhile.
    """

    @abstractmethod
    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`. It is not durable before `sync`."""

    @abstractmethod
    def write_durably(self, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`; it is durable when this returns. A commit is this one operation.

        Raises FileFenced if, after the sync, the file turns out to belong to another writer: it was sealed, or its last
        name was removed. That writer may have read the file before this data was in it. Storage that cannot seal files
        (see `Storage.seal`) need not check.
        """

    def is_fenced(self) -> bool:
        """Whether `write_durably` would raise FileFenced. Nothing is written."""
        return False

    @abstractmethod
    def extend(self, offset: int, length: int) -> None:
        """Append `length` zeros at `offset` (the end of the file), durable when this returns.

        May run in another thread during `write_durably`, and a failure here must not hide a failure there: the kernel
        reports a lost write only once per open file. So a file of a mounted filesystem is extended through a descriptor
        of its own.
        """

    @abstractmethod
    def sync(self) -> None:
        """Make everything written until now durable, including the file's size."""

    def write_out(self, offset: int, length: int) -> bool:
        """Bring these bytes, which were written, from this machine's memory to the disk, without making them durable.

        A later `sync`, of this file or another, then has less to do. Returns False where only `sync` can do that.
        """
        return False

    @abstractmethod
    def truncate(self, size: int) -> None: ...

    def tidy(self) -> None:  # noqa: B027 (most storage has nothing to tidy)
        """Maintain what is stored. Called from time to time, not in the thread that writes, which never waits for it.

        Returns soon: what takes long is done in a thread of the storage's own. Raises OSError if that has failed since
        the last call; nothing is lost then.
        """

    def finish(self) -> None:  # noqa: B027
        """No more will be written to this file: storage that keeps each durable write by itself may now store it more
        compactly.

        Best effort: a failed or killed call leaves the file whole. Returns soon, as `tidy` does. Raises OSError.
        """

    @abstractmethod
    def close(self) -> None: ...


class Storage(ABC):
    """One flat directory of files."""

    @abstractmethod
    def describe(self) -> str:
        """Name the place so that a person can find it, e.g. by its path."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether the directory exists."""

    @abstractmethod
    def make(self) -> None:
        """Create the directory (mode 0700) in its existing parent, durably. Raises FileExistsError if it exists."""

    @abstractmethod
    def unmake(self) -> None:
        """Remove the directory and every file in it: the clean-up after creating a backup failed halfway."""

    @abstractmethod
    def names(self) -> list[str]:
        """The names of all files in the directory, sorted."""

    @abstractmethod
    def open(self, name: str) -> ReadHandle:
        """Open a file for reading; no link is followed.

        Raises FileNotFoundError if there is no such file, OSError if it is not a regular file.
        """

    @abstractmethod
    def create(self, name: str) -> WriteHandle:
        """Create an empty file with mode 0600. An existing file of that name is removed first."""

    @abstractmethod
    def rename(self, old: str, new: str) -> None:
        """Rename a file, replacing `new` if it exists. Durable after `sync_names`."""

    @abstractmethod
    def rename_new(self, old: str, new: str) -> None:
        """Rename a file to a name that no file has. Raises FileExistsError if one has it; then nothing was changed.

        Checking first would not do: another writer may check and then be delayed for any length of time. So the storage
        itself must refuse an existing name, atomically. (Only where there are no hard links is the name checked first,
        and the file renamed immediately afterwards.) A handle of the file remains usable. Raises FileFenced if another
        writer takes the file over at this moment. Durable after `sync_names`; a crash before that may leave both names.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file. Raises FileNotFoundError if there is none. Durable after `sync_names`."""

    def seal(self, name: str) -> bool:
        """Remove a file's write bit, so that another writer's next `write_durably` to it raises FileFenced.

        Returns whether the storage has recorded that; if False, the other writer will not notice. Raises
        FileNotFoundError if there is no such file.
        """
        return False

    def stop_late_changes(self) -> None:  # noqa: B027 (elsewhere, nothing comes late)
        """Make sure that no change of a name that an earlier writer asked for is still carried out.

        A server may hold up a request for any length of time. Called at a take-over, before the files are sealed.
        """

    def lock(self, what: str) -> Lock | None:
        """Lock the backup against the other processes of this machine, including those in containers.

        `what` is what this process calls itself (see `Holder`); processes that are kept out show it to their users.
        Returns None where the storage has no locks. Raises `backends.system.locks.Locked` if another process holds the
        lock.
        """
        return None

    def locked_by(self) -> Holder | None:
        """Who holds the lock of `lock` now; None if nobody is known to. Takes no lock and changes nothing.

        Raises OSError.
        """
        return None

    def check_lock(self) -> None:  # noqa: B027 (storage without locks has nothing to check)
        """Raise what `lock` would raise if another process holds the lock. Creates, changes and holds nothing."""

    @property
    def costly(self) -> bool:
        """Whether each request is paid for or goes far: whoever only looks whether something has changed looks rarely.

        Only for storage in which `seal` stops another writer for certain.
        """
        return False

    def is_level(self) -> bool:
        """Whether all copies of a file are equal, as they always are where there is only one.

        In storage made of several, they may differ until `after_take_over` returns.
        """
        return True

    def after_take_over(self, names: Sequence[str]) -> Sequence[str]:
        """Called once the previous writer has been fenced, before the log is read again and appended to.

        `names` are those of all files; returns them as they are then. Storage made of several makes them equal here.
        """
        return names

    @abstractmethod
    def sync_names(self) -> None:
        """Make every creation, rename and removal until now durable."""

    @abstractmethod
    def space(self) -> Space: ...

    def shares_disk_with(self, path: Path) -> bool:
        """Whether the failure of one disk of this machine may destroy both this directory and `path`."""
        return False

    @property
    def reads_while_written(self) -> bool:
        """Whether a file that is being written can be read through another handle, as far as it was synced."""
        return False

    @property
    def is_mounted(self) -> bool:
        """Whether it is reached through a mount of this machine, so that a missing backup may mean a missing mount."""
        return False

    def why_unwritable(self) -> str | None:
        """Why this user cannot write here; None if no reason is known. Nothing is written."""
        return None

    def about(self) -> list[str]:
        """Describe this storage in short lines, e.g. its filesystem and where that is mounted."""
        return []

    def closed(self) -> list[Closed]:
        """What this user may not read: this directory or one above it; otherwise entries of this directory, sorted.

        Raises OSError.
        """
        return []

    def directories_with(self, name: str) -> list[str]:
        """The names of the subdirectories that contain a file called `name`, sorted."""
        return []

    def read_small(self, name: str, limit: int = 1 << 20) -> bytes:
        """The whole content of a small file.

        Raises OSError if it has more than `limit` bytes; no such file that the writer makes is that large.
        """
        with closing(self.open(name)) as handle:
            if handle.size() > limit:
                raise OSError(errno.EFBIG, f"{name} has {handle.size()} bytes, too many for a real {name}")
            return handle.read(0, limit)

    def temporary(self, name: str) -> str:
        """The name of a file that is renamed to `name` once it is complete.

        No other writer uses this name: if two wrote `name.tmp` at once, one would publish the other's incomplete file.
        """
        token: str = self.__dict__.setdefault("_token", secrets.token_hex(4))
        return f"{name}-{token}{TEMPORARY}"

    def publish(self, name: str, data: bytes) -> None:
        """Write a whole file durably. It appears under its name complete or not at all."""
        temporary = self.temporary(name)
        with closing(self.create(temporary)) as handle:
            handle.write(0, data)
            handle.sync()
        self.rename(temporary, name)
        self.sync_names()


TEMPORARY = ".tmp"
"""The suffix of a file that is not complete yet. One that a crash left behind has no meaning."""
