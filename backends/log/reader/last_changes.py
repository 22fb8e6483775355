"""The last changes of the log, found by reading its last segments only: a start must not take longer as the log grows.

Each segment begins a compression stream of its own, so it can be unpacked without the segments before it.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from backends.base import MAX_ROLL_FORWARD
from backends.errors import Damaged
from backends.log.format.encryption import (
    CHUNK,
    FINGERPRINT,
    SALT,
    TAG,
    Opener,
    Tampered,
    chunks_in,
    known_key,
)
from backends.log.format.records import RECORD_HEADER_SIZE, Flag, RecordHeader, segment_name
from backends.log.format.torn import End
from backends.log.reader.generation import Reader
from backends.log.reader.records import RecordReader
from backends.log.reader.unpacking import Unpacker, Unreadable

MAX_CHANGES = 1 << 14
"""The most changes at the log's end that are held in memory. Few changes in a node's log do not advance the version,
but a log made to exhaust the node's memory may have millions. A caller that needs an earlier change must treat the
database as too far behind."""


class LoggedChange(NamedTuple):
    """A change, as described by its record's header."""

    header: RecordHeader
    segment: int
    """The place of its segment among those of the generation, from 0."""
    stream: int
    """The offset of the record that begins the change's compression stream."""
    offset: int
    """The offset of its record."""
    chunk: int
    """If it is encrypted, the number of its first chunk within the stream."""

    @property
    def advances(self) -> bool:
        """Whether the change advances the version: the database was at the version before it."""
        return bool(self.header.flags & Flag.ADVANCES)

    @property
    def foreign_keys(self) -> bool:
        """Whether foreign keys were enforced during the change."""
        return not self.header.flags & Flag.FOREIGN_KEYS_OFF


@dataclass(frozen=True, slots=True)
class LastChanges:
    """Where the log ends, and the changes that led there."""

    sequence: int
    checksum: int
    data_version: int
    time: int
    """When the last change was saved, seconds since 1970."""
    changes: Sequence[LoggedChange]
    """The last MAX_ROLL_FORWARD changes that advance the version (fewer if the generation has fewer), and all changes
    between and after them; never more than MAX_CHANGES."""
    whole: bool
    """Whether these are all the changes since the snapshot."""


def read_end(reader: Reader) -> LastChanges:
    """The end of an open generation's log. Unpacks nothing. Raises Damaged for damage in what was read, or OSError."""
    base = reader.manifest.base
    changes: deque[LoggedChange] = deque()
    following: RecordHeader | None = None  # the first record in the segments after this one
    last: RecordHeader | None = None
    for number in reversed(range(reader.log.begun)):
        found = _Segment(reader, number, is_last=number == reader.log.begun - 1)
        if found.first is None or found.last is None:
            continue
        last = last or found.last
        if following is not None and not _follows(following, found.last):
            raise Damaged("the log does not continue the segment before", segment_name(found.index + 1), 0)
        following = found.first
        changes.extendleft(reversed(found.changes))
        while len(changes) > MAX_CHANGES:
            changes.popleft()
        enough = sum(change.advances for change in changes) >= MAX_ROLL_FORWARD or len(changes) == MAX_CHANGES
        if enough or found.first.sequence <= base.sequence:
            break
    else:
        if following is not None and following.sequence > base.sequence + 1:
            raise Damaged("the log begins after its snapshot: segments are missing", segment_name(found.index), 0)
    while sum(change.advances for change in changes) > MAX_ROLL_FORWARD:
        changes.popleft()
    _check_snapshot_fits(reader, changes)
    reached = (base.sequence, base.checksum, base.data_version, reader.manifest.created)
    if last is not None and last.sequence >= base.sequence:
        reached = (last.sequence, last.checksum, last.data_version, last.time)
    elif last is not None:
        raise Damaged("the log ends before its snapshot", segment_name(reader.log.segments[0][0]), 0)
    _check_acknowledged(reader, reached[0])
    whole = reached[0] - base.sequence == len(changes)
    return LastChanges(*reached, tuple(changes), whole)


def database_before(reader: Reader, change: LoggedChange) -> int:
    """The fingerprint of the database as it was before this change, which is one from the end of that generation's log.

    Raises Damaged if the holder of the key has not written the change, KeyNeeded, or OSError.
    """
    header, (index, handle) = change.header, reader.log.segments[change.segment]
    file = reader.manifest.segment_header(index)
    if file.key is None:
        return header.database
    opener = Opener(known_key(file.key), file)
    salt = handle.read(change.stream + RECORD_HEADER_SIZE, SALT)
    before = SALT if header.flags & Flag.FRAME else 0
    stored = handle.read(change.offset + RECORD_HEADER_SIZE + before, min(header.length - before, CHUNK + TAG))
    try:
        return int.from_bytes(opener.chunk(header, salt, change.chunk, stored)[:FINGERPRINT], "little")
    except Tampered as error:
        raise Damaged(f"a change cannot be decrypted: {error}", segment_name(index), change.offset) from None


def statements_of(reader: Reader, changes: Sequence[LoggedChange]) -> Iterator[Sequence[str]]:
    """The statements of each of these changes, which are consecutive ones from the end of that generation's log.

    Raises Damaged or OSError.
    """
    wanted = iter(changes)
    change = next(wanted, None)
    while change is not None:
        number, stream = change.segment, change.stream
        records = _records(reader, number)
        unpacker, name = Unpacker(), records.name
        unpacker.go_on_in(records.file)
        for record in records.records():
            if record.offset < stream:
                continue
            try:
                statements = unpacker.statements(record)
            except Unreadable as error:
                raise Damaged(str(error), name, record.offset) from None
            if change is not None and record.header == change.header:
                yield statements or ()
                change = next(wanted, None)
                if change is None or change.segment != number:
                    break
        else:
            raise Damaged("a record that was there before is gone", name, 0)


class _Segment:
    """What one segment holds: its first and last record, and the changes that may be among the log's last ones."""

    def __init__(self, reader: Reader, number: int, *, is_last: bool) -> None:
        base = reader.manifest.base
        self.index, _ = reader.log.segments[number]
        self.first: RecordHeader | None = None
        self.last: RecordHeader | None = None
        self.changes: deque[LoggedChange] = deque()
        stream, chunk, advancing = 0, 0, 0
        records = _records(reader, number)
        for header, offset in ((record.header, record.offset) for record in records.records()):
            if self.first is None:
                self.first = header
            self.last = header
            if header.flags & Flag.FRAME:
                stream, chunk = offset, 0
            first_chunk, chunk = chunk, chunk + chunks_in(header)
            if header.sequence <= base.sequence:
                if header.sequence == base.sequence and header.checksum != base.checksum:
                    raise records.damaged(_MIXED, offset)
                continue
            self.changes.append(LoggedChange(header, number, stream, offset, first_chunk))
            advancing += bool(header.flags & Flag.ADVANCES)
            while advancing > MAX_ROLL_FORWARD or len(self.changes) > MAX_CHANGES:
                advancing -= self.changes.popleft().advances
        tail = records.tail()
        if tail.end is End.TORN and not is_last:
            raise records.damaged(f"{tail.why}, and the log goes on after it", tail.offset)


_MIXED = "the log does not continue the snapshot: files of different times were mixed"


def _records(reader: Reader, number: int) -> RecordReader:
    index, handle = reader.log.segments[number]
    return RecordReader(handle, segment_name(index), reader.manifest.segment_header(index), None, None)


def _follows(header: RecordHeader, before: RecordHeader) -> bool:
    return header.sequence == before.sequence + 1 and header.previous == before.checksum


def _check_snapshot_fits(reader: Reader, changes: Sequence[LoggedChange]) -> None:
    base = reader.manifest.base
    if changes and changes[0].header.sequence == base.sequence + 1 and changes[0].header.previous != base.checksum:
        raise Damaged(_MIXED, segment_name(reader.log.segments[changes[0].segment][0]), 0)


def _check_acknowledged(reader: Reader, sequence: int) -> None:
    """Raise Damaged if the session marker cannot be read, or says that more was saved than the log holds."""
    if reader.session_damage is not None:
        raise reader.session_damage
    session = reader.session
    if session is not None and sequence < session.sequence:
        what = f"the log ends with record {sequence}, and record {session.sequence} was once saved"
        raise Damaged(what, segment_name(reader.log.segments[-1][0]), 0)
