"""The few operations on files that a backup needs from where it lies.

Everything above (the record log) is written against this and nothing else, so a new place to keep
files, or a test that loses whatever was not synced, is one class.

Durability, as POSIX has it: file contents are safe after `sync`, a created, renamed or removed name after
`sync_names`. Every method raises OSError (with errno) when the place fails.
"""

import errno
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from backends.holder import Holder

_BLOCK = 1 << 18

NO_LINKS = frozenset(
    {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
)
"""How places without hard links (FAT, exFAT, some shares and servers) refuse to make one."""

WRITE_BIT = 0o200
"""The mode bit of a file's owner that a fence takes away."""

LOCK = "lock"
"""The file whose lock keeps the processes of one machine apart."""


class FileFenced(OSError):
    """Another writer has taken this file: it has lost its write bit (see `Storage.seal`) or its last name."""

    def __init__(self, name: str) -> None:
        super().__init__(errno.EPERM, "another writer has taken this backup over", name)


class Lock(Protocol):
    """A lock that is held until `release`, or until the process ends."""

    def release(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes on the filesystem that holds the backup."""

    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Closed:
    """A file or directory of another user's, which this one may not read. `uid` and `gid`: None when unknown."""

    name: str
    uid: int | None
    gid: int | None


class ReadHandle(ABC):
    """An open file, for reading; it stays readable when the name is replaced or removed."""

    @abstractmethod
    def size(self) -> int:
        """Bytes in the file now."""

    @abstractmethod
    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end of the file."""

    def blocks(self, offset: int, end: int) -> Iterator[bytes]:
        """The bytes from `offset` to `end`, however many, a few at a time. OSError when the file ends before."""
        while offset < end:
            block = self.read(offset, min(_BLOCK, end - offset))
            if not block:
                raise OSError(errno.EIO, f"the file ends at byte {offset}, and went on to byte {end} a moment ago")
            yield block
            offset += len(block)

    @abstractmethod
    def close(self) -> None: ...


class WriteHandle(ABC):
    """A file being written; only its one writer holds one."""

    @abstractmethod
    def write(self, offset: int, data: bytes) -> None:
        """All of `data` at `offset`, not yet durable."""

    @abstractmethod
    def write_durably(self, offset: int, data: bytes) -> None:
        """All of `data` at `offset`, durable when it returns: the one operation of a commit.

        Raises Fenced when the file, looked at after the sync, belongs to another writer: it was sealed, or has lost
        its last name. What was written may then be missing from what that writer has read. A place that cannot seal
        (see `Storage.seal`) need not look.
        """

    def is_fenced(self) -> bool:
        """Whether `write_durably` would raise Fenced; asked without writing."""
        return False

    @abstractmethod
    def extend(self, offset: int, length: int) -> None:
        """Zeros from `offset` (the end of the file) on, durable when it returns. May run beside `write_durably`.

        A failure here must not hide one of `write_durably`: the kernel tells of a lost write once for each open file,
        so a file that is really open elsewhere goes through a descriptor of its own.
        """

    @abstractmethod
    def sync(self) -> None:
        """Everything written so far is durable, size included, when it returns."""

    @abstractmethod
    def truncate(self, size: int) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class Storage(ABC):
    """One flat directory of files."""

    @abstractmethod
    def describe(self) -> str:
        """The place in words that a person can find it by, e.g. a path."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether the directory is there."""

    @abstractmethod
    def make(self) -> None:
        """Create the directory (mode 0700) in its existing parent, durably. FileExistsError when it is there."""

    @abstractmethod
    def unmake(self) -> None:
        """Remove the directory and every file in it: for a creation that failed half way."""

    @abstractmethod
    def names(self) -> list[str]:
        """The names of all files in the directory, sorted."""

    @abstractmethod
    def open(self, name: str) -> ReadHandle:
        """FileNotFoundError when there is none; OSError for anything but a regular file (no link is followed)."""

    @abstractmethod
    def create(self, name: str) -> WriteHandle:
        """A new empty file, mode 0600; an old one of that name is removed first."""

    @abstractmethod
    def rename(self, old: str, new: str) -> None:
        """Replaces `new`. Durable after `sync_names`."""

    @abstractmethod
    def rename_new(self, old: str, new: str) -> None:
        """Give a file a name that no file has: FileExistsError when one has, and then nothing was changed.

        Another writer may be held up for any time and have looked before: so the place itself must refuse it, in one
        step. (One that has no hard links is asked first, and the name given at once afterwards.) A handle of the file
        goes on; raises Fenced when another writer has taken the file in the very moment. Durable after `sync_names`; a
        crash before that may leave both names.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """FileNotFoundError when there is none. Durable after `sync_names`."""

    def seal(self, name: str) -> bool:
        """Take a file's write bit, so that whoever has it open for `write_durably` is told after the next one.

        Whether the place has kept that: where it returns False nothing tells the other writer. FileNotFoundError when
        there is no such file.
        """
        return False

    def lock(self, what: str) -> Lock | None:
        """Keep out the other processes of this machine, in whatever container; `what` names this one to them.

        None where the place has no locks. Raises `backends.system.locks.Locked` when another process has it.
        """
        return None

    def locked_by(self) -> Holder | None:
        """Who has that lock now, asked without taking it or changing anything. None: nobody is known to.

        Raises OSError.
        """
        return None

    def check_lock(self) -> None:  # noqa: B027 (without locks there is nothing to look at)
        """Raise what `lock` would while another process has it; nothing is made, changed or held."""

    @abstractmethod
    def sync_names(self) -> None:
        """What was created, renamed or removed so far is durable when it returns."""

    @abstractmethod
    def space(self) -> Space: ...

    def shares_disk_with(self, path: Path) -> bool:
        """Whether one dead disk of this machine may take this place and what lies at `path` with it."""
        return False

    def why_unwritable(self) -> str | None:
        """Why this user could write nothing here, asked without writing; None when nothing is known against it."""
        return None

    def about(self) -> list[str]:
        """What this place is, a short line each, e.g. its filesystem and where it is mounted."""
        return []

    def closed(self) -> list[Closed]:
        """What keeps this user from a backup here: this directory or one above it; else what is in it, sorted.

        Raises OSError.
        """
        return []

    def directories_with(self, name: str) -> list[str]:
        """The names of directories one level down that hold a file of this name, sorted."""
        return []

    def read_small(self, name: str, limit: int = 1 << 20) -> bytes:
        """A whole small file. OSError when it has more than `limit` bytes: what the writer makes never does."""
        with closing(self.open(name)) as handle:
            if handle.size() > limit:
                raise OSError(errno.EFBIG, f"{name} has {handle.size()} bytes, which no {name} has")
            return handle.read(0, limit)

    def temporary(self, name: str) -> str:
        """What to call a file that is to become `name` once it is whole.

        No other writer uses that name: of two that made `name.tmp` at once, one would publish the other's half a file.
        """
        token: str = self.__dict__.setdefault("_token", secrets.token_hex(4))
        return f"{name}-{token}{TEMPORARY}"

    def publish(self, name: str, data: bytes) -> None:
        """A whole file, durably: it appears under its name complete or not at all."""
        temporary = self.temporary(name)
        with closing(self.create(temporary)) as handle:
            handle.write(0, data)
            handle.sync()
        self.rename(temporary, name)
        self.sync_names()


TEMPORARY = ".tmp"
"""The suffix of a file that is not whole yet; left over from a crash, it means nothing."""
