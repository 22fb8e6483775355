"""What either version of NFS does for a storage, and how both say that it failed.

Every call that changes names is durable on the server when it returns: both versions demand it.
"""

import errno
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum, auto

from backends.storage.base import WRITE_BIT, Space
from backends.storage.nfs.rpc import Disconnected
from backends.storage.nfs.xdr import Malformed

SECTOR = 512
"""Bytes that a disk writes whole or not at all."""

MAX_ENTRIES = 1 << 16
"""Names in a directory that is believed; a backup has a few dozen."""

Handle = bytes
"""The server's name for a file or directory; it stays the same when that is renamed, and when the server restarts."""


class TryLater(Exception):
    """The server is busy or has just restarted, has done nothing, and asks to be asked again."""


class Kind(Enum):
    """What a name stands for."""

    FILE = auto()
    DIRECTORY = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is asked about a file; `size` in bytes. A server that knows no modes or links tells the usual ones."""

    kind: Kind
    size: int
    mode: int = 0o600
    links: int = 1
    uid: int | None = None
    gid: int | None = None
    """Whose it is, by the server's numbers; None where they were not asked for (NFSv4 tells names)."""

    @property
    def sealed(self) -> bool:
        """Whether another writer has taken the file: its owner may not write to it any more, or it has no name."""
        return not self.mode & WRITE_BIT or self.links == 0


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a write: how many bytes were taken, and whether they are durable.

    `boot` changes when the server restarts: writes before that which were not durable may be lost.
    `after` is what the file was like after the write; None when the server did not tell.
    """

    count: int
    durable: bool
    boot: bytes
    after: Attributes | None = None


class Protocol(ABC):
    """One version of NFS over one connection. Raises OSError for what the server refuses, Disconnected, TryLater."""

    largest_read: int
    largest_write: int
    """Bytes in one call; the server's own limits once they were asked for."""
    limits_known = False
    until: float
    """When (time.monotonic) to give up waiting for an answer."""

    @property
    @abstractmethod
    def fences(self) -> bool:
        """Whether a call that was cut off cannot be carried out any more, late, once `reconnect` has returned."""

    @abstractmethod
    def describe(self) -> str:
        """The version, and how much goes into one call."""

    @abstractmethod
    def reconnect(self, why: Disconnected) -> None:
        """Go on over a new connection, the old one having ended so. Raises Disconnected, TryLater."""

    @abstractmethod
    def root(self, path: list[str]) -> Handle:
        """The directory that these names lead to, from the top of what the server exports."""

    def know_limits(self, handle: Handle) -> None:
        """Ask for the server's limits, once on each connection: a restarted server may have others."""
        if not self.limits_known:
            self.learn_limits(handle)
            self.limits_known = True

    @abstractmethod
    def learn_limits(self, handle: Handle) -> None:
        """Set `largest_read` and `largest_write` by what holds for this file or directory."""

    @abstractmethod
    def lookup(self, directory: Handle, name: str) -> tuple[Handle, Attributes]: ...

    @abstractmethod
    def attributes(self, handle: Handle) -> Attributes: ...

    @abstractmethod
    def read(self, handle: Handle, offset: int, length: int) -> tuple[bytes, bool]:
        """Bytes, and whether they reach the end of the file."""

    @abstractmethod
    def write(self, handle: Handle, offset: int, data: bytes, durably: bool) -> Written: ...

    @abstractmethod
    def commit(self, handle: Handle) -> bytes:
        """Make every write durable; returns the server's `boot`."""

    @abstractmethod
    def create(self, directory: Handle, name: str, mode: int) -> Handle:
        """A new empty file. FileExistsError when the name is taken."""

    @abstractmethod
    def make_directory(self, directory: Handle, name: str, mode: int) -> Handle: ...

    @abstractmethod
    def remove(self, directory: Handle, name: str) -> None: ...

    @abstractmethod
    def remove_directory(self, directory: Handle, name: str) -> None: ...

    @abstractmethod
    def rename(self, directory: Handle, old: str, new: str) -> None: ...

    @abstractmethod
    def link(self, handle: Handle, directory: Handle, name: str) -> None:
        """A second name for a file."""

    @abstractmethod
    def entries(self, directory: Handle) -> list[tuple[str, Attributes]]:
        """All names in a directory, without . and .. Raises Malformed for a directory without end."""

    @abstractmethod
    def resize(self, handle: Handle, size: int) -> None: ...

    @abstractmethod
    def set_mode(self, handle: Handle, mode: int) -> None: ...

    @abstractmethod
    def space(self, handle: Handle) -> Space: ...

    @abstractmethod
    def close(self) -> None: ...


def limit(told: int, most: int) -> int:
    """Bytes in one call, by the limit that a server tells (0: none). Raises Malformed for one that is of no use."""
    if told and told < SECTOR:
        raise Malformed(f"the server takes or gives no more than {told} bytes in a call, which is less than a sector")
    return min(told or most, most)


MAX_NAME = 1024
"""Bytes of a name in a listing: no filesystem has longer ones, and a backup's have thirty."""


def check_name(name: str, came: int) -> None:
    """Raise Malformed for the name of an entry, of which `came` so far, that would only fill the memory."""
    if came > MAX_ENTRIES or len(name) > MAX_NAME:
        raise Malformed(
            f"the server lists a directory without end ({came} names so far, the last of {len(name)} bytes)"
        )


def check_listing(found: int, came: int, end: bool) -> None:
    """Raise Malformed for a listing that would never end: `came` of the `found` names came in the last answer."""
    if found > MAX_ENTRIES or (not came and not end):
        raise Malformed(f"the server lists a directory without end ({found} names so far)")


_MEANINGS = {
    63: errno.ENAMETOOLONG,
    66: errno.ENOTEMPTY,
    69: errno.EDQUOT,
    70: errno.ESTALE,
    71: errno.EREMOTE,
    10001: errno.ESTALE,
    10004: errno.EOPNOTSUPP,  # a procedure that RFC 1813 lets a server leave out
    10006: errno.EREMOTEIO,
    10014: errno.ESTALE,  # a handle that has expired
    10016: errno.EACCES,  # wrong kind of security
    10020: errno.ESTALE,  # no file handle
    10029: errno.ELOOP,  # a link where a file or directory should be
    10040: errno.EINVAL,  # a character, or
    10041: errno.EINVAL,  # a name (such as ..) that the server does not take
}
_SAME_AS_ERRNO = range(1, 32)
_TRY_LATER = frozenset({10008, 10013})  # delay, grace period after a restart


def check(status: int, what: str) -> None:
    """Raise what a status other than 0 means."""
    if status == 0:
        return
    if status in _TRY_LATER:
        raise TryLater(what)
    number = status if status in _SAME_AS_ERRNO else _MEANINGS.get(status)
    if number is None:
        raise OSError(errno.EREMOTEIO, f"the server answers with NFS error {status}", what)
    raise OSError(number, os.strerror(number), what)
