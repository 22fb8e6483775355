"""One pass over the log of an open generation: every change after the snapshot, or only the headers of their records.

A pass is an object that is iterated once. How far it is can be asked at any moment; how the log ends only once all of
it was read, for nobody knows before.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from backends.base import Position
from backends.errors import Damaged
from backends.log.format.documents import Manifest
from backends.log.format.records import (
    FILE_HEADER_SIZE,
    RECORD_HEADER_SIZE,
    FileHeader,
    FileKind,
    Flag,
    RecordHeader,
    segment_name,
)
from backends.log.format.torn import End
from backends.log.reader.records import Chain, Record, RecordReader
from backends.log.reader.unpacking import SMALL, Unpacker, Unreadable
from backends.storage.base import ReadHandle

_AT_ONCE = 16
"""Small changes that are unpacked one after the other, before the first of them is executed: going to and fro between
Python and SQLite for each, the processor forgets what it knew of either."""


class StoredChange(NamedTuple):
    """A change read back from the log."""

    data_version: int
    sequence: int
    time: int
    statements: Sequence[str]
    advances: bool
    begins_session: bool
    """The node's SQLite connection was new: foreign keys are ON from here, whatever a PRAGMA said before."""


@dataclass(frozen=True, slots=True)
class Log:
    """The segments of a generation, opened at one moment."""

    manifest: Manifest
    segments: Sequence[tuple[int, ReadHandle]]
    """Each with its index."""
    begun: int
    """How many of the segments count: the others were made ahead of use, and had no record when all were opened.

    What is written there meanwhile is not for this reader. The last record of the segment before may have been written
    after that one was read, or it is of a later generation.
    """

    def stored_bytes(self) -> int:
        """Bytes of the segments, as they lie in their files."""
        return sum(handle.size() for _, handle in self.segments)


@dataclass(frozen=True, slots=True)
class EndOfLog:
    """How a log ends that was read to its end."""

    position: Position
    """The last record; the snapshot where there is none."""
    torn: str | None
    """In words, what was cut off the end, if anything."""
    end_unverified: str | None
    """In words, why nothing tells whether the end of the log is missing; None when something does."""
    log_bytes: int
    """Bytes of the segments up to their last records, as a writer counts them."""


class _Pass:
    """What both kinds of passes know while they are under way, and in the end."""

    def __init__(self, log: Log, check_saved: Callable[[Position], str | None]) -> None:
        """`check_saved` gets the end and says why it is unverified; it raises Damaged when some of the log is gone."""
        base = log.manifest.base
        self._log, self._check_saved = log, check_saved
        self.position = Position(base.data_version, base.sequence, base.checksum, log.manifest.created)
        """The last record that was read and is good. Records are read ahead: it may not have been handed out yet."""
        self.bytes_read = 0
        """Bytes of records read so far."""
        self.segment = 0
        """The index of the segment that is being read."""
        self._torn: str | None = None
        self._end: EndOfLog | None = None

    def end(self) -> EndOfLog:
        """How the log ends. RuntimeError before all of it was read: whoever stops early learns nothing of the end."""
        if self._end is None:
            raise RuntimeError("the log was not read to its end")
        return self._end

    def _finish(self) -> None:
        """After the last record. Raises Damaged when the log once went on."""
        unverified = self._check_saved(self.position)
        log_bytes = self.bytes_read + FILE_HEADER_SIZE * self._log.begun
        self._end = EndOfLog(self.position, self._torn, unverified, log_bytes)

    def _runs(self) -> Iterator[tuple[RecordReader, list[Record]]]:
        """The records of all segments, chained from the snapshot on, many at a time."""
        base = self._log.manifest.base
        chain: Chain | None = None
        for number, (index, handle) in enumerate(self._log.segments, 1):
            self.segment = index
            reader = self._reader(index, handle, chain)
            for run in reader.runs() if number <= self._log.begun else ():
                self._check_base(reader, run, chain is None)
                last = run[-1]
                header = last.header
                chain = Chain(header.sequence, header.checksum)
                if header.sequence > base.sequence:
                    self.position = Position(header.data_version, header.sequence, header.checksum, header.time)
                self.bytes_read += last.offset + len(last.payload) + RECORD_HEADER_SIZE - run[0].offset
                yield reader, run
            if number <= self._log.begun:
                self._note_torn(reader, number)
        if chain is not None and chain.sequence < base.sequence:
            raise Damaged("the log ends before its snapshot", segment_name(self.segment), 0)

    def _reader(self, index: int, handle: ReadHandle, chain: Chain | None) -> RecordReader:
        manifest = self._log.manifest
        return RecordReader(
            handle,
            segment_name(index),
            FileHeader(FileKind.SEGMENT, manifest.backup_id, index),
            chain,
            self.position.data_version,
            good_after=manifest.base.sequence,
        )

    def _note_torn(self, reader: RecordReader, number: int) -> None:
        """Only where the log ends may there be a torn record."""
        tail = reader.tail()
        if tail.end is End.TORN:
            if number < self._log.begun:
                raise reader.damaged(f"{tail.why}, and the log goes on after it", tail.offset)
            self._torn = f"{tail.why} ({reader.name} at byte {tail.offset}): it was never acknowledged"

    def _check_base(self, reader: RecordReader, run: list[Record], first: bool) -> None:
        """Whether snapshot and log fit: the log meets the snapshot's place in the chain.

        Where they do not, no change in `run` can be replayed, and the last good version is the one before it.
        """
        base, good = self._log.manifest.base, self.position.data_version
        if first and run[0].header.sequence > base.sequence + 1:
            what = "the log begins after its snapshot: segments are missing"
            raise Damaged(what, reader.name, run[0].offset, good)
        for record in run:
            header = record.header
            if header.sequence > base.sequence + 1:
                break
            fits = header.previous == base.checksum if header.sequence == base.sequence + 1 else True
            if header.sequence == base.sequence:
                fits = header.checksum == base.checksum
            if not fits:
                what = "the log does not go on from the snapshot: files of different times were mixed"
                raise Damaged(what, reader.name, record.offset, good)


class Changes(_Pass):
    """Every change after the snapshot; iterate it once. Raises Damaged meanwhile."""

    def __init__(self, log: Log, check_saved: Callable[[Position], str | None]) -> None:
        super().__init__(log, check_saved)
        self._each = self._changes()

    def __iter__(self) -> Iterator[StoredChange]:
        """Always the same iterator: a step of our own for each change would cost a restore time."""
        return self._each

    def _changes(self) -> Iterator[StoredChange]:
        for record, statements in self._unpacked():
            yield _stored_change(record.header, statements)
        self._finish()

    def _unpacked(self) -> Iterator[tuple[Record, Sequence[str]]]:
        """Every record after the snapshot with its statements."""
        unpacker, base = Unpacker(), self._log.manifest.base
        good = base.data_version
        for reader, run in self._runs():
            ready: list[tuple[Record, Sequence[str]]] = []
            for record in run:
                try:
                    statements = unpacker.statements(record)
                except Unreadable as error:
                    yield from ready
                    raise Damaged(str(error), reader.name, record.offset, good) from None
                if record.header.sequence > base.sequence:
                    good = record.header.data_version
                    ready.append((record, statements))
                if len(ready) == _AT_ONCE or record.header.size > SMALL:
                    yield from ready
                    ready.clear()
            yield from ready


class Scan(_Pass):
    """The header of every record after the snapshot, with its segment's index; iterate it once. Nothing is unpacked.

    Raises Damaged meanwhile.
    """

    def __init__(self, log: Log, check_saved: Callable[[Position], str | None]) -> None:
        super().__init__(log, check_saved)
        self._each = self._headers()

    def __iter__(self) -> Iterator[tuple[int, RecordHeader]]:
        """Always the same iterator."""
        return self._each

    def _headers(self) -> Iterator[tuple[int, RecordHeader]]:
        base = self._log.manifest.base
        for reader, run in self._runs():
            for record in run:
                if record.header.sequence > base.sequence:
                    yield reader.index, record.header
        self._finish()


def _stored_change(header: RecordHeader, statements: Sequence[str]) -> StoredChange:
    return StoredChange(
        header.data_version,
        header.sequence,
        header.time,
        statements,
        bool(header.flags & Flag.ADVANCES),
        bool(header.flags & Flag.SESSION),
    )
