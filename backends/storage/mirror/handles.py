"""Files that are open at every member in sync."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Protocol, TypeVar

from backends.storage.base import FileFenced, ReadHandle, Storage, WriteHandle
from backends.storage.mirror.workers import Workers

T = TypeVar("T")


class Mirror(Protocol):
    """What the files need of the storage that they belong to."""

    workers: Workers

    @property
    def in_sync(self) -> Mapping[str, Storage]:
        """The members that every change goes to, by name."""

    def each_part(self, parts: Mapping[str, WriteHandle], work: Callable[[WriteHandle], T]) -> dict[str, T]:
        """Do this with an open file of every member in sync."""

    def write_durably(self, parts: Mapping[str, WriteHandle], offset: int, data: bytes) -> None:
        """One commit."""

    def attempt(self, works: Mapping[str, Callable[[], T]]) -> tuple[dict[str, T], dict[str, Exception]]:
        """Do the work of each member named; the results and the errors."""

    def at_source(self, work: Callable[[str, Storage], T]) -> T:
        """Do this, which only reads, at one member."""

    def failed(self, failed: Mapping[str, Exception]) -> None:
        """Put these members out of sync, or raise."""

    def changing(self) -> AbstractContextManager[None]:
        """Count a change of what the files are."""

    def forget(self, handle: "MirrorWriteHandle") -> None:
        """The file was closed."""


class MirrorReadHandle(ReadHandle):
    """A file of one member; if that member fails, the file of the same name of the next one."""

    def __init__(self, mirror: Mirror, name: str, member: str, handle: ReadHandle) -> None:
        self._mirror, self._name = mirror, name
        self._member, self._handle = member, handle

    def size(self) -> int:
        return self._read(lambda handle: handle.size())

    def read(self, offset: int, length: int) -> bytes:
        return self._read(lambda handle: handle.read(offset, length))

    def _read(self, read: Callable[[ReadHandle], T]) -> T:
        while True:
            handle = self._handle
            results, errors = self._mirror.attempt({self._member: lambda handle=handle: read(handle)})  # type: ignore[misc]
            if not errors:
                return results[self._member]
            self._mirror.failed(errors)
            self._member, self._handle = self._mirror.at_source(
                lambda member, storage: (member, storage.open(self._name))
            )

    def close(self) -> None:
        self._mirror.workers.leave(self._member, self._handle.close)


class MirrorWriteHandle(WriteHandle):
    """A file at all members that were in sync when it was created, and at those that joined since."""

    def __init__(self, mirror: Mirror, name: str, parts: dict[str, WriteHandle]) -> None:
        self._mirror, self._parts = mirror, parts
        self.name = name
        """The file's name now."""
        self.end = 0
        """The first byte after everything that was written; what follows, if anything, are preallocated zeros."""

    def write(self, offset: int, data: bytes) -> None:
        self._each(lambda part: part.write(offset, data))
        if data.strip(b"\0"):  # a new segment ends with zeros that are preallocated: records will be written over them
            self.end = max(self.end, offset + len(data))

    def write_durably(self, offset: int, data: bytes) -> None:
        self._mirror.write_durably(self._parts, offset, data)
        self.end = max(self.end, offset + len(data))

    def is_fenced(self) -> bool:
        fenced = [name for name, answer in self._each(lambda part: part.is_fenced()).items() if answer]
        if not fenced:
            return False
        try:
            self._mirror.failed({name: FileFenced(self.name) for name in fenced})
        except FileFenced:
            return True
        return False

    def is_fenced_at(self, member: str) -> bool:
        """Whether that member's file was sealed or removed, asked in the calling thread. Raises OSError."""
        part = self._parts.get(member)
        return part is not None and part.is_fenced()

    def extend(self, offset: int, length: int) -> None:
        self._each(lambda part: part.extend(offset, length))

    def sync(self) -> None:
        self._each(lambda part: part.sync())

    def truncate(self, size: int) -> None:
        with self._mirror.changing():
            self._each(lambda part: part.truncate(size))
        self.end = min(self.end, size)

    def tidy(self) -> None:
        self._best_effort(lambda part: part.tidy())

    def finish(self) -> None:
        self._best_effort(lambda part: part.finish())

    def _best_effort(self, work: Callable[[WriteHandle], None]) -> None:
        """Do what returns soon and whose failure costs no member its place."""
        failures: list[OSError] = []
        in_sync = self._mirror.in_sync
        for name, part in list(self._parts.items()):
            try:
                if name in in_sync:
                    work(part)
            except OSError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def close(self) -> None:
        """Close the file at every member, without waiting for one that is out of sync."""
        self._mirror.forget(self)
        in_sync = self._mirror.in_sync
        self._each(lambda part: part.close())
        for name, part in self._parts.items():
            if name not in in_sync:
                self._mirror.workers.leave(name, part.close)

    def adopt(self, member: str, part: WriteHandle) -> None:
        """Write to this open file of that member, too, which holds the same: call it `between_operations`."""
        self._parts[member] = part

    def drop(self, member: str) -> None:
        """Close the file of a member that is out of sync. It may take as long as the member likes."""
        part = self._parts.pop(member, None)
        if part is not None:
            with suppress(OSError):
                part.close()

    def _each(self, work: Callable[[WriteHandle], T]) -> dict[str, T]:
        return self._mirror.each_part(self._parts, work)
