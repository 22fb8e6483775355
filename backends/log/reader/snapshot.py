"""Reading a snapshot: a whole SQLite database as one compressed stream, in pieces, then its size and SHA-256.

A snapshot is split into several files (parts), so that none has more than 1 GiB.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256

from backends import keyring
from backends.errors import Damaged
from backends.log.format.codec import Decompressor, StreamError
from backends.log.format.documents import Base
from backends.log.format.encryption import Opener, Tampered, known_key, stored_size
from backends.log.format.records import (
    FILE_HEADER_SIZE,
    RECORD_HEADER_SIZE,
    FileHeader,
    RecordKind,
    check_file_header,
    decode_record_header,
    part_name,
    record_checksum,
)
from backends.log.format.torn import End
from backends.log.reader.records import Chain, Record, RecordReader
from backends.storage.base import ReadHandle, Storage
from backends.storage.passing import Passing
from backends.system.overlap import InTurn

PIECE = 1 << 18
_MAX_STORED = PIECE + (PIECE >> 6) + 1024
"""The most stored bytes of a piece: zstd adds less than 1 % to data that does not compress."""

END_RECORD = struct.Struct("<Q32s")

_CUT = "the snapshot ends in the middle: it was not copied completely, or was cut off,"


def shows(file: FileHeader, base: Base) -> int:
    """What the header of each record shows where that of a change has a fingerprint.

    In an encrypted backup, from what the log goes on: nobody can put another snapshot of this number and version in its
    place, one that was never published. In a plain one they could write what they like.
    """
    return 0 if file.key is None else base.checksum


class SnapshotReader:
    """A snapshot, read from the open files of its parts, in order. It can be read any number of times."""

    def __init__(self, parts: Sequence[tuple[str, ReadHandle]], file: FileHeader, base: Base) -> None:
        """`file` is the file header that the first part must have; the generation's log begins after `base`."""
        self._parts, self._file, self._base = parts, file, base

    def size(self) -> int:
        """Bytes of the files of all parts."""
        return sum(handle.size() for _, handle in self._parts)

    def __iter__(self) -> Iterator[bytes]:
        """The database, piece by piece. Raises Damaged. No piece may be trusted before the end was reached."""
        for piece, _ in self.pieces():
            yield piece

    def pieces(self, *, forgets: bool = False) -> Iterator[tuple[bytes, int]]:
        """The database, piece by piece, each with the number of stored bytes read so far. Raises Damaged, KeyNeeded.

        With `forgets`, the stored bytes do not stay in this machine's memory, which is needed for the database.
        """
        stream, digest, size, read = Decompressor(), sha256(), 0, 0
        opener = None if self._file.key is None else Opener(known_key(self._file.key), self._file)
        with InTurn(digest.update) as hashing:
            for reader, record in self._until_end(forgets=forgets):
                assert isinstance(record.payload, bytes)  # never more than _MAX_STORED bytes
                payload = record.payload
                if opener is not None:
                    try:
                        payload = opener.open(record.header, payload, begins_stream=record.header.sequence == 1)
                    except Tampered as error:
                        raise reader.damaged(f"a piece cannot be decrypted: {error}", record.offset) from None
                if record.header.kind == RecordKind.END:
                    hashing.wait()
                    if payload != END_RECORD.pack(size, digest.digest()):
                        raise reader.damaged("the database in it does not match its digest", record.offset)
                    return
                try:
                    piece = stream.whole(payload, record.header.size)
                except StreamError as error:
                    raise reader.damaged(f"a piece cannot be unpacked ({error})", record.offset) from None
                hashing.give(piece)
                size += len(piece)
                read += len(record.payload) + RECORD_HEADER_SIZE
                yield piece, read

    def _until_end(self, *, forgets: bool = False) -> Iterator[tuple[RecordReader, Record]]:
        """The records of all parts, up to and with the one that ends the snapshot. Raises Damaged if it is missing."""
        for reader, record in self._records(forgets):
            if record.header.data_version != self._base.data_version:
                raise reader.damaged(
                    f"it is a snapshot of version {record.header.data_version}, but the manifest names version "
                    f"{self._base.data_version}: files of different times were mixed",
                    record.offset,
                )
            if record.header.database != shows(self._file, self._base):
                raise reader.damaged(
                    "it is not the snapshot that the manifest names: files of different times were mixed", record.offset
                )
            ends = record.header.kind == RecordKind.END
            if not ends and (record.header.kind != RecordKind.PIECE or record.header.size > PIECE):
                raise reader.damaged("a record that no snapshot contains", record.offset)
            yield reader, record
            if ends:
                return
        name, handle = self._parts[-1]
        raise Damaged(_CUT, name, handle.size())

    def check_stored(self) -> Iterator[int]:
        """Check all that can be checked without the key: the records, their chain, and their end. Iterate it.

        Not what they hold: the database in them is neither decrypted nor unpacked. Yields the number of stored bytes
        checked so far; never holds more than one record in memory. Raises Damaged.
        """
        read = 0
        for reader, record in self._until_end():
            header = record.header
            shortest = stored_size(0, header.sequence == 1) if self._file.key is not None else 0
            stored_end = END_RECORD.size + shortest
            if header.flags or header.length < shortest:
                raise reader.damaged("a record that no snapshot contains", record.offset)
            if header.kind == RecordKind.END and (header.size, header.length) != (END_RECORD.size, stored_end):
                raise reader.damaged("the record that ends the snapshot has another size", record.offset)
            read += RECORD_HEADER_SIZE + header.length
            yield read

    def check_ends(self) -> None:
        """Check that the files begin and end as they must, without reading what is in between. Raises Damaged.

        That costs almost nothing, and finds a snapshot that was cut off, emptied or not copied completely.
        """
        for part, (name, handle) in enumerate(self._parts):
            check_file_header(handle.read(0, FILE_HEADER_SIZE), replace(self._file, part=part), name)
        if not self._has_its_end():  # then read it, which raises if something is wrong; what follows the end is ignored
            unreadable = self._file.key is not None and keyring.find(self._file.key) is None
            for _ in self.check_stored() if unreadable else self.pieces():
                pass

    def _has_its_end(self) -> bool:
        """Whether the last file ends with the record that ends a snapshot."""
        if self._file.key is None:
            return self._ends_with(END_RECORD.size)
        # In a snapshot of no database, this record is the first one, and begins the stream.
        return any(self._ends_with(stored_size(END_RECORD.size, begins)) for begins in (False, True))

    def _ends_with(self, payload: int) -> bool:
        """Whether the last file ends with an end record whose payload has this many stored bytes."""
        _, handle = self._parts[-1]
        length = RECORD_HEADER_SIZE + payload
        end = handle.read(max(handle.size() - length, 0), length)
        header = decode_record_header(end)
        expected = (RecordKind.END, self._base.data_version, shows(self._file, self._base))
        if header is None or (header.kind, header.data_version, header.database) != expected:
            return False
        return record_checksum(end, end[RECORD_HEADER_SIZE:]) == header.checksum

    def _records(self, forgets: bool) -> Iterator[tuple[RecordReader, Record]]:
        """The records of all parts; the chain continues from one part to the next."""
        chain = Chain(0, 0)
        for part, (name, handle) in enumerate(self._parts):
            header = replace(self._file, part=part)
            # Part of a database is no good version.
            passing = Passing(handle) if forgets else handle
            reader = RecordReader(passing, name, header, chain, None, _MAX_STORED, good_after=None)
            for record in reader.records():
                chain = Chain(record.header.sequence, record.header.checksum)
                yield reader, record
            tail = reader.tail()
            if tail.end is not End.CLEAN:  # a published snapshot is never written to, so no power cut tears it
                raise reader.damaged(_CUT, tail.offset)


def open_parts(storage: Storage, name: str, files: ExitStack, names: Sequence[str]) -> list[tuple[str, ReadHandle]]:
    """The parts of the snapshot with this name, to be closed with `files`; `names` are those of all files.

    Raises FileNotFoundError if the first part is missing.
    """
    parts: list[tuple[str, ReadHandle]] = []
    existing = set(names)
    while not parts or part_name(name, len(parts)) in existing:
        part = part_name(name, len(parts))
        handle = storage.open(part)
        files.callback(handle.close)
        parts.append((part, handle))
    return parts
