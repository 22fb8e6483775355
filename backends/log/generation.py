"""A generation as it is read back: the snapshot, then every change after it, up to the last one that was saved.

Needs no lock. What is read was opened at one moment, so a writer beside it that goes on, or switches the generation,
takes nothing away: the reader sees a whole backup at some version.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import NamedTuple

from backends.errors import Damaged
from backends.log.documents import MANIFEST, SESSION, Kept, Manifest, Session
from backends.log.format import (
    FILE_HEADER_SIZE,
    RECORD_HEADER_SIZE,
    FileHeader,
    FileKind,
    Flag,
    RecordHeader,
    segment_name,
)
from backends.log.reading import Chain, Record, RecordReader
from backends.log.snapshot import SnapshotReader
from backends.log.tail import End
from backends.log.unpacking import SMALL, Unpacker, Unreadable
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


class Generation:
    """An open generation. Use it as a context manager; iterate `snapshot` first, then `changes`, each once."""

    def __init__(self, manifest: Manifest, session: Session | None, files: ExitStack, kept: Kept | None = None) -> None:
        self.manifest, self.session, self._kept = manifest, session, kept
        self.files = files
        """What is open, and closed with it."""
        self.snapshot: SnapshotReader
        self.segments: list[tuple[int, ReadHandle]] = []
        self.begun = 1
        """How many of the segments count: the others were made ahead of use, and had no record when all were opened.

        What is written there meanwhile is not for this reader. The last record of the segment before may have been
        written after that one was read, or it is of a later generation.
        """
        self.torn: str | None = None
        """After `changes`: in words, what was cut off the end, if anything."""
        self.beside: Callable[[], str] = str
        """A sentence for files that may be ones that are missing; asked for only once something is."""
        self.unwitnessed: str | None = None
        """After `changes`: in words, why nothing tells whether the end of the log is missing."""
        self.session_damage: Damaged | None = None
        self.last = Chain(manifest.base.sequence, manifest.base.checksum)
        self.data_version = manifest.base.data_version
        """The version reached so far."""
        self.last_time = manifest.created
        self.log_bytes_read = 0
        """Bytes of records read so far."""
        self.segment = 0
        """The index of the segment that is being read."""

    def __enter__(self) -> "Generation":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.files.close()

    def bytes_read(self) -> int:
        """Stored bytes read so far, for a progress bar."""
        return self.snapshot.bytes_read + self.log_bytes_read

    def log_bytes(self) -> int:
        """Bytes of the segments up to their last records, as a writer counts them; once all records were read."""
        return self.log_bytes_read + FILE_HEADER_SIZE * self.begun

    def stored_bytes(self) -> int:
        """Bytes of the snapshot and the segments, as they lie in their files."""
        return self.snapshot.size() + sum(handle.size() for _, handle in self.segments)

    def changes(self) -> Iterator[StoredChange]:
        """Every change after the snapshot. Raises Damaged."""
        for record, statements in self._unpacked():
            yield self._reached(_stored_change(record.header, statements))
        self._check_acknowledged()

    def _reached(self, change: StoredChange) -> StoredChange:
        self.data_version, self.last_time = change.data_version, change.time
        return change

    def headers(self) -> Iterator[tuple[int, RecordHeader]]:
        """The headers of all records after the snapshot, each with its segment's index; nothing is unpacked.

        Sets `data_version`, `last_time` and `torn` as `changes` does, which must not be called then. Raises Damaged.
        """
        for reader, run in self._runs():
            for record in run:
                header = record.header
                if header.sequence > self.manifest.base.sequence:
                    self.data_version, self.last_time = header.data_version, header.time
                    yield reader.index, header
        self._check_acknowledged()

    def _unpacked(self) -> Iterator[tuple[Record, Sequence[str]]]:
        """Every record after the snapshot with its statements."""
        unpacker, base = Unpacker(), self.manifest.base
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

    def _runs(self) -> Iterator[tuple[RecordReader, list[Record]]]:
        """The records of all segments, chained from the snapshot on, many at a time."""
        base = self.manifest.base
        chain: Chain | None = None
        good = base.data_version
        for number, (index, handle) in enumerate(self.segments, 1):
            self._where, self.segment = segment_name(index), index
            reader = RecordReader(
                handle, self._where, FileHeader(FileKind.SEGMENT, self.manifest.backup_id, index), chain, good
            )
            for run in reader.runs() if number <= self.begun else ():
                self._check_base(reader, run, chain is None)
                chain, last = reader.chain, run[-1]
                if last.header.sequence > base.sequence:
                    good = last.header.data_version
                    self.last = Chain(last.header.sequence, last.header.checksum)
                else:
                    reader.last_good = good
                self.log_bytes_read += last.offset + len(last.payload) + RECORD_HEADER_SIZE - run[0].offset
                yield reader, run
            if reader.tail.end is End.TORN:
                if number < self.begun:
                    raise reader.damaged(f"{reader.tail.why}, and the log goes on after it", reader.tail.offset)
                self.torn = f"{reader.tail.why} ({self._where} at byte {reader.tail.offset}): it was never acknowledged"
        if chain is not None and chain.sequence < base.sequence:
            raise Damaged("the log ends before its snapshot", self._where, 0)

    def _check_base(self, reader: RecordReader, run: list[Record], first: bool) -> None:
        """Whether snapshot and log fit: the log meets the snapshot's place in the chain."""
        base = self.manifest.base
        if first and run[0].header.sequence > base.sequence + 1:
            raise reader.damaged("the log begins after its snapshot: segments are missing", run[0].offset)
        for record in run:
            header = record.header
            if header.sequence > base.sequence + 1:
                break
            fits = header.previous == base.checksum if header.sequence == base.sequence + 1 else True
            if header.sequence == base.sequence:
                fits = header.checksum == base.checksum
            if not fits:
                raise reader.damaged(
                    "the log does not go on from the snapshot: files of different times were mixed", record.offset
                )

    def _check_acknowledged(self) -> None:
        """Raises Damaged when the session marker knows of more than the log holds, or cannot be read."""
        if self._kept is not None:
            self._check_end(self._kept.data_version)
            return
        session = self.session
        if self.session_damage is not None:
            raise Damaged(
                f"the session marker cannot be read ({self.session_damage.what}), and nothing else tells whether the "
                "end of the log is missing,",
                SESSION,
                0,
                self.data_version,
            )
        if session is None:  # whoever removes it can empty the log as well, so an empty log tells nothing either
            self.unwitnessed = MISSING_SESSION
        if session is not None and self.manifest.generation < session.generation:
            raise old_manifest(self.manifest, session, self.data_version)
        if session is not None and self.last.sequence < session.sequence:
            raise Damaged(
                f"the log ends with record {self.last.sequence}, and record {session.sequence} (version "
                f"{session.data_version}) was once saved: the end of the log is missing",
                segment_name(self.segments[-1][0]),
                self.segments[-1][1].size(),
                self.data_version,
                self.beside(),
            )

    def _check_end(self, version: int) -> None:
        """Raises Damaged unless the log of a kept generation leads to the version that it once led to."""
        if self.data_version != version:
            where, handle = self.segments[-1]
            raise Damaged(
                f"the log ends at version {self.data_version}, and version {version} was once saved: its end is gone",
                segment_name(where),
                handle.size(),
                self.data_version,
            )


MISSING_SESSION = (
    f"the file `{SESSION}` is missing, and nothing else tells whether the end of the log is, too: compare the time of "
    "the last change with what you know (only a backup of an earlier release has no such file before its node first "
    "starts)"
)


def old_manifest(manifest: Manifest, session: Session, last_good: int) -> Damaged:
    """The error for a manifest of a generation that was replaced since: files of different times were mixed."""
    return Damaged(
        f"it names generation {manifest.generation}, and generation {session.generation} was begun since: it is an old "
        "copy of itself",
        MANIFEST,
        0,
        last_good,
    )


def _stored_change(header: RecordHeader, statements: Sequence[str]) -> StoredChange:
    return StoredChange(
        header.data_version,
        header.sequence,
        header.time,
        statements,
        bool(header.flags & Flag.ADVANCES),
        bool(header.flags & Flag.SESSION),
    )
