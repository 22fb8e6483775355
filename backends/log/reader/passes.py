"""One pass over the log of an open generation: every change after the snapshot, or only the headers of their records.

A pass is an object that is iterated once. It can say at any moment how far it is. It can say how the log ends only
after everything was read, because that is not known before.
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
    Flag,
    RecordHeader,
    segment_name,
)
from backends.log.format.torn import End
from backends.log.reader.records import Chain, Record, RecordReader
from backends.log.reader.unpacking import SMALL, Unpacker, Unreadable
from backends.storage.base import ReadHandle
from backends.times import UNKNOWN_TIME

_AT_ONCE = 16
"""Small changes that are unpacked together before the first of them is executed. Alternating between unpacking and
SQLite for each change is slower, because each evicts the other from the processor's caches."""


class StoredChange(NamedTuple):
    """A change read back from the log."""

    data_version: int
    sequence: int
    time: int
    statements: Sequence[str]
    advances: bool
    begins_session: bool
    """The node's SQLite connection was new: foreign keys are ON from this change on, whatever a PRAGMA said before."""


@dataclass(frozen=True, slots=True)
class Log:
    """The segments of a generation, opened at one moment."""

    manifest: Manifest
    segments: Sequence[tuple[int, ReadHandle]]
    """The index of each segment, and its open file."""
    begun: int
    """How many of the segments count: the others were made ahead of use and had no record when all were opened.

    A reader ignores what is written to those others meanwhile: the records before it may have been written after this
    reader had read past their place, or it may belong to a later generation.
    """
    until: int | None = None
    """The last record that belongs to this generation, if its last segment goes on with those of a later one."""

    def stored_bytes(self) -> int:
        """Bytes of the segments' files."""
        return sum(handle.size() for _, handle in self.segments)


@dataclass(frozen=True, slots=True)
class EndOfLog:
    """How a log ends, once it was read to its end."""

    position: Position
    """The position after the last record; that of the snapshot if there is no record."""
    torn: str | None
    """Describes the torn record at the end; None if the log ends cleanly."""
    end_unverified: str | None
    """Why it is not known whether the end of the log is missing, in a sentence; None if the end is verified."""
    log_bytes: int
    """Bytes of the segments up to their last records, as a writer counts them."""


class _Pass:
    """What both kinds of passes have in common: their progress, and how the log ends."""

    def __init__(self, log: Log, check_saved: Callable[[Position], str | None]) -> None:
        """`check_saved` takes the end of the log and returns why it is unverified, or None if it is verified.

        It raises Damaged if some of the log is gone.
        """
        base = log.manifest.base
        self._log, self._check_saved = log, check_saved
        self.position = Position(base.data_version, base.sequence, base.checksum, log.manifest.created)
        """The position after the last good record. Records are read ahead, so it may not have been yielded yet."""
        self.bytes_read = 0
        """Bytes of records read so far."""
        self.segment = 0
        """The index of the segment that is being read."""
        self.base_time = UNKNOWN_TIME
        """When the last change in the snapshot was saved, in seconds since 1970; UNKNOWN_TIME unless the log still
        holds its record and has been read that far."""
        self._torn: str | None = None
        self._end: EndOfLog | None = None

    def end(self) -> EndOfLog:
        """How the log ends. Raises RuntimeError until all of it was read: a caller that stops early cannot know."""
        if self._end is None:
            raise RuntimeError("the log was not read to its end")
        return self._end

    def _finish(self) -> None:
        """Called after the last record. Raises Damaged if the log was once longer."""
        unverified = self._check_saved(self.position)
        log_bytes = self.bytes_read + FILE_HEADER_SIZE * self._log.begun
        self._end = EndOfLog(self.position, self._torn, unverified, log_bytes)

    def _runs(self) -> Iterator[tuple[RecordReader, list[Record]]]:
        """The records of all segments, many at a time, with the chain checked from the snapshot on."""
        base, until, ended = self._log.manifest.base, self._log.until, False
        chain: Chain | None = None
        for number, (index, handle) in enumerate(self._log.segments, 1):
            self.segment = index
            reader = self._reader(index, handle, chain, begun=number <= self._log.begun)
            for run in reader.runs() if number <= self._log.begun else ():
                self._check_base(reader, run, chain is None)
                if until is not None and run[-1].header.sequence >= until:
                    run = [record for record in run if record.header.sequence <= until]
                    ended = True
                    if not run:
                        break
                last = run[-1]
                header = last.header
                chain = Chain(header.sequence, header.checksum)
                if header.sequence > base.sequence:
                    self.position = Position(header.data_version, header.sequence, header.checksum, header.time)
                self.bytes_read += last.offset + len(last.payload) + RECORD_HEADER_SIZE - run[0].offset
                yield reader, run
                if ended:
                    break
            if ended:
                break
            if number <= self._log.begun:
                self._note_torn(reader, number)
        if chain is not None and chain.sequence < base.sequence:
            raise Damaged("the log ends before its snapshot", segment_name(self.segment), 0)

    def _reader(self, index: int, handle: ReadHandle, chain: Chain | None, *, begun: bool) -> RecordReader:
        """A segment that holds no record may be encrypted with another key than the manifest names: see
        backends/log/reader/end.py."""
        manifest = self._log.manifest
        return RecordReader(
            handle,
            segment_name(index),
            manifest.segment_header(index),
            chain,
            self.position.data_version,
            good_after=manifest.base.sequence,
            any_key=not begun,
        )

    def _note_torn(self, reader: RecordReader, number: int) -> None:
        """Remember a torn record at the end of the log. Raises Damaged if there is one anywhere else."""
        tail = reader.tail()
        if tail.end is End.TORN:
            if number < self._log.begun:
                raise reader.damaged(f"{tail.why}, and the log goes on after it", tail.offset)
            self._torn = f"{tail.why} ({reader.name} at byte {tail.offset}): it was never acknowledged"

    def _check_base(self, reader: RecordReader, run: list[Record], first: bool) -> None:
        """Raise Damaged unless the log continues the snapshot: the chain must contain the snapshot's checksum.

        If it does not, no change in `run` can be replayed, and the last good version is the one before it.
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
                self.base_time = header.time
            if not fits:
                what = "the log does not continue the snapshot: files of different times were mixed"
                raise Damaged(what, reader.name, record.offset, good)


class Changes(_Pass):
    """Every change after the snapshot. Iterate it once; iterating may raise Damaged."""

    def __init__(self, log: Log, check_saved: Callable[[Position], str | None]) -> None:
        super().__init__(log, check_saved)
        self._each = self._changes()

    def __iter__(self) -> Iterator[StoredChange]:
        """Always the same iterator, returned directly: a Python call for each change would slow down a restore."""
        return self._each

    def _changes(self) -> Iterator[StoredChange]:
        for record, statements in self._unpacked():
            yield _stored_change(record.header, statements)
        self._finish()

    def _unpacked(self) -> Iterator[tuple[Record, Sequence[str]]]:
        """Every record after the snapshot, with its statements."""
        unpacker, base = Unpacker(), self._log.manifest.base
        good = base.data_version
        for reader, run in self._runs():
            unpacker.go_on_in(reader.file)
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
    """The header of every record after the snapshot, with its segment's index. Nothing is unpacked.

    Iterate it once; iterating may raise Damaged.
    """

    def __init__(self, log: Log, check_saved: Callable[[Position], str | None]) -> None:
        super().__init__(log, check_saved)
        self._each = self._headers()

    def __iter__(self) -> Iterator[tuple[int, RecordHeader]]:
        """Always the same iterator, since a pass is iterated once."""
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
