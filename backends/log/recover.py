"""Opening a log for writing: what is there, keeping out the writer before, and a last segment that can be trusted.

After a crash or a failed sync the page cache may give back what the disk never got. So the segment that is gone on
from is written and synced again under a new name, and takes the old one's place in one rename. That also cuts off a
torn end; the bytes that are cut off are put aside in a file of their own.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass

from backends.base import Standing
from backends.errors import Damaged
from backends.log.compression import StreamError
from backends.log.documents import MANIFEST, Manifest, Session
from backends.log.format import (
    FILE_HEADER_SIZE,
    MAX_SEQUENCE,
    RECORD_HEADER_SIZE,
    FileHeader,
    FileKind,
    encode_record,
    is_part_of,
    segment_index,
    segment_name,
    snapshot_generation,
    snapshot_name,
)
from backends.log.generation import old_manifest
from backends.log.keeping import is_kept, read_kept, still_kept
from backends.log.known_damage import remove_healed
from backends.log.misnamed import misnamed
from backends.log.opening import missing_file, open_generation, segment_indexes
from backends.log.options import LogOptions
from backends.log.reading import RecordReader, StoredPayload
from backends.log.segment import Segment, create_segment
from backends.log.snapshot import SnapshotReader, open_parts
from backends.log.tail import End, Tail
from backends.storage.base import TEMPORARY, Storage

_SNAPSHOT = snapshot_name(0).rstrip("0")
_MOST_ASIDE = 64 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A segment as it was found."""

    index: int
    tail: Tail
    standing: Standing | None  # after its last record; None when it holds none


def find_end(
    storage: Storage, manifest: Manifest, session: Session | None, names: Sequence[str]
) -> tuple[Found, Standing]:
    """The segment in which the log ends, and where it ends, by reading only. `names` are those of all files.

    Raises Damaged; OSError from the storage.
    """
    try:
        _check_snapshot(storage, manifest, names)
        last, standing = _survey(storage, manifest, names)
    except FileNotFoundError as error:
        raise missing_file("current", str(error.filename or error), MANIFEST, storage) from None
    _check_end(storage, manifest, session, last, standing)
    kept = read_kept(storage, manifest)
    if any(_of_another_generation(name, manifest) and not is_kept(name, kept) for name in names):
        _check_whole_log(storage)
    return last, standing


def space_to_recover(storage: Storage, last: Found, options: LogOptions) -> int:
    """Bytes that `recover` takes at most before it gives any back: a copy of the last segment, and of a torn end."""
    end = last.tail.offset
    torn = 0
    if last.tail.end is End.TORN:
        with closing(storage.open(segment_name(last.index))) as handle:
            torn = min(max(handle.size() - end, 0), _MOST_ASIDE)
    return end + options.preallocated(end) + torn


def seal_segments(storage: Storage, first: int, names: Sequence[str]) -> Sequence[str]:
    """Take the segments from `first` on from whoever writes them, as far as the place can tell him.

    `names` are all files as they were a moment ago; returns them as they are now, when nothing is left to seal.

    Once another writer's mark is in place the one before makes no new segment that it would use. One that is being
    made has its temporary name, or has got its name meanwhile: so it looks again until there is nothing new.
    """
    sealed = set[str]()
    while True:
        for name in names:
            if _written_from(name, first) and name not in sealed:
                with suppress(FileNotFoundError):  # it has its own name by now
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
) -> tuple[Segment, Standing, str | None]:
    """The segment to append to, where the log ends, and what was cut off, in words (None: nothing).

    `keep` is the snapshot of a compaction that waits to be published; all else that is unfinished is removed.
    The writer before must be kept out; `check` raises Replaced when this one is. Raises Damaged; OSError from the
    storage.
    """
    last, standing = find_end(storage, manifest, session, names)
    torn = _put_torn_aside(storage, last) if last.tail.end is End.TORN else None
    records = _records_of(storage, manifest, last)
    segment = create_segment(storage, manifest.backup_id, last.index, options, records, replace=True)
    try:
        remove_debris(storage, manifest, last.index, check, names, keep)
    except BaseException:
        segment.handle.close()
        raise
    return segment, standing, torn


def _check_snapshot(storage: Storage, manifest: Manifest, names: Sequence[str]) -> None:
    """Only its ends: a start must not read a whole database."""
    with ExitStack() as files:
        parts = open_parts(storage, snapshot_name(manifest.generation), files, names)
        base = manifest.base
        SnapshotReader(parts, manifest.backup_id, manifest.generation, base.data_version).check_ends()


def _check_whole_log(storage: Storage) -> None:
    """Before another generation is removed: it may be the one that counts, if an old copy was put over this backup."""
    with open_generation(storage) as reader:
        for _ in reader.scan():
            pass


def _survey(storage: Storage, manifest: Manifest, names: Sequence[str]) -> tuple[Found, Standing]:
    """The segment in which the log ends, and where it ends. Segments after it were made ahead and never used."""
    last: Found | None = None
    for index in reversed(segment_indexes(names, manifest)):
        found = _look_into(storage, manifest, index)
        unused = found.standing is None and found.tail.end is End.CLEAN
        if last is None:
            if unused and index != manifest.first_segment:
                continue
            last = found
        elif found.tail.end is End.TORN:
            good = found.standing.data_version if found.standing else _version_before(storage, manifest, index)
            what = f"{found.tail.why}, and the log goes on after it"
            raise Damaged(what, segment_name(index), found.tail.offset, good)
        if found.standing is not None:
            return last, found.standing
    base = manifest.base
    assert last is not None
    return last, Standing(base.data_version, base.sequence, base.checksum, manifest.created)


def _look_into(storage: Storage, manifest: Manifest, index: int) -> Found:
    """Walk the records of one segment: checksums and chain, no unpacking."""
    standing: Standing | None = None
    name = segment_name(index)
    try:
        with closing(storage.open(name)) as handle:
            reader = RecordReader(handle, name, FileHeader(FileKind.SEGMENT, manifest.backup_id, index), None, None)
            for record in reader.records():
                header = record.header
                standing = Standing(header.data_version, header.sequence, header.checksum, header.time)
            return Found(index, reader.tail(), standing)
    except Damaged as error:
        if error.last_good is not None and standing is not None and standing.sequence >= manifest.base.sequence:
            raise
        good = _version_before(storage, manifest, index)
        raise Damaged(error.what, error.file, error.offset, good) from None


def _version_before(storage: Storage, manifest: Manifest, index: int) -> int:
    """The version that the segments before this one led to. Raises Damaged for damage in them."""
    for earlier in range(index - 1, manifest.first_segment - 1, -1):
        standing = _look_into(storage, manifest, earlier).standing
        if standing is not None and standing.sequence > manifest.base.sequence:
            return standing.data_version
    return manifest.base.data_version


def check_sequence(sequence: int) -> None:
    """Raises Damaged where no writer of this project has ever come: what follows could not be counted any more."""
    if sequence >= MAX_SEQUENCE // 2:
        raise Damaged(f"it counts {sequence} changes, and no node makes so many:", "the log", 0)


def _check_end(storage: Storage, manifest: Manifest, session: Session | None, last: Found, standing: Standing) -> None:
    check_sequence(standing.sequence)
    if standing.sequence < manifest.base.sequence:
        raise Damaged("the log ends before its snapshot", segment_name(last.index), last.tail.offset)
    if session is not None and manifest.generation < session.generation:
        raise old_manifest(manifest, session, standing.data_version)
    if session is not None and standing.sequence < session.sequence:
        raise Damaged(
            f"the log ends with record {standing.sequence}, and record {session.sequence} (version "
            f"{session.data_version}) was once saved: the end of the log is missing",
            segment_name(last.index),
            last.tail.offset,
            standing.data_version,
            misnamed(storage),
        )


def _put_torn_aside(storage: Storage, last: Found) -> str:
    """Keep a copy of the bytes that will be cut off, for whoever wants to know what happened."""
    name = segment_name(last.index)
    aside = f"torn-{name}-{int(time.time())}"
    with closing(storage.open(name)) as source:
        bytes_torn = source.read(last.tail.offset, _MOST_ASIDE).rstrip(b"\0")
    storage.publish(aside, bytes_torn)
    return (
        f"{last.tail.why} ({name} at byte {last.tail.offset}); it was never acknowledged and was cut off, "
        f"its {len(bytes_torn)} bytes are kept in {aside}"
    )


def _records_of(storage: Storage, manifest: Manifest, last: Found) -> Iterator[bytes]:
    """The segment's records, without a torn end; the file is closed again after the last of them.

    Each is checked as it is copied: what was good a moment ago may have been read from memory, or be in the hands of a
    writer that does not know yet that it was replaced. Raises Damaged.
    """
    name, end = segment_name(last.index), FILE_HEADER_SIZE
    with closing(storage.open(name)) as source:
        reader = RecordReader(source, name, FileHeader(FileKind.SEGMENT, manifest.backup_id, last.index), None, None)
        for record in reader.records():
            if record.offset == last.tail.offset:
                break  # written since, by a writer to whom nothing is acknowledged any more
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
        raise reader.damaged(f"a record has changed while it was read ({error})", offset) from None


def remove_debris(
    storage: Storage,
    manifest: Manifest,
    last_segment: int,
    check: Callable[[], None],
    names: Sequence[str],
    keep: str | None = None,
) -> None:
    """Remove what no generation needs: older ones that are not kept, unfinished files, segments made ahead of use.

    For a start or a new snapshot; `names` are all files. `check` raises Replaced when another writer has taken over
    meanwhile: what looks made ahead of use would then be its own.
    """
    for name in names:
        if keep is not None and is_part_of(name, keep):
            continue
        if name.endswith(TEMPORARY) or (segment_index(name) or 0) > last_segment:
            check()
            with suppress(FileNotFoundError):  # a writer that was replaced has named or removed it meanwhile
                storage.remove(name)
    remove_older(storage, manifest, names)


def remove_older(storage: Storage, manifest: Manifest, names: Sequence[str]) -> None:
    """Remove older generations that are not kept. Nothing that is newer, whoever has written it."""
    kept = still_kept(storage, manifest)
    for name in names:
        if _of_older_generation(name, manifest) and not is_kept(name, kept):
            with suppress(FileNotFoundError):  # a writer that was replaced has removed it meanwhile
                storage.remove(name)
    remove_healed(storage, manifest.generation)
    storage.sync_names()


def _of_older_generation(name: str, manifest: Manifest) -> bool:
    index = segment_index(name)
    if index is not None:
        return index < manifest.first_segment
    generation = snapshot_generation(name)
    return generation is not None and generation < manifest.generation


def _of_another_generation(name: str, manifest: Manifest) -> bool:
    """Whether it is a whole file of one that is not the current one."""
    index = segment_index(name)
    if index is not None:
        return index < manifest.first_segment
    other = name.startswith(_SNAPSHOT) and not is_part_of(name, snapshot_name(manifest.generation))
    return other and not name.endswith(TEMPORARY)
