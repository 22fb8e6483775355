"""Opening a log for writing: fence the previous writer, find the log's end, make a last segment that can be trusted.

After a crash or a failed sync the page cache may return data that the disk never got. So the last segment, which will
be appended to, is written and synced again under a temporary name, and replaces the old one by one rename. That also
cuts off a torn end; the bytes that are cut off are kept in a file of their own.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress

from backends.base import Position
from backends.keep import Keep
from backends.log.format.codec import StreamError
from backends.log.format.documents import Manifest, Session
from backends.log.format.history import History
from backends.log.format.records import (
    FILE_HEADER_SIZE,
    RECORD_HEADER_SIZE,
    encode_record,
    is_part_of,
    segment_index,
    segment_name,
    snapshot_generation,
)
from backends.log.format.torn import End
from backends.log.known_damage import remove_healed
from backends.log.reader.end import ScannedSegment, find_end
from backends.log.reader.kept import is_kept
from backends.log.reader.records import RecordReader, StoredPayload
from backends.log.writer.keeping import still_kept, tidy_history
from backends.log.writer.options import LogOptions
from backends.log.writer.segment import Segment, create_segment
from backends.storage.base import TEMPORARY, Storage

_MAX_ASIDE = 64 << 20

TORN = "torn-"
"""Begins the names of the files that hold what was cut off."""


def space_to_recover(storage: Storage, last: ScannedSegment, options: LogOptions) -> int:
    """The most bytes that `recover` needs before it frees any: for a copy of the last segment, and of a torn end."""
    end = last.tail.offset
    torn = 0
    if last.tail.end is End.TORN:
        with closing(storage.open(segment_name(last.index))) as handle:
            torn = min(max(handle.size() - end, 0), _MAX_ASIDE)
    return end + options.preallocated(end) + torn


def seal_segments(storage: Storage, first: int, names: Sequence[str]) -> Sequence[str]:
    """Seal the segments from index `first` on: fence their writer, as far as the place supports that.

    `names` are the names of all files as of a moment ago. Returns the names as they are once nothing is left to seal.

    Once our mark is in place, the previous writer makes no new segment that it would use. But a segment may be in the
    making: it has a temporary name, or just got its final one. So the files are listed again until none is new.
    """
    storage.stop_late_changes()
    sealed = set[str]()
    while True:
        for name in names:
            if _written_from(name, first) and name not in sealed:
                with suppress(FileNotFoundError):  # it has its final name by now
                    storage.seal(name)
                sealed.add(name)
        names = storage.names()
        if all(name in sealed for name in names if _written_from(name, first)):
            return names


def _written_from(name: str, first: int) -> bool:
    if name.endswith(TEMPORARY):
        name = name.removesuffix(TEMPORARY).rpartition("-")[0]
    index = segment_index(name)
    return index is not None and index >= first


def recover(
    storage: Storage,
    manifest: Manifest,
    session: Session | None,
    check: Callable[[], None],
    options: LogOptions,
    names: Sequence[str],
    keep: str | None = None,
) -> tuple[Segment, Position, str | None]:
    """The segment to append to, where the log ends, and a description of what was cut off (None if nothing was).

    `keep` is the snapshot of a compaction that waits to be published; every other unfinished file is removed. The
    previous writer must be fenced already; `check` raises Fenced if this writer is fenced itself. Raises Damaged;
    OSError from the storage.
    """
    last, position = find_end(storage, manifest, session, names)
    torn = _put_torn_aside(storage, last) if last.tail.end is End.TORN else None
    records = _records_of(storage, manifest, last)
    segment = create_segment(storage, manifest.segment_header(last.index), options, records, replace=True)
    try:
        remove_obsolete_files(storage, manifest, last.index, check, names, options.keep, keep)
    except BaseException:
        segment.handle.close()
        raise
    return segment, position, torn


def _put_torn_aside(storage: Storage, last: ScannedSegment) -> str:
    """Keep a copy of the bytes that will be cut off, for a later inquiry. Returns a description for the node's log."""
    name = segment_name(last.index)
    aside = f"{TORN}{name}-{int(time.time())}"
    with closing(storage.open(name)) as source:
        bytes_torn = source.read(last.tail.offset, _MAX_ASIDE).rstrip(b"\0")
    storage.publish(aside, bytes_torn)
    return (
        f"{last.tail.why} ({name} at byte {last.tail.offset}); it was never acknowledged and was cut off, "
        f"its {len(bytes_torn)} bytes are kept in {aside}"
    )


def _records_of(storage: Storage, manifest: Manifest, last: ScannedSegment) -> Iterator[bytes]:
    """The bytes of the segment's records, without a torn end. The file is closed after the last of them.

    Each record is checked as it is copied: what was good a moment ago may have been read from the page cache, or may be
    changed by a writer that does not know yet that it is fenced. Raises Damaged.
    """
    name, end = segment_name(last.index), FILE_HEADER_SIZE
    with closing(storage.open(name)) as source:
        reader = RecordReader(source, name, manifest.segment_header(last.index), None, None)
        for record in reader.records():
            if record.offset == last.tail.offset:
                break  # written since by a fenced writer, which can acknowledge nothing any more
            if isinstance(record.payload, StoredPayload):
                yield record.payload.start
                yield from _checked_blocks(record.payload, reader, record.offset)
            else:
                yield encode_record(record.header, record.payload)[0]
            end = record.offset + RECORD_HEADER_SIZE + len(record.payload)
    if end != last.tail.offset:
        raise reader.damaged("records that were there a moment ago are gone", end)


def _checked_blocks(payload: StoredPayload, reader: RecordReader, offset: int) -> Iterator[bytes]:
    try:
        yield from payload.blocks()
    except StreamError as error:
        raise reader.damaged(f"a record changed while it was read ({error})", offset) from None


def remove_obsolete_files(
    storage: Storage,
    manifest: Manifest,
    last_segment: int,
    check: Callable[[], None],
    names: Sequence[str],
    history: Keep | None,
    keep: str | None = None,
) -> None:
    """Remove obsolete files: older generations that are not kept, unfinished files, unused segments made ahead of use.

    For a start or a new snapshot. `names` are those of all files. `check` raises Fenced if another writer has taken
    over meanwhile: then a segment that looks unused would be that writer's.
    """
    for name in sorted(names, reverse=True):  # of unused segments the last first: a crash must leave no gap
        if keep is not None and is_part_of(name, keep):
            continue
        if name.endswith(TEMPORARY) or (segment_index(name) or 0) > last_segment:
            check()
            with suppress(FileNotFoundError):  # a fenced writer has renamed or removed it meanwhile
                storage.remove(name)
    remove_older(storage, manifest, names, tidy_history(storage, manifest, history, names, check), check)


def remove_older(
    storage: Storage, manifest: Manifest, names: Sequence[str], history: History, check: Callable[[], None]
) -> None:
    """Remove older generations that are not kept. Never removes a newer one, whichever writer made it; and nothing once
    `check` raises Fenced, as another writer may keep what this one does not."""
    kept = [each for each in (still_kept(storage, manifest), *history.generations) if each is not None]
    for name in names:
        older = _of_older_generation(name, manifest) or (manifest.key is not None and torn_earlier(name, manifest))
        if older and not any(is_kept(name, each) for each in kept):
            check()
            with suppress(FileNotFoundError):  # a fenced writer has removed it meanwhile
                storage.remove(name)
    remove_healed(storage, manifest.generation)
    storage.sync_names()


def torn_earlier(name: str, manifest: Manifest) -> bool:
    """Whether this file holds what was cut off from an earlier generation, which may not have been encrypted yet."""
    index = segment_index(name.removeprefix(TORN).rpartition("-")[0]) if name.startswith(TORN) else None
    return index is not None and index < manifest.first_segment


def _of_older_generation(name: str, manifest: Manifest) -> bool:
    index = segment_index(name)
    if index is not None:
        return index < manifest.first_segment
    generation = snapshot_generation(name)
    return generation is not None and generation < manifest.generation
