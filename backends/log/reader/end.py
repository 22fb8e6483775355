"""Where a log ends: found by reading only, and checked against everything that is known to have been saved."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from backends.base import Position
from backends.errors import Damaged
from backends.log.format.documents import MANIFEST, Manifest, Session
from backends.log.format.records import (
    MAX_SEQUENCE,
    is_part_of,
    segment_index,
    segment_name,
    snapshot_name,
)
from backends.log.format.torn import End, Tail, has_records
from backends.log.reader.generation import old_manifest
from backends.log.reader.kept import is_kept, read_held
from backends.log.reader.misnamed import misnamed
from backends.log.reader.opening import missing_file, open_generation, segment_indexes
from backends.log.reader.records import RecordReader
from backends.log.reader.snapshot import SnapshotReader, open_parts
from backends.storage.base import TEMPORARY, ReadHandle, Storage

_SNAPSHOT = snapshot_name(0).rstrip("0")


@dataclass(frozen=True, slots=True)
class ScannedSegment:
    """What was found in a segment."""

    index: int
    tail: Tail
    position: Position | None  # after its last record; None when it holds none


def find_end(
    storage: Storage, manifest: Manifest, session: Session | None, names: Sequence[str]
) -> tuple[ScannedSegment, Position]:
    """The segment in which the log ends, and the position, found by reading only. `names` are those of all files.

    Raises Damaged; OSError from the storage.
    """
    try:
        _check_snapshot(storage, manifest, names)
        last, position = scan_segments(storage, manifest, names)
    except FileNotFoundError as error:
        raise missing_file("current", str(error.filename or error), MANIFEST, storage) from None
    _check_end(storage, manifest, session, last, position)
    others = [name for name in names if _of_another_generation(name, manifest)]
    held = read_held(storage, manifest) if others else []
    if any(not any(is_kept(name, kept) for kept in held) for name in others):
        _check_whole_log(storage)
    return last, position


def _check_snapshot(storage: Storage, manifest: Manifest, names: Sequence[str]) -> None:
    """Raise Damaged unless the snapshot begins and ends as it must. A start must not read a whole database."""
    with ExitStack() as files:
        parts = open_parts(storage, snapshot_name(manifest.generation), files, names)
        SnapshotReader(parts, manifest.snapshot_header(), manifest.base).check_ends()


def _check_whole_log(storage: Storage) -> None:
    """Raise Damaged unless the whole log can be read: a check before another generation is removed.

    If an old copy was put over this backup, that other generation may be the one that counts.
    """
    with open_generation(storage) as reader:
        for _ in reader.scan():
            pass


def scan_segments(storage: Storage, manifest: Manifest, names: Sequence[str]) -> tuple[ScannedSegment, Position]:
    """The segment in which the log ends, and the position. Segments after it were made in advance and never used."""
    last: ScannedSegment | None = None
    for index in reversed(segment_indexes(names, manifest)):
        found = scan_segment(storage, manifest, index)
        unused = found.position is None and found.tail.end is End.CLEAN
        if last is None:
            if unused and index != manifest.first_segment:
                continue
            last = found
        elif found.tail.end is End.TORN:
            good = found.position.data_version if found.position else _version_before(storage, manifest, index)
            what = f"{found.tail.why}, and the log goes on after it"
            raise Damaged(what, segment_name(index), found.tail.offset, good)
        if found.position is not None:
            return last, found.position
    base = manifest.base
    assert last is not None
    return last, Position(base.data_version, base.sequence, base.checksum, manifest.created)


def scan_segment(storage: Storage, manifest: Manifest, index: int) -> ScannedSegment:
    """Read the records of one segment: checks checksums and chain, unpacks nothing. Raises Damaged, OSError."""
    position: Position | None = None
    name = segment_name(index)
    try:
        with closing(storage.open(name)) as handle:
            reader = _reader_of(handle, name, manifest, index)
            for record in reader.records():
                header = record.header
                position = Position(header.data_version, header.sequence, header.checksum, header.time)
            return ScannedSegment(index, reader.tail(), position)
    except Damaged as error:
        if error.last_good is not None and position is not None and position.sequence >= manifest.base.sequence:
            raise
        good = _version_before(storage, manifest, index)
        raise Damaged(error.what, error.file, error.offset, good) from None


def _reader_of(handle: ReadHandle, name: str, manifest: Manifest, index: int) -> RecordReader:
    """A reader of this segment. One without a record may be encrypted with any key, or not.

    A power cut while the backup is encrypted anew leaves a segment that was made for the next generation.
    """
    file = manifest.segment_header(index)
    try:
        return RecordReader(handle, name, file, None, None)
    except Damaged:
        if index == manifest.first_segment or has_records(handle):
            raise
        return RecordReader(handle, name, file, None, None, any_key=True)


def _version_before(storage: Storage, manifest: Manifest, index: int) -> int:
    """The version at the end of the segments before this one. Raises Damaged for damage in them."""
    for earlier in range(index - 1, manifest.first_segment - 1, -1):
        position = scan_segment(storage, manifest, earlier).position
        if position is not None and position.sequence > manifest.base.sequence:
            return position.data_version
    return manifest.base.data_version


def check_sequence(sequence: int) -> None:
    """Raise Damaged for a sequence that no writer of this project reaches: the next ones might exceed MAX_SEQUENCE."""
    if sequence >= MAX_SEQUENCE // 2:
        raise Damaged(f"the log counts {sequence} changes, more than any node makes,", "the log", 0)


def _check_end(
    storage: Storage, manifest: Manifest, session: Session | None, last: ScannedSegment, position: Position
) -> None:
    check_sequence(position.sequence)
    if position.sequence < manifest.base.sequence:
        raise Damaged("the log ends before its snapshot", segment_name(last.index), last.tail.offset)
    if session is not None and manifest.generation < session.generation:
        raise old_manifest(manifest, session, position.data_version)
    if session is not None and position.sequence < session.sequence:
        raise Damaged(
            f"the log ends with record {position.sequence}, and record {session.sequence} (version "
            f"{session.data_version}) was once saved: the end of the log is missing",
            segment_name(last.index),
            last.tail.offset,
            position.data_version,
            misnamed(storage),
        )


def _of_another_generation(name: str, manifest: Manifest) -> bool:
    """Whether this is the name of a finished file of another generation than the current one."""
    index = segment_index(name)
    if index is not None:
        return index < manifest.first_segment
    other = name.startswith(_SNAPSHOT) and not is_part_of(name, snapshot_name(manifest.generation))
    return other and not name.endswith(TEMPORARY)
