"""Writing a snapshot under a temporary name, and renaming it to its final name.

A snapshot is split into several files (parts), so that none grows too large.
"""

from collections.abc import Generator, Iterable
from contextlib import ExitStack, closing
from dataclasses import replace
from hashlib import sha256
from itertools import count

from backends.log.format.codec import LARGE_SNAPSHOT, LEVEL_LARGE_SNAPSHOT, LEVEL_SNAPSHOT, Compressor
from backends.log.format.documents import Base
from backends.log.format.encryption import Sealer, known_key, stored_size
from backends.log.format.records import (
    RECORD_MAGIC,
    FileHeader,
    Flag,
    RecordHeader,
    RecordKind,
    encode_record,
    header_fields,
    part_name,
    snapshot_generation,
    snapshot_name,
    time_now,
)
from backends.log.reader.records import Chain
from backends.log.reader.snapshot import END_RECORD, SnapshotReader, open_parts, shows
from backends.log.writer.as_written import AsWritten
from backends.log.writer.options import SMALL_FILES, LogOptions
from backends.log.writer.pace import Pace
from backends.log.writer.paced import PacedFile
from backends.storage.base import Storage
from backends.system.overlap import InTurn, ahead
from backends.system.room import fits, room_for_pages


class _Parts:
    """The files of a snapshot that is being written: the next one is begun before one grows too large."""

    def __init__(
        self, storage: Storage, written: str, file: FileHeader, options: LogOptions, pace: Pace | None
    ) -> None:
        self._storage, self._written, self._file, self._options, self._pace = storage, written, file, options, pace
        self.count = 0
        self._begin()

    def _begin(self) -> None:
        self._handle = self._storage.create(self.name(self.count))
        costs = self._storage.costly
        self._paced = PacedFile(self._handle, self._options.sync_every, self._pace, syncs_cost=costs)
        self._paced.write(replace(self._file, part=self.count).encode())
        self.count += 1

    def write(self, record: bytes) -> None:
        """Write the next record. Raises OSError."""
        if self._paced.end + len(record) > self._options.max_file:
            self.sync()
            self._handle.close()
            self._begin()
        self._paced.write(record)

    def sync(self) -> None:
        """Make everything durable that was written. Raises OSError."""
        self._paced.sync()

    def name(self, part: int) -> str:
        """The name of the file with this number, from 0."""
        return part_name(self._written, part)

    @property
    def synced(self) -> int:
        """How many bytes of the open file, the last one, are durable."""
        return self._paced.synced

    def close(self) -> None:
        """Close the open file, whether the snapshot was finished or not."""
        self._handle.close()


class _Packing:
    """The pieces of a database, compressed and hashed."""

    def __init__(self, pieces: Iterable[bytes], level: int) -> None:
        self._pieces, self._level = pieces, level
        self.end = b""
        """The payload of the record that ends the snapshot, once all pieces are packed."""

    def packed(self) -> Generator[tuple[bytes, int], None, None]:
        """Each piece, compressed, and its size before. Raises what reading the pieces raises."""
        stream, digest, size = Compressor(self._level), sha256(), 0
        with InTurn(digest.update) as hashing:
            for piece in self._pieces:
                hashing.give(piece)
                size += len(piece)
                yield stream.add(piece), len(piece)
            hashing.wait()
        self.end = END_RECORD.pack(size, digest.digest())


def write_snapshot(
    storage: Storage,
    file: FileHeader,
    base: Base,
    pieces: Iterable[bytes],
    options: LogOptions,
    by: str = "",
    size: int = 0,
    pace: Pace | None = None,
) -> str:
    """Write a snapshot of the database in `pieces` (each at most PIECE bytes), durable under a temporary name.

    `file` is the header of its first part; its number is that of the generation, whose log begins after `base`. The
    snapshot is read back and checked before this returns that name. `by` becomes part of the name, and tells the
    snapshots of different makers apart. `size` is that of all pieces, if it is known. With `pace`, it is written and
    read beside commits, and yields to them. Raises Damaged if the destination returns something other than was written;
    KeyNeeded.
    """
    written = storage.temporary(f"{snapshot_name(file.number)}{by}")
    level = LEVEL_SNAPSHOT if size <= LARGE_SNAPSHOT else LEVEL_LARGE_SNAPSHOT
    with (
        closing(_Parts(storage, written, file, options, pace)) as parts,
        closing(_writing(parts, _Packing(pieces, level), file, base)) as writing,
    ):
        if storage.reads_while_written:
            forgets = not fits(size, room_for_pages())
            with AsWritten(storage, parts, writing, forgets=forgets) as stored:
                _read_back(SnapshotReader(stored, file, base), pace)
        for _ in writing:
            pass
    if not storage.reads_while_written:
        with ExitStack() as files:
            _read_back(SnapshotReader(open_parts(storage, written, files, storage.names()), file, base), pace)
    return written


def _writing(parts: _Parts, packing: _Packing, file: FileHeader, base: Base) -> Generator[None, None, None]:
    """Write all records. Yields after each of them; at the end, everything is durable."""
    chain = Chain(0, 0)
    sealer = None if file.key is None else Sealer(known_key(file.key), file)

    def add(kind: RecordKind, payload: bytes, unpacked: int) -> None:
        nonlocal chain
        begins = chain.sequence == 0
        length = len(payload) if sealer is None else stored_size(len(payload), begins)
        fields = RecordHeader(
            RECORD_MAGIC, kind, Flag.NONE, length, unpacked, base.data_version,
            chain.sequence + 1, time_now(), shows(file, base), chain.checksum, 0,
        )  # fmt: skip
        if sealer is not None:
            payload = sealer.seal(header_fields(fields), payload, begins)
        record, checksum = encode_record(fields, payload)
        parts.write(record)
        chain = Chain(fields.sequence, checksum)

    with closing(ahead(packing.packed())) as packed:
        for payload, unpacked in packed:
            add(RecordKind.PIECE, payload, unpacked)
            yield
    add(RecordKind.END, packing.end, END_RECORD.size)
    parts.sync()


def _read_back(stored: SnapshotReader, pace: Pace | None) -> None:
    """Read the snapshot, which checks every byte. Raises Damaged."""
    for _ in stored:
        if pace is not None:
            pace.give_way()


def next_generation(storage: Storage, current: int) -> int:
    """The number for the generation after the current one: the next that no snapshot has.

    A snapshot may have its final name although its generation was never published, because the machine died in between
    or the writer was fenced. It stays until a later generation is published, and is then removed as an older one.
    """
    taken = {snapshot_generation(name) for name in storage.names()}
    return next(number for number in count(current + 1) if number not in taken)


def publish_snapshot(storage: Storage, written: str, generation: int) -> None:
    """Rename a written snapshot to its final name, durably. Raises FileExistsError if that name is taken; OSError."""
    existing = set(storage.names())
    part = 0
    while part == 0 or part_name(written, part) in existing:
        storage.rename_new(part_name(written, part), part_name(snapshot_name(generation), part))
        part += 1
    storage.sync_names()


def max_compressed_size(length: int) -> int:
    """The most bytes of a snapshot of a database of `length` bytes: data that cannot be compressed grows a little."""
    return length + length // 64


def snapshot_space(length: int, options: LogOptions) -> int:
    """The most bytes that a new generation takes which begins with a database of `length` bytes."""
    return max_compressed_size(length) + options.preallocated(0) + SMALL_FILES
