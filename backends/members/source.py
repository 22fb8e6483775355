"""The member that a copy is made from: when a copy fails, it must be known whether reading or writing failed.

Otherwise a member that cannot be read any more, a disk with a bad sector, puts out of sync all the members that are
copied to, one after the other, and the node goes on with the bad one alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from backends.storage.base import ReadHandle, Space, Storage, WriteHandle


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
