"""What both versions of NFS do for a storage, and how both report failures.

Every call that changes names is durable on the server when it returns: both versions of the protocol require it.
"""

import errno
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum, auto

from backends.storage.base import WRITE_BIT, Space
from backends.storage.channel import Disconnected, Malformed, TryLater
from backends.storage.pieces import SECTOR

MAX_ENTRIES = 1 << 16
"""The most names accepted in a directory; a backup has a few dozen."""

Handle = bytes
"""The server's identifier of a file or directory. It survives a rename, and a restart of the server."""


class Kind(Enum):
    """What kind of thing has a name."""

    FILE = auto()
    DIRECTORY = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class Attributes:
    """A file's attributes; `size` is in bytes. A server without modes or links reports the usual values."""

    kind: Kind
    size: int
    mode: int = 0o600
    links: int = 1
    uid: int | None = None
    gid: int | None = None
    """The file's owner and group, as the server's numbers; None where they were not requested (NFSv4 sends names)."""

    @property
    def sealed(self) -> bool:
        """Whether another writer has taken the file over: its owner may no longer write to it, or it has no name."""
        return not self.mode & WRITE_BIT or self.links == 0


@dataclass(frozen=True, slots=True)
class Written:
    """The result of a write: how many bytes were written, and whether they are durable.

    `boot` changes when the server restarts: writes before the restart that were not durable may be lost.
    `after` holds the file's attributes after the write; None if the server did not send them.
    """

    count: int
    durable: bool
    boot: bytes
    after: Attributes | None = None


class Protocol(ABC):
    """One version of NFS over one connection.

    Every method raises OSError for what the server refuses, Disconnected, TryLater, or Malformed.
    """

    largest_read: int
    largest_write: int
    """Most bytes in one call; the server's own limits after `know_limits`."""
    limits_known = False
    until: float
    """When (time.monotonic) to give up waiting for an answer."""

    @property
    @abstractmethod
    def sent(self) -> int:
        """Grows with every call that may have been sent on the current connection."""

    @property
    @abstractmethod
    def fences(self) -> bool:
        """Whether, once `reconnect` has returned, the server can no longer carry out a call that was cut off before."""

    @abstractmethod
    def describe(self) -> str:
        """The version, and how many bytes fit in one call, for a person."""

    @abstractmethod
    def reconnect(self, why: Disconnected) -> None:
        """Continue on a new connection; `why` says how the old one ended. Raises Disconnected, TryLater."""

    @abstractmethod
    def root(self, path: list[str]) -> Handle:
        """The directory that the names of `path` lead to, starting at the top of what the server exports."""

    def know_limits(self, handle: Handle) -> None:
        """Request the server's limits, once per connection: a restarted server may have other ones."""
        if not self.limits_known:
            self.learn_limits(handle)
            self.limits_known = True

    @abstractmethod
    def learn_limits(self, handle: Handle) -> None:
        """Set `largest_read` and `largest_write` to the server's limits for this file or directory."""

    @abstractmethod
    def lookup(self, directory: Handle, name: str) -> tuple[Handle, Attributes]: ...

    @abstractmethod
    def attributes(self, handle: Handle) -> Attributes: ...

    @abstractmethod
    def read(self, handle: Handle, offset: int, length: int) -> tuple[bytes, bool]:
        """Return up to `length` bytes from `offset`, and whether they reach the end of the file."""

    @abstractmethod
    def write(self, handle: Handle, offset: int, data: bytes, durably: bool) -> Written: ...

    @abstractmethod
    def commit(self, handle: Handle) -> bytes:
        """Make every write to the file durable. Returns the server's `boot` (see `Written`)."""

    @abstractmethod
    def create(self, directory: Handle, name: str, mode: int) -> Handle:
        """Create an empty file. Raises FileExistsError if the name exists."""

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
        """Give a file a second name."""

    @abstractmethod
    def entries(self, directory: Handle) -> list[tuple[str, Attributes]]:
        """All entries of a directory except . and .. Raises Malformed for an endless listing."""

    @abstractmethod
    def resize(self, handle: Handle, size: int) -> None: ...

    @abstractmethod
    def set_mode(self, handle: Handle, mode: int) -> None: ...

    @abstractmethod
    def space(self, handle: Handle) -> Space: ...

    @abstractmethod
    def close(self) -> None: ...


def limit(told: int, most: int) -> int:
    """Bytes to use in one call: the limit `told` by the server (0: none), at most `most`.

    Raises Malformed if the server's limit is less than a sector.
    """
    if told and told < SECTOR:
        raise Malformed(f"the server allows only {told} bytes in one call, which is less than a sector")
    return min(told or most, most)


MAX_NAME = 1024
"""The longest name accepted in a listing: no filesystem has longer ones, and a backup's names have about 30 bytes."""


def check_name(name: str, came: int) -> None:
    """Raise Malformed if `name`, entry number `came` of a listing, is too long or one too many. It wastes memory."""
    if came > MAX_ENTRIES or len(name) > MAX_NAME:
        raise Malformed(
            f"the server's listing of a directory does not end ({came} names, the last of {len(name)} bytes)"
        )


def check_listing(found: int, came: int, end: bool) -> None:
    """Raise Malformed for a listing that would never end: `came` of the `found` names came in the last answer."""
    if found > MAX_ENTRIES or (not came and not end):
        raise Malformed(f"the server's listing of a directory does not end ({found} names)")


_MEANINGS = {
    63: errno.ENAMETOOLONG,
    66: errno.ENOTEMPTY,
    69: errno.EDQUOT,
    70: errno.ESTALE,
    71: errno.EREMOTE,
    10001: errno.ESTALE,
    10004: errno.EOPNOTSUPP,  # a procedure that RFC 1813 allows a server to omit
    10006: errno.EREMOTEIO,
    10014: errno.ESTALE,  # a handle that has expired
    10016: errno.EACCES,  # wrong kind of security
    10020: errno.ESTALE,  # no file handle
    10029: errno.ELOOP,  # a link where a file or directory should be
    10040: errno.EINVAL,  # a name with a character that the server does not accept
    10041: errno.EINVAL,  # a name (such as ..) that the server does not accept
}
_SAME_AS_ERRNO = range(1, 32)
_TRY_LATER = frozenset({10008, 10013})  # delay, grace period after a restart


def check(status: int, what: str) -> None:
    """Raise the error that a call's status means, unless it is 0. `what` is the name that the call was about."""
    if status == 0:
        return
    if status in _TRY_LATER:
        raise TryLater(what)
    number = status if status in _SAME_AS_ERRNO else _MEANINGS.get(status)
    if number is None:
        raise OSError(errno.EREMOTEIO, f"the server answered with NFS error {status}", what)
    raise OSError(number, os.strerror(number), what)
