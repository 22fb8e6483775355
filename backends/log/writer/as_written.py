"""A snapshot read back while it is being written, a few megabytes behind what is durable.

Whoever reads drives the writing: a read of bytes that are not durable yet first has more written. So what is read back
was written a moment ago. Read later, a snapshot that is larger than the memory would all come from the disk again.
"""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol, overload

from backends.log.format.records import MAX_FILE
from backends.storage.base import ReadHandle, Storage
from backends.storage.passing import Passing


class Parts(Protocol):
    """The files of a snapshot that is being written."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def synced(self) -> int:
        """How many bytes of the last one are durable."""

    def name(self, part: int) -> str:
        """The name of the one with this number, from 0."""


class AsWritten(Sequence[tuple[str, ReadHandle]]):
    """The files of a snapshot for a reader, which `writing` makes: each step of it writes more, its end is the end.

    With `forgets`, what was read does not stay in this machine's memory, which is needed for the database. Use it as a
    context manager: at the end, the files are closed. Reading raises what writing raises.
    """

    def __init__(self, storage: Storage, parts: Parts, writing: Iterator[None], *, forgets: bool) -> None:
        self._storage, self._parts, self._writing = storage, parts, writing
        self._forgets = forgets
        self._opened: list[tuple[str, ReadHandle]] = []
        self._ended = False

    def __enter__(self) -> "AsWritten":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for _, handle in self._opened:
            handle.close()

    def __len__(self) -> int:
        return self._parts.count

    @overload
    def __getitem__(self, part: int) -> tuple[str, ReadHandle]: ...
    @overload
    def __getitem__(self, part: slice) -> Sequence[tuple[str, ReadHandle]]: ...
    def __getitem__(self, part: int | slice) -> tuple[str, ReadHandle] | Sequence[tuple[str, ReadHandle]]:
        """The file with this number. Raises IndexError if none comes."""
        if isinstance(part, slice):
            raise TypeError("files are read one after the other")
        while part >= self._parts.count and self.more():
            pass
        for number in range(len(self._opened), self._parts.count):
            name = self._parts.name(number)
            handle = self._storage.open(name)
            self._opened.append((name, _Growing(Passing(handle) if self._forgets else handle, number, self)))
        return self._opened[part]

    def more(self) -> bool:
        """Have more written. False at the end."""
        if not self._ended:
            self._ended = next(self._writing, True) is True
        return not self._ended

    def readable(self, part: int) -> int | None:
        """How many bytes of a file can be read by now; None if it is complete."""
        return None if self._ended or part < self._parts.count - 1 else self._parts.synced


class _Growing(ReadHandle):
    """A file that is being written: it ends where it ends when nothing more is written to it."""

    def __init__(self, handle: ReadHandle, part: int, whole: AsWritten) -> None:
        self._handle, self._part, self._whole = handle, part, whole

    def size(self) -> int:
        """Bytes of the file; of one that is not complete, more than it will have."""
        return self._handle.size() if self._whole.readable(self._part) is None else 2 * MAX_FILE

    def read(self, offset: int, length: int) -> bytes:
        while (readable := self._whole.readable(self._part)) is not None and readable < offset + length:
            self._whole.more()
        return self._handle.read(offset, length)

    def close(self) -> None:
        self._handle.close()
