"""Reading the records of one file, in order, each checked against its checksum and the chain."""

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
"""Stored bytes of a record above which it is not held in memory."""

_ATTEMPTS = 10
"""How often a bad tail is looked at again, 20 ms apart: beside a running writer it is a record under way."""


@dataclass(frozen=True, slots=True)
class StoredPayload:
    """The payload of a record that is too large for the memory: it is checked where it lies, and read from there."""

    handle: ReadHandle
    offset: int
    length: int
    start: bytes
    """The record's header."""
    checksum: int

    def __len__(self) -> int:
        return self.length

    def blocks(self) -> Iterator[bytes]:
        """The stored bytes. StreamError after the last when they are not what was checked before."""
        checksum = record_checksum(self.start, b"")
        for block in self.handle.blocks(self.offset, self.offset + self.length):
            checksum = crc32(block, checksum)
            yield block
        if checksum != self.checksum:
            raise StreamError("its bytes do not fit their checksum")

    def is_good(self) -> bool:
        """Whether all of it fits its checksum."""
        try:
            for _ in self.blocks():
                pass
        except StreamError:
            return False
        return True


class Record(NamedTuple):
    """One record as it lies in a file."""

    header: RecordHeader
    payload: bytes | StoredPayload
    offset: int


@dataclass(frozen=True, slots=True)
class Chain:
    """The record that was read last: what the next one must follow."""

    sequence: int
    checksum: int


class RecordReader:
    """One pass over the records of an open file: `records` or `runs`, once, and then `tail` tells how they end.

    `chain` is what the first record must follow, or None where that is not known (the segments before it are gone).
    `last_good` is the version that the records before them led to, for errors; a record with a sequence greater than
    `good_after` leads to its own version, and with None there no record does. A payload of more than `most` bytes is
    not even read: it would have to fit into memory.
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
    ) -> None:
        self.handle, self.name, self.index = handle, name, header.number
        self._chain, self._most = chain, most
        self._last_good, self._good_after = last_good, good_after
        self._tail: Tail | None = None
        self._buffer, self._buffered_at = b"", 0
        self._size = self._limit = handle.size()  # the reader of a log that grows as fast as it reads must end, too
        if self._size > 2 * MAX_FILE:
            raise self.damaged(f"the file has {self._size} bytes, more than a writer lets it have", MAX_FILE)
        try:
            check_file_header(handle.read(0, FILE_HEADER_SIZE), header, name)
        except Damaged as error:
            raise self.damaged(error.what, error.offset) from None

    def records(self) -> Iterator[Record]:
        """Every good record, in order."""
        for run in self.runs():
            yield from run

    def runs(self) -> Iterator[list[Record]]:
        """The same, as many at a time as one read brings: a restore is done in half the steps."""
        offset = FILE_HEADER_SIZE
        while offset < self._limit:
            run = self._run_at(offset)
            if not run:  # whatever comes here wants a closer look
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
        """What follows the last record: nothing, or a torn one. RuntimeError before all of them were read."""
        if self._tail is None:
            raise RuntimeError(f"the records of {self.name} were not read to their end")
        return self._tail

    def damaged(self, what: str, offset: int) -> Damaged:
        """The error that names this file."""
        return Damaged(what, self.name, offset, self._last_good)

    def _run_at(self, offset: int) -> list[Record]:
        """The good records that follow one another from here on, as far as one read reaches; none at the very first."""
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
        """A record that is still being written becomes a good one; what stays bad is classified."""
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
        """The record that begins here, or None when there is no good one."""
        start = self._read(offset, RECORD_HEADER_SIZE)
        header = decode_record_header(start)
        if header is None:
            return None
        chain = self._chain
        if chain is not None and (header.sequence != chain.sequence + 1 or header.previous != chain.checksum):
            raise self.damaged(
                f"record {header.sequence} does not follow record {chain.sequence}: something between is "
                "missing, or files of different times were mixed",
                offset,
            )
        if header.length > self._most:
            raise self.damaged(f"a record claims {header.length} bytes, more than any has", offset)
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
        """Whether the file reaches so far; a length that a header claims is not believed before."""
        if end > self._size:
            self._size = self.handle.size()
        return end <= self._size

    def _read(self, offset: int, length: int) -> bytes:
        start = offset - self._buffered_at
        if start < 0 or start + length > len(self._buffer):
            self._buffer, self._buffered_at, start = self.handle.read(offset, max(length, _READ_AHEAD)), offset, 0
        return self._buffer[start : start + length]
