"""What a backup needs of an object store: a bucket, or a table that is used like one.

No object is ever overwritten blindly. Each is made by `create`, which never replaces anything, or by `replace`, which
replaces only the version that the caller has seen. So a request that is delayed, repeated or carried out long after the
caller gave up can never undo what was done since.
"""

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


class Exists(OSError):
    """A conditional creation found an object of that key."""

    def __init__(self, key: str) -> None:
        super().__init__(errno.EEXIST, "there already is such an object", key)


class Changed(OSError):
    """A conditional replacement found another version of the object, or none."""

    def __init__(self, key: str) -> None:
        super().__init__(errno.EBUSY, "somebody else has changed this object", key)


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a listing. `modified` is in seconds since 1970, by the store's clock."""

    key: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Content:
    """A whole object. `version` is for `replace`: an ETag, or the number of a row's version."""

    data: bytes
    version: str


class ObjectStore(ABC):
    """Objects by key, below one prefix: those of one backup.

    Keys consist of a-z, 0-9 and "./-_", and are relative to the prefix. Every method may be called from several
    threads at once, and raises OSError: FileNotFoundError if there is no such object, TimeoutError if no answer came
    within the commit timeout, or before the thread's own deadline (`deadline.not_after`; nobody knows whether it was
    or will be done), PermissionError, ...

    `create` and `replace` settle a lost answer themselves. They try again until the commit timeout is over, and if the
    store then says "exists" or "changed", they read the object back: if its bytes are equal, it was their own request.
    Equal bytes prove that, because every object that is not empty holds random bytes or belongs to a chain that only
    one writer knows. An empty object proves nothing: `create` of one then raises Exists.
    """

    @abstractmethod
    def describe(self) -> str:
        """Name the place so that a person can find it."""

    @abstractmethod
    def about(self) -> list[str]:
        """Describe the store in short lines, e.g. its endpoint and its region."""

    @abstractmethod
    def would_end(self) -> float:
        """When (time.monotonic) a call that began now would be given up at the latest."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> str:
        """Make an object, durably, and return its version. Never overwrites one. Raises Exists."""

    @abstractmethod
    def replace(self, key: str, data: bytes, version: str) -> str:
        """Replace an object, durably, if it still has this version, and return the new version. Raises Changed."""

    @abstractmethod
    def get(self, key: str) -> Content:
        """A whole object."""

    @abstractmethod
    def read(self, key: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes of an object from `offset`; fewer only at its end."""

    @abstractmethod
    def read_many(self, keys: Sequence[str]) -> Iterator[bytes]:
        """Whole small objects in this order. They are fetched in parallel, ahead of use, in bounded memory."""

    @abstractmethod
    def prefixes(self, prefix: str) -> list[str]:
        """The next component of every longer path that begins with `prefix`, which ends in "/" or is empty; sorted.

        With the objects `a/1/x` and `a/2/y`, `prefixes("a/")` is `["1", "2"]`.
        """

    @abstractmethod
    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        """The objects whose keys begin with `prefix` and come after the key `after`, sorted by key.

        The store is asked for a page at a time, and only when the caller gets there.
        """

    @abstractmethod
    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects. One that does not exist is no error."""

    @abstractmethod
    def close(self) -> None:
        """Give up connections. A call after this raises OSError."""
