"""The member that a copy is made from: when a copy fails, it must be known whether reading or writing failed.

Otherwise a member that cannot be read any more, a disk with a bad sector, puts out of sync all the members that are
copied to, one after the other, and the node goes on with the bad one alone.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from backends.storage.base import ReadHandle, Space, Storage, WriteHandle


class Sources:
    """The members in sync, one of which is copied from. One that cannot be copied from is left for the next.

    Once, the first of two was damaged, and the alarm said that both were: the second had not been tried.
    """

    def __init__(self, in_sync: Callable[[], Mapping[str, Storage]]) -> None:
        self._in_sync = in_sync
        self._unfit = set[str]()
        self.name = ""
        """The member that is copied from; empty before the first `choose`."""
        self.reading: Source | None = None

    def choose(self) -> "Source":
        """The first member that was not found unfit; after all of them were, the first one again."""
        self.name = next((name for name in self._in_sync() if name not in self._unfit), "")
        if not self.name:
            self._unfit.clear()
            self.name = next(iter(self._in_sync()))
        self.reading = Source(self._in_sync()[self.name])
        return self.reading

    def is_unfit(self) -> None:
        """The member that is copied from has failed at that: the next `choose` takes another, if there is one."""
        self._unfit.add(self.name)

    def unfit(self) -> tuple[str, ...]:
        """The members in sync that have failed since all were tried last."""
        return tuple(name for name in self._in_sync() if name in self._unfit)

    def at_whom(self, error: Exception) -> str:
        """Begins the clause about an error that the member copied from has raised: that one is to be looked after."""
        if self.reading is None or not self.reading.has_raised(error) or isinstance(error, FileNotFoundError):
            return ""  # what was not found was removed while it was copied: a new generation was published
        return f"{self.reading.describe()}, which it is copied from, cannot be read: "


class Source(Storage):
    """Another storage, for reading only. Remembers the errors with which reading has failed."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._errors: list[OSError] = []

    def has_raised(self, error: BaseException) -> bool:
        """Whether this very error comes from here, and not from where the copy was written to."""
        return any(each is error for each in self._errors)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Remember the error that is raised meanwhile."""
        try:
            yield
        except OSError as error:
            self._errors.append(error)
            raise

    def describe(self) -> str:
        return self._storage.describe()

    def exists(self) -> bool:
        with self.noting():
            return self._storage.exists()

    def names(self) -> list[str]:
        with self.noting():
            return self._storage.names()

    def open(self, name: str) -> ReadHandle:
        with self.noting():
            return _Reading(self, self._storage.open(name))

    def read_small(self, name: str, limit: int = 1 << 20) -> bytes:
        with self.noting():
            return self._storage.read_small(name, limit)

    def space(self) -> Space:
        with self.noting():
            return self._storage.space()

    # Nothing is written where a copy is made from.

    def make(self) -> None:
        raise _only_read()

    def unmake(self) -> None:
        raise _only_read()

    def create(self, name: str) -> WriteHandle:
        raise _only_read()

    def rename(self, old: str, new: str) -> None:
        raise _only_read()

    def rename_new(self, old: str, new: str) -> None:
        raise _only_read()

    def remove(self, name: str) -> None:
        raise _only_read()

    def sync_names(self) -> None:
        raise _only_read()


class _Reading(ReadHandle):
    def __init__(self, source: Source, handle: ReadHandle) -> None:
        self._source, self._handle = source, handle

    def size(self) -> int:
        with self._source.noting():
            return self._handle.size()

    def read(self, offset: int, length: int) -> bytes:
        with self._source.noting():
            return self._handle.read(offset, length)

    def blocks(self, offset: int, end: int) -> Iterator[bytes]:
        blocks = self._handle.blocks(offset, end)
        while True:
            with self._source.noting():
                block = next(blocks, None)
            if block is None:
                return
            yield block

    def close(self) -> None:
        self._handle.close()


def _only_read() -> AssertionError:
    return AssertionError("a member that is copied from is only read")
