"""A snapshot file: a whole SQLite database as one compressed stream, in pieces, then its size and SHA-256.

It goes on in further files (parts) before one has more than 1 GiB.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from hashlib import sha256
from itertools import count

from backends.errors import Damaged
from backends.log.compression import LEVEL_SNAPSHOT, Compressor, Decompressor, StreamError
from backends.log.format import (
    FILE_HEADER_SIZE,
    RECORD_HEADER_SIZE,
    RECORD_MAGIC,
    FileHeader,
    FileKind,
    Flag,
    RecordHeader,
    RecordKind,
    check_file_header,
    decode_record_header,
    encode_record,
    part_name,
    record_checksum,
    snapshot_generation,
    snapshot_name,
    time_now,
)
from backends.log.options import LogOptions
from backends.log.reading import Chain, Record, RecordReader
from backends.log.tail import End
from backends.storage.base import ReadHandle, Storage

PIECE = 1 << 18
_MOST_STORED = PIECE + (PIECE >> 6) + 1024
"""Bytes that a piece takes at most: zstd adds less than 1 % to what does not compress."""

_END = struct.Struct("<Q32s")

_CUT = "the snapshot ends in the middle: it was not copied whole, or cut"


class SnapshotReader:
    """A snapshot as it is read back, from the files that hold its parts, in order; as often as one likes."""

    def __init__(
        self, parts: Sequence[tuple[str, ReadHandle]], backup_id: bytes, generation: int, data_version: int
    ) -> None:
        self._parts, self._backup_id, self._generation = parts, backup_id, generation
        self._data_version = data_version

    def size(self) -> int:
        """Bytes of all parts, as they lie in their files."""
        return sum(handle.size() for _, handle in self._parts)

    def __iter__(self) -> Iterator[bytes]:
        """The database, piece by piece. Raises Damaged; nothing may be believed before the end was reached."""
        for piece, _ in self.pieces():
            yield piece

    def pieces(self) -> Iterator[tuple[bytes, int]]:
        """The same, each piece with the stored bytes read so far."""
        stream, digest, size, read = Decompressor(), sha256(), 0, 0
        for reader, record in self._records():
            if record.header.data_version != self._data_version:
                raise reader.damaged(
                    f"it is a snapshot of version {record.header.data_version}, and the manifest wants one of version "
                    f"{self._data_version}: files of different times were mixed",
                    record.offset,
                )
            if record.header.kind == RecordKind.END:
                if record.payload != _END.pack(size, digest.digest()):
                    raise reader.damaged("the database in it does not fit its digest", record.offset)
                return
            if record.header.kind != RecordKind.PIECE or record.header.size > PIECE:
                raise reader.damaged("a record that no snapshot has", record.offset)
            assert isinstance(record.payload, bytes)  # never more than _MOST_STORED
            try:
                piece = stream.whole(record.payload, record.header.size)
            except StreamError as error:
                raise reader.damaged(f"a piece cannot be unpacked ({error})", record.offset) from None
            digest.update(piece)
            size += len(piece)
            read += len(record.payload) + RECORD_HEADER_SIZE
            yield piece, read
        name, handle = self._parts[-1]
        raise Damaged(_CUT, name, handle.size())

    def check_ends(self) -> None:
        """See whether the files begin and end as they must, without reading what lies between. Raises Damaged.

        That costs nothing, and finds a snapshot that was cut, emptied or not copied whole.
        """
        for part, (name, handle) in enumerate(self._parts):
            header = FileHeader(FileKind.SNAPSHOT, self._backup_id, self._generation, part)
            check_file_header(handle.read(0, FILE_HEADER_SIZE), header, name)
        if not self._has_its_end():
            for _ in self:  # says what is wrong, if anything: what follows the end means nothing
                pass

    def _has_its_end(self) -> bool:
        """Whether the last file ends with the record that ends a snapshot."""
        _, handle = self._parts[-1]
        length = RECORD_HEADER_SIZE + _END.size
        end = handle.read(max(handle.size() - length, 0), length)
        header = decode_record_header(end)
        if header is None or (header.kind, header.data_version) != (RecordKind.END, self._data_version):
            return False
        return record_checksum(end, end[RECORD_HEADER_SIZE:]) == header.checksum

    def _records(self) -> Iterator[tuple[RecordReader, Record]]:
        """The records of all parts; the chain runs on from one to the next."""
        chain = Chain(0, 0)
        for part, (name, handle) in enumerate(self._parts):
            header = FileHeader(FileKind.SNAPSHOT, self._backup_id, self._generation, part)
            # No version is good after a part of a database.
            reader = RecordReader(handle, name, header, chain, None, _MOST_STORED, good_after=None)
            for record in reader.records():
                chain = Chain(record.header.sequence, record.header.checksum)
                yield reader, record
            tail = reader.tail()
            if tail.end is not End.CLEAN:  # a snapshot is never written to, so no power cut tears it
                raise reader.damaged(_CUT, tail.offset)


class _Parts:
    """The files of a snapshot that is being written: another one is begun before one grows too large."""

    def __init__(self, storage: Storage, written: str, backup_id: bytes, generation: int, options: LogOptions) -> None:
        self._storage, self._written, self._backup_id, self._generation = storage, written, backup_id, generation
        self._options = options
        self.count = 0
        self._begin()

    def _begin(self) -> None:
        self._handle = self._storage.create(part_name(self._written, self.count))
        header = FileHeader(FileKind.SNAPSHOT, self._backup_id, self._generation, self.count)
        self._handle.write(0, header.encode())
        self._offset = self._unsynced = FILE_HEADER_SIZE
        self.count += 1

    def write(self, record: bytes) -> None:
        """The next record."""
        if self._offset + len(record) > self._options.max_file:
            self.sync()
            self._handle.close()
            self._begin()
        self._handle.write(self._offset, record)
        self._offset += len(record)
        self._unsynced += len(record)
        if self._unsynced >= self._options.sync_every:
            self.sync()

    def sync(self) -> None:
        """All is durable when this returns."""
        self._handle.sync()
        self._unsynced = 0

    def close(self) -> None:
        """Whether it was finished or not."""
        self._handle.close()


def write_snapshot(
    storage: Storage,
    backup_id: bytes,
    generation: int,
    data_version: int,
    pieces: Iterable[bytes],
    options: LogOptions,
    by: str = "",
) -> str:
    """A snapshot of the database in `pieces` (each at most PIECE bytes), durable under a temporary name.

    Read back and compared before this returns that name; `by` tells those of several makers apart.
    Raises Damaged when the destination gives back something else than was written.
    """
    written = storage.temporary(f"{snapshot_name(generation)}{by}")
    stream, digest, size, chain = Compressor(LEVEL_SNAPSHOT), sha256(), 0, Chain(0, 0)
    with closing(_Parts(storage, written, backup_id, generation, options)) as parts:

        def add(kind: RecordKind, payload: bytes, unpacked: int) -> None:
            nonlocal chain
            fields = RecordHeader(
                RECORD_MAGIC, kind, Flag.NONE, len(payload), unpacked, data_version,
                chain.sequence + 1, time_now(), 0, chain.checksum, 0,
            )  # fmt: skip
            record, checksum = encode_record(fields, payload)
            parts.write(record)
            chain = Chain(fields.sequence, checksum)

        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            add(RecordKind.PIECE, stream.add(piece), len(piece))
        add(RecordKind.END, _END.pack(size, digest.digest()), _END.size)
        parts.sync()
    with ExitStack() as files:
        opened = open_parts(storage, written, files, storage.names())
        for _ in SnapshotReader(opened, backup_id, generation, data_version):
            pass  # reading checks every byte
    return written


def open_parts(storage: Storage, name: str, files: ExitStack, names: Sequence[str]) -> list[tuple[str, ReadHandle]]:
    """The parts of the snapshot with this name, to be closed with `files`; `names` are those of all files.

    FileNotFoundError without the first.
    """
    parts: list[tuple[str, ReadHandle]] = []
    there = set(names)
    while not parts or part_name(name, len(parts)) in there:
        part = part_name(name, len(parts))
        handle = storage.open(part)
        files.callback(handle.close)
        parts.append((part, handle))
    return parts


def next_generation(storage: Storage, current: int) -> int:
    """The number for the generation after the current one: the next that no snapshot has.

    One that was named and never published (the machine died in between, or its writer had been replaced) stays until a
    later generation is published, and is then an older one that is removed.
    """
    taken = {snapshot_generation(name) for name in storage.names()}
    return next(number for number in count(current + 1) if number not in taken)


def publish_snapshot(storage: Storage, written: str, generation: int) -> None:
    """Give a written snapshot its name, durably. FileExistsError when another one has been given it."""
    there = set(storage.names())
    part = 0
    while part == 0 or part_name(written, part) in there:
        storage.rename_new(part_name(written, part), part_name(snapshot_name(generation), part))
        part += 1
    storage.sync_names()
