"""A first scan of a legacy backup: where its records are, which of them the header covers, and where to begin.

The header was written after each record, so what it names was acknowledged, and what follows may not have been. But
the end that it names is wrong after a rewind: the writer stepped back, yet the file was open for appending, so the next
record was appended after the one that it should have replaced. From then on, every end that the header names is too
small by the length of the replaced record.
"""

from collections.abc import Callable
from typing import NamedTuple

from backends.change import VERSIONS
from backends.legacy.file import HEADER_SIZE, SNAPSHOT, Frame, Header, LegacyFile

_BETWEEN_CALLS = 4096


class Outline(NamedTuple):
    """The result of a first scan. It goes by the record headers only: no record has been checked yet."""

    snapshot: Frame | None
    """The last snapshot, which replaces everything before it."""

    version_before: int | None
    """The version of the record before that snapshot; None if there is no such record."""

    acknowledged: int | None
    """Offset after the last record that the header covers; None when no record fits the version and end it names."""

    @property
    def begin(self) -> int:
        """Offset of the first record that counts."""
        return HEADER_SIZE if self.snapshot is None else self.snapshot.offset


def outline(file: LegacyFile, progress: Callable[[int], None]) -> Outline:
    """Step from record to record, to the end of the file or the first offset without a complete record.

    `progress` is called with the offset now and then.
    """
    header, offset, count, version = file.header, HEADER_SIZE, 0, 0
    end = _WriterEnd()
    snapshot: Frame | None = None
    version_before: int | None = None
    acknowledged = HEADER_SIZE if _names(header, version, end, offset, count) else None
    while (frame := file.frame(offset)) is not None:
        if frame.kind == SNAPSHOT:
            snapshot, version_before = frame, version if count else None
        end.add(frame, version)
        offset, count, version = frame.end, count + 1, frame.data_version
        if _names(header, version, end, offset, count):
            acknowledged = offset
        if count % _BETWEEN_CALLS == 0:
            progress(offset)
    progress(file.size)
    return Outline(snapshot, version_before, acknowledged)


class _WriterEnd:
    """The smallest end that the writer can have believed in: the one it has if every possible rewind took place."""

    def __init__(self) -> None:
        self.least = self._before = HEADER_SIZE

    def add(self, frame: Frame, version: int) -> None:
        """Take the next record into account; `version` is that of the record before it."""
        if frame.kind == SNAPSHOT:
            self._before = HEADER_SIZE  # an early `init` over an existing file wrote a new header
        elif frame.data_version == (version + 1) % VERSIONS:
            self._before = self.least
        self.least = self._before + frame.size


def _names(header: Header, version: int, end: _WriterEnd, offset: int, count: int) -> bool:
    """Whether the header may have been written after the record that ends at `offset`."""
    return header.data_version == version and end.least <= header.end <= offset and header.records <= count
