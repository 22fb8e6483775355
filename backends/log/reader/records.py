"""Reading the records of one file in order, and checking each against its checksum and the chain."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

from backends.errors import Damaged
from backends.log.format.codec import StreamError
from backends.log.format.records import (
    FILE_HEADER_SIZE,
    MAX_FILE,
    RECORD_HEADER_SIZE,
    FileHeader,
    RecordHeader,
    check_file_header,
    decode_record,
    decode_record_header,
    record_checksum,
)
from backends.log.format.torn import End, Tail, classify, first_nonzero
from backends.storage.base import ReadHandle

_READ_AHEAD = 1 << 18
LARGE = 1 << 20
"""A record whose payload has more stored bytes than this is not held in memory."""

_ATTEMPTS = 10
"""How often a bad tail is read again, 20 ms apart: with a running writer it may be a record that is being written."""


@dataclass(frozen=True, slots=True)
class StoredPayload:
    """The payload of a record that is too large for memory: it is checked in the file and read from there."""

    handle: ReadHandle
    offset: int
    length: int
    start: bytes
    """The record's header."""
    checksum: int

    def __len__(self) -> int:
        return self.length

    def blocks(self) -> Iterator[bytes]:
        """The stored bytes. Raises StreamError after the last block if they do not match the record's checksum."""
        checksum = record_checksum(self.start, b"")
        for block in self.handle.blocks(self.offset, self.offset + self.length):
            checksum = crc32(block, checksum)
            yield block
        if checksum != self.checksum:
            raise StreamError("its bytes do not match their checksum")

    def is_good(self) -> bool:
        """Whether the whole payload matches the record's checksum."""
        try:
            for _ in self.blocks():
                pass
        except StreamError:
            return False
        return True


class Record(NamedTuple):
    """One record, and its offset in its file."""

    header: RecordHeader
    payload: bytes | StoredPayload
    offset: int


@dataclass(frozen=True, slots=True)
class Chain:
    """Sequence and checksum of the record that was read last: the next record must follow it."""

    sequence: int
    checksum: int


class RecordReader:
    """One pass over the records of an open file: iterate `records` or `runs` once; then `tail` says how they end.

    `header` is the file header that the file must have; with `any_key`, the file may be encrypted with any key or none.
    `chain` is what the first record must follow, or None if that is not known (the segments before it are gone).
    `last_good` is the version at the end of the records before this file, for errors. Every record with a sequence
    greater than `good_after` makes its own version the last good one; with `good_after` None, no record does. A payload
    of more than `most` bytes is damage and is not even read, because it would have to fit into memory.
    Raises Damaged for anything but a clean or torn end.
    """

    def __init__(
        self,
        handle: ReadHandle,
        name: str,
        header: FileHeader,
        chain: Chain | None,
        last_good: int | None,
        most: int = MAX_FILE,
        *,
        good_after: int | None = 0,
        any_key: bool = False,
    ) -> None:
        self.handle, self.name, self.file, self.index = handle, name, header, header.number
        self._chain, self._most = chain, most
        self._last_good, self._good_after = last_good, good_after
        self._tail: Tail | None = None
        self._buffer, self._buffered_at = b"", 0
        self._size = self._limit = handle.size()  # reading must end even if the log grows as fast as it is read
        if self._size > 2 * MAX_FILE:
            raise self.damaged(f"the file has {self._size} bytes, more than any writer makes", MAX_FILE)
        try:
            check_file_header(handle.read(0, FILE_HEADER_SIZE), header, name, any_key=any_key)
        except Damaged as error:
            raise self.damaged(error.what, error.offset) from None

    def records(self) -> Iterator[Record]:
        """Every good record, in order."""
        for run in self.runs():
            yield from run

    def runs(self, offset: int = FILE_HEADER_SIZE) -> Iterator[list[Record]]:
        """Every good record in order, as many at a time as one read returns, which halves the steps of a restore.

        They begin at `offset`, where the record of the chain ends if that is not the beginning of the file.
        """
        while offset < self._limit:
            run = self._run_at(offset)
            if not run:  # the first record, a large one, a bad one, or the end
                found = self._record_at(offset) or self._look_again(offset)
                if isinstance(found, Tail):
                    tail = found
                    break
                run = [found]
            last = run[-1]
            self._chain = Chain(last.header.sequence, last.header.checksum)
            if self._good_after is not None and last.header.sequence > self._good_after:
                self._last_good = last.header.data_version
            yield run
            offset = last.offset + RECORD_HEADER_SIZE + len(last.payload)
        else:
            tail = Tail(End.CLEAN, offset)
        if tail.end is End.DAMAGED:
            raise self.damaged(tail.why, offset)
        self._tail = tail

    def tail(self) -> Tail:
        """What follows the last record: nothing, or a torn one. Raises RuntimeError until all records were read."""
        if self._tail is None:
            raise RuntimeError(f"the records of {self.name} were not read to their end")
        return self._tail

    def damaged(self, what: str, offset: int) -> Damaged:
        """The error for damage at `offset` in this file."""
        return Damaged(what, self.name, offset, self._last_good)

    def _run_at(self, offset: int) -> list[Record]:
        """The consecutive good records from `offset` on, within one read; empty while the chain is not known yet."""
        run: list[Record] = []
        if self._chain is None:
            return run
        sequence, checksum = self._chain.sequence, self._chain.checksum
        self._read(offset, RECORD_HEADER_SIZE)
        data, first = self._buffer, self._buffered_at
        while (found := decode_record(data, offset - first)) is not None:
            header, payload = found
            sequence += 1
            if header.sequence != sequence or header.previous != checksum or header.length > self._most:
                break
            run.append(Record(header, payload, offset))
            checksum = header.checksum
            offset += RECORD_HEADER_SIZE + header.length
        return run

    def _look_again(self, offset: int) -> Record | Tail:
        """Read a bad record again: one that was being written becomes good; one that stays bad is classified."""
        for _ in range(_ATTEMPTS):
            if first_nonzero(self.handle, offset, self.handle.size()) is None:
                break
            time.sleep(0.02)
            self._buffer = b""
            record = self._record_at(offset)
            if record is not None:
                return record
        tail = classify(self.handle, offset)
        self._buffer = b""
        return (None if tail.end is End.CLEAN else self._record_at(offset)) or tail

    def _record_at(self, offset: int) -> Record | None:
        """The record that begins at `offset`; None if there is no good one. Raises Damaged if it breaks the chain."""
        start = self._read(offset, RECORD_HEADER_SIZE)
        header = decode_record_header(start)
        if header is None:
            return None
        chain = self._chain
        if chain is not None and (header.sequence != chain.sequence + 1 or header.previous != chain.checksum):
            raise self.damaged(
                f"record {header.sequence} does not follow record {chain.sequence}: something in between is "
                "missing, or files of different times were mixed",
                offset,
            )
        if header.length > self._most:
            raise self.damaged(f"a record claims {header.length} bytes, more than any record has", offset)
        if not self._holds(offset + RECORD_HEADER_SIZE + header.length):
            return None
        if header.length > LARGE:
            stored = StoredPayload(self.handle, offset + RECORD_HEADER_SIZE, header.length, start, header.checksum)
            return Record(header, stored, offset) if stored.is_good() else None
        payload = self._read(offset + RECORD_HEADER_SIZE, header.length)
        if record_checksum(start, payload) != header.checksum:
            return None
        return Record(header, payload, offset)

    def _holds(self, end: int) -> bool:
        """Whether the file reaches to byte `end`: the length in a header is not believed before that is checked."""
        if end > self._size:
            self._size = self.handle.size()
        return end <= self._size

    def _read(self, offset: int, length: int) -> bytes:
        start = offset - self._buffered_at
        if start < 0 or start + length > len(self._buffer):
            try:
                self._buffer, self._buffered_at, start = self.handle.read(offset, max(length, _READ_AHEAD)), offset, 0
            except Damaged as error:  # an object store: part of the file is gone
                raise self.damaged(error.what, error.offset) from None
        return self._buffer[start : start + length]
