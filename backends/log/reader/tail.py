"""Following a log that grows: the changes after a known one, as a writer appends them. Nothing is read twice.

A reader of a whole generation (`passes`) sees the files as they were at one moment. This one stays. It keeps its place
in the segment that is being written, and a look for more reads only a few bytes there. The log may go on elsewhere,
because another writer has taken over (which copies the last segment into a new file of the same name) or because a new
generation was begun. So what was read counts only if the manifest and the session marker are still the same afterwards:
a writer that takes over replaces the marker before it reads where the log ends.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from backends.base import Position
from backends.change import ahead
from backends.errors import BackupError, Damaged
from backends.log.format.documents import MANIFEST, SESSION, Manifest, Session
from backends.log.format.records import FILE_HEADER_SIZE, RECORD_HEADER_SIZE, Flag, RecordHeader, segment_name
from backends.log.format.torn import End, classify
from backends.log.reader.generation import Reader
from backends.log.reader.opening import open_generation
from backends.log.reader.records import Chain, Record, RecordReader
from backends.log.reader.unpacking import Unpacker, Unreadable
from backends.storage.base import ReadHandle, Storage

_ATTEMPTS = 20


class Moved(Exception):
    """The log goes on elsewhere: another writer has taken over, or another generation was begun. Attach again."""


class NotThere(Exception):
    """The log does not hold the change after which to go on. `end` is where it ends, `ahead` whether the wanted change
    has a later version than that."""

    def __init__(self, end: Position, wanted: "Mark") -> None:
        super().__init__("the log does not hold this change")
        self.end = end
        self.ahead = wanted.data_version is not None and ahead(wanted.data_version, end.data_version) > 0


@dataclass(frozen=True, slots=True)
class Mark:
    """What tells a change from every other one in a backup: the checksum of its record, and the version after it.

    `data_version` is None for a database that has none: then the checksum alone must do.
    """

    checksum: int
    data_version: int | None

    def fits(self, checksum: int, data_version: int) -> bool:
        """Whether a record with this checksum and version is that of this change."""
        return checksum == self.checksum and self.data_version in (None, data_version)


@dataclass(frozen=True, slots=True)
class _Found:
    """Where the wanted change is: `offset` is where its record ends, `stream` where its compression stream begins.

    If the snapshot ends with it, `chain` is None, and the log is read from its beginning.
    """

    segment: int
    offset: int
    stream: int
    chain: Chain | None


class Tail:
    """The end of a log. Made by `attach`; `close` it. Every method raises Damaged, Moved or OSError."""

    def __init__(self, storage: Storage, reader: Reader, raw: tuple[bytes, bytes | None], after: Mark) -> None:
        self._storage, self._raw = storage, raw
        self.manifest: Manifest = reader.manifest
        self._writer = None if reader.session is None else reader.session.writer
        self._saved = 0 if reader.session is None else reader.session.sequence
        self.stored_bytes = reader.log.stored_bytes()
        """Bytes of the segments when this was attached."""
        self.torn: str | None = None
        """What is wrong with a last record that is not whole; None if there is none."""
        self._handles: dict[int, ReadHandle] = {}
        self._unpacker = Unpacker()
        found, self.end = _find(reader, after)
        """`end` is where the log ended when this was attached."""
        self.end_unverified = reader.check_saved(self.end)
        if found is None:
            raise NotThere(self.end, after)
        self._index, self._offset, self._chain = found.segment, found.offset, found.chain
        base = self.manifest.base
        self.sequence = base.sequence if found.chain is None else found.chain.sequence
        """The sequence of the last change that was returned, at first of the one after which this goes on. That may be
        one before the snapshot: a compaction leaves the segment with its last changes as it was."""
        self._good = self.end.data_version if after.data_version is None else after.data_version
        if found.stream < found.offset:
            self._unpack_again(found)

    # Reading on

    def changes(self) -> Iterator[tuple[RecordHeader, Sequence[str]]]:
        """Every change that is there by now and was not returned yet, with its record's header. They count only if
        `check_unmoved` raises nothing after they were read.

        Raises Moved if that is less than what the writer had noted as saved before: something hides the rest, such as
        zeros over a record, or a file that was replaced. Attaching again shows whether that is damage.
        """
        saved = self._saved
        try:
            while True:
                if self._has_more():
                    yield from self._changes_here()
                if not self._go_on():
                    break
        except (Damaged, FileNotFoundError):
            self.check_unmoved()  # files that were being replaced look damaged
            raise
        if self.sequence < saved:
            raise Moved

    def check_unmoved(self) -> None:
        """Raise Moved if the log goes on elsewhere. Reads two small files."""
        try:
            raw = _read_raw(self._storage)
        except FileNotFoundError:
            if self._storage.exists():
                raise Moved from None
            raise
        if raw == self._raw:
            return
        manifest, session = _decoded(raw)
        if (manifest, _writer_of(session)) != (self.manifest, self._writer):
            raise Moved
        self._raw = raw  # the writer has only noted how far it is
        self._saved = 0 if session is None else session.sequence

    def close(self) -> None:
        """Close the files."""
        for handle in self._handles.values():
            with suppress(OSError):
                handle.close()
        self._handles.clear()

    def _changes_here(self) -> Iterator[tuple[RecordHeader, Sequence[str]]]:
        reader = self._reader(self._index, self._chain)
        self._unpacker.go_on_in(reader.file)
        for run in reader.runs(self._offset):
            for record in run:
                self._check_base(reader, record)
                statements = self._unpacked(reader, record)
                header = record.header
                self._chain = Chain(header.sequence, header.checksum)
                self._offset = record.offset + RECORD_HEADER_SIZE + len(record.payload)
                if header.sequence > self.sequence:
                    self.sequence, self._good = header.sequence, header.data_version
                    yield header, statements
            if not self._has_more():  # without reading the zeros ahead of the writer, up to a megabyte
                self.torn = None
                return
        tail = reader.tail()
        self.torn = f"{tail.why} ({reader.name} at byte {tail.offset})" if tail.end is End.TORN else None

    def _go_on(self) -> bool:
        """Whether there is more to read: then this is at the segment with it. Segments made ahead of use are empty."""
        index = self._index
        while True:
            index += 1
            try:
                handle = self._handle(index)
            except FileNotFoundError:
                return False
            if not _is_record(handle, FILE_HEADER_SIZE):
                continue
            if self._has_more():  # the writer had one more for this segment before it went on
                return True
            tail = classify(self._handle(self._index), self._offset)
            if tail.end is not End.CLEAN:
                raise Damaged(f"{tail.why}, and the log goes on after it", segment_name(self._index), tail.offset)
            for left in [each for each in self._handles if each < index]:
                self._handles.pop(left).close()
            self._index, self._offset = index, FILE_HEADER_SIZE
            return True

    def _has_more(self) -> bool:
        return _is_record(self._handle(self._index), self._offset)

    def _handle(self, index: int) -> ReadHandle:
        if index not in self._handles:
            self._handles[index] = self._storage.open(segment_name(index))
        return self._handles[index]

    def _reader(self, index: int, chain: Chain | None) -> RecordReader:
        header, good_after = self.manifest.segment_header(index), self.manifest.base.sequence
        name = segment_name(index)
        return RecordReader(self._handle(index), name, header, chain, self._good, good_after=good_after)

    def _unpacked(self, reader: RecordReader, record: Record) -> Sequence[str]:
        try:
            return self._unpacker.statements(record)
        except Unreadable as error:
            raise Damaged(str(error), reader.name, record.offset, self._good) from None

    def _check_base(self, reader: RecordReader, record: Record) -> None:
        """Raise Damaged unless the log continues the snapshot, where this record is next to the end of that."""
        base, header = self.manifest.base, record.header
        begins_after = self._chain is None and header.sequence > base.sequence + 1
        fits = header.checksum == base.checksum if header.sequence == base.sequence else True
        if header.sequence == base.sequence + 1:
            fits = header.previous == base.checksum
        if begins_after or not fits:
            raise reader.damaged("the log does not continue the snapshot: files of different times were mixed", 0)

    def _unpack_again(self, found: _Found) -> None:
        """Bring the decompressor to where the wanted change ends: its stream begins earlier."""
        reader = self._reader(found.segment, None)
        self._unpacker.go_on_in(reader.file)
        for record in reader.records():
            if record.offset >= found.offset:
                return
            if record.offset >= found.stream:
                self._unpacked(reader, record)


def attach(storage: Storage, after: Mark, backup_id: bytes | None = None) -> Tail:
    """The end of the current generation's log, from the change `after` on.

    Raises NotThere, NotABackup, FromTheFuture, KeyNeeded or Damaged; Moved if `backup_id` is given and another backup
    is there; OSError from the storage.
    """
    for _ in range(_ATTEMPTS):
        raw = _read_raw(storage)
        with open_generation(storage) as reader:
            if reader.session_damage is not None:
                raise reader.session_damage
            manifest, session = _decoded(raw)
            if (manifest, _writer_of(session)) != (reader.manifest, _writer_of(reader.session)):
                continue  # another writer is just taking over
            if backup_id not in (None, manifest.backup_id):
                raise Moved
            tail = Tail(storage, reader, raw, after)
        try:
            tail.check_unmoved()
            return tail
        except Moved:
            tail.close()
        except BaseException:
            tail.close()
            raise
    raise BackupError(f"{storage.describe()} is changing faster than it can be read; try again in a minute")


def _find(reader: Reader, wanted: Mark) -> tuple[_Found | None, Position]:
    """Where the wanted change is, and where the log ends. The last segments are read first, and no more than needed."""
    manifest, base = reader.manifest, reader.manifest.base
    end: Position | None = None
    found: _Found | None = None
    for index, handle in reversed(reader.log.segments[: reader.log.begun]):
        records = RecordReader(handle, segment_name(index), manifest.segment_header(index), None, base.data_version)
        last, found = _find_in(records, wanted)
        if end is None and last is not None:
            end = Position(last.data_version, last.sequence, last.checksum, last.time)
        if found is not None:
            break
    at_base = Position(base.data_version, base.sequence, base.checksum, manifest.created)
    if end is None or end.sequence < base.sequence:
        end = at_base
    if found is None and wanted.fits(base.checksum, base.data_version):
        found = _Found(manifest.first_segment, FILE_HEADER_SIZE, FILE_HEADER_SIZE, None)
    return found, end


def _find_in(records: RecordReader, wanted: Mark) -> tuple[RecordHeader | None, _Found | None]:
    """The last record of a segment, and where in it the wanted change is."""
    last: RecordHeader | None = None
    found: _Found | None = None
    stream = FILE_HEADER_SIZE
    for record in records.records():
        last = header = record.header
        if header.flags & Flag.FRAME:
            stream = record.offset
        if wanted.fits(header.checksum, header.data_version):
            end = record.offset + RECORD_HEADER_SIZE + len(record.payload)
            found = _Found(records.index, end, stream, Chain(header.sequence, header.checksum))
    return last, found


def _is_record(handle: ReadHandle, offset: int) -> bool:
    """Whether something was written at `offset`: there are zeros, or the end of the file, ahead of the writer."""
    return any(handle.read(offset, RECORD_HEADER_SIZE))


def _read_raw(storage: Storage) -> tuple[bytes, bytes | None]:
    """The bytes of the manifest and of the session marker, None if there is no marker."""
    manifest, session = storage.read_small(MANIFEST), None
    with suppress(FileNotFoundError):
        session = storage.read_small(SESSION)
    return manifest, session


def _decoded(raw: tuple[bytes, bytes | None]) -> tuple[Manifest, Session | None]:
    """The manifest, and the session marker if there is one."""
    manifest, session = raw
    return Manifest.decode(manifest), None if session is None else Session.decode(session)


def _writer_of(session: Session | None) -> str | None:
    return None if session is None else session.writer
