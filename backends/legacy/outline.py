"""A first look through the whole file, at where its records lie: which of them the header knows, and where to begin.

The header was written after each record, so what it names was acknowledged, and what lies beyond it may not have been.
But its idea of the end is wrong after a rewind: the writer stepped back, yet the file was open for appending, and the
next record went behind the one that it should have replaced. From then on that length is missing in every end.
"""

from collections.abc import Callable
from typing import NamedTuple

from backends.change import VERSIONS
from backends.legacy.file import HEADER_SIZE, SNAPSHOT, Frame, Header, LegacyFile

_BETWEEN_CALLS = 4096


class Outline(NamedTuple):
    """What a first look tells; nothing is trusted for it yet."""

    snapshot: Frame | None
    """The last one: it replaces all that was before it."""

    version_before: int | None
    """Of the record before that snapshot, if there is one."""

    acknowledged: int | None
    """Offset after the last record that the header knows; None when the records do not lead to what it names."""

    @property
    def begin(self) -> int:
        """Offset of the first record that counts."""
        return HEADER_SIZE if self.snapshot is None else self.snapshot.offset


def outline(file: LegacyFile, progress: Callable[[int], None]) -> Outline:
    """Step from record to record up to the end, or to the first place where no whole one lies.

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
    """The least that the writer may have taken for the end: when it was rewound each time that this is possible."""

    def __init__(self) -> None:
        self.least = self._before = HEADER_SIZE

    def add(self, frame: Frame, version: int) -> None:
        """A record after one of `version`."""
        if frame.kind == SNAPSHOT:
            self._before = HEADER_SIZE  # an early `init` over an existing file began its header anew
        elif frame.data_version == (version + 1) % VERSIONS:
            self._before = self.least
        self.least = self._before + frame.size


def _names(header: Header, version: int, end: _WriterEnd, offset: int, count: int) -> bool:
    """Whether the header may have been written after the record that ends at `offset`."""
    return header.data_version == version and end.least <= header.end <= offset and header.records <= count
