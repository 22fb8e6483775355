"""Compaction: the history becomes a new snapshot, while a writer may go on appending.

The last changes are left out of the snapshot and stay in the log: a power cut may take their commits back on the node's
side, and they then roll its database forward. What is compacted is read, replayed and checked as in a restore. The
writer publishes the result, by one rename.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from backends.base import MAX_ROLL_FORWARD
from backends.compaction.checked_pieces import checked_pieces
from backends.compaction.copy_out import CopyOut
from backends.compaction.space_reserve import SpaceReserve
from backends.errors import BackupError
from backends.log.format.documents import Base
from backends.log.format.records import RECORD_HEADER_SIZE, Flag
from backends.log.reader.generation import Reader
from backends.log.reader.opening import open_generation
from backends.log.reader.passes import StoredChange
from backends.log.writer.compacted import BY, CompactedSnapshot, removed_unless_finished
from backends.log.writer.options import DEFAULT_OPTIONS, LogOptions
from backends.log.writer.pace import Pace
from backends.log.writer.snapshot import next_generation, write_snapshot
from backends.sqlite.rebuild import BytesDone, rebuild
from backends.storage.base import Storage
from backends.storage.unreachable import reaching
from backends.system.scratch import scratch_directory

LEAVE_OUT_BYTES = 4 << 20
"""The most stored bytes of all changes that are left out of the snapshot, together."""

LEAVE_OUT_MIN = 2


@dataclass(frozen=True, slots=True)
class _Place:
    """A point in the log, after a record, at which the new generation's snapshot could be taken."""

    sequence: int
    checksum: int
    next_segment: int  # the segment that holds the record after it


def compact_log(
    storage: Storage,
    scratch: Path,
    progress: BytesDone | None = None,
    *,
    keep_reserve: bool = False,
    leave_out: int = MAX_ROLL_FORWARD,
    options: LogOptions = DEFAULT_OPTIONS,
    pace: Pace | None = None,
) -> CompactedSnapshot | None:
    """Write the snapshot of a new generation; None when there is nothing to compact.

    The last `leave_out` changes that advance the version stay in the log. Meanwhile `scratch` holds a copy of the
    database. `keep_reserve` is for a compaction beside a running node: the compaction fails rather than take the space
    that the node's next commits need. With `pace`, it yields to those commits. Raises BackupError (Damaged,
    ReplayFailed, or because the writer began another generation meanwhile, or because the destination fails); then
    nothing that was written is left behind.
    """
    reserve = SpaceReserve(storage, scratch, keep_reserve=keep_reserve)
    with reaching(storage), open_generation(storage) as reader:
        begun = reader.manifest
        place = _place(reader, leave_out)
    if place is None:
        return None

    def take(change: StoredChange) -> bool:
        reserve.check_scratch()
        return change.sequence <= place.sequence

    def show(done: int, total: int) -> None:
        reserve.check_scratch()
        if pace is not None:
            pace.give_way()
        copy_out.go_on()
        if progress is not None:
            progress(done, 2 * total)  # rebuilding is the first half of the work, writing the snapshot the second

    with reaching(storage), scratch_directory(scratch) as directory, open_generation(storage) as reader:
        if reader.manifest != begun:
            raise BackupError("the compaction was overtaken by a new snapshot; it will start over when it is needed")
        database = directory / "compacted.sqlite3"
        with CopyOut(database, None if pace is None else pace.another()) as copy_out:
            rebuilt = rebuild(reader, database, show, take=take, durable=False, may_leave_check=True)
            size = database.stat().st_size
            number = next_generation(storage, begun.generation)
            base = Base(place.sequence, rebuilt.data_version, place.checksum, rebuilt.foreign_keys)
            file = begun.snapshot_header(number)
            with removed_unless_finished(storage), checked_pieces(database, rebuilt) as whole:
                pieces = _shown(reserve.checked(whole, size, pace), size, progress, copy_out)
                written = write_snapshot(storage, file, base, pieces, options, by=BY, size=size, pace=pace)
    return CompactedSnapshot(begun.generation, number, written, base, place.next_segment)


def segments_freed(storage: Storage) -> int | None:
    """How many segments `compact_log` would free; None when there is nothing to compact. Raises the same errors."""
    with reaching(storage), open_generation(storage) as reader:
        place = _place(reader, MAX_ROLL_FORWARD)
        return None if place is None else place.next_segment - reader.manifest.first_segment


def _shown(pieces: Iterable[bytes], size: int, progress: BytesDone | None, copy_out: CopyOut) -> Iterator[bytes]:
    """The pieces unchanged, reporting progress through the second half of the work."""
    done = 0
    for piece in pieces:
        yield piece
        done += len(piece)
        copy_out.go_on()
        if progress is not None:
            progress(size + done, 2 * size)


def _place(reader: Reader, leave_out: int) -> _Place | None:
    """The last place with `leave_out` changes that advance the version after it; None if there is nothing to compact.

    Fewer changes are left out if they are large, so that what stays does not trigger the next compaction at once; but
    never fewer than LEAVE_OUT_MIN, the most that a power cut takes back.
    """
    base, read = reader.manifest.base, 0
    before = (base.sequence, base.checksum)
    places: deque[tuple[_Place, int]] = deque(maxlen=leave_out)
    for index, header in reader.scan():
        if header.flags & Flag.ADVANCES:
            places.append((_Place(*before, index), read))
        before = (header.sequence, header.checksum)
        read += RECORD_HEADER_SIZE + header.length
    while len(places) > min(LEAVE_OUT_MIN, leave_out) and read - places[0][1] > LEAVE_OUT_BYTES:
        places.popleft()
    if not places or places[0][0].sequence <= base.sequence:
        return None
    return places[0][0]
