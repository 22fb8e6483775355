"""A record of which only the first bytes arrived: a writer that sends it in parts may die between two of them."""

from dataclasses import dataclass

import pytest

from backends.log.format.records import (
    FILE_HEADER_SIZE,
    RECORD_HEADER_SIZE,
    RECORD_MAGIC,
    RecordHeader,
    RecordKind,
    encode_record,
)
from backends.log.format.torn import End, Tail, classify
from backends.storage.base import ReadHandle
from tests.log.histories import noise

ROOM = 4096
TOO_FEW = 8
"""So few missing bytes within one sector cannot be distinguished from changed ones."""


@dataclass
class Bytes(ReadHandle):
    """A file in memory."""

    content: bytes

    def size(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]

    def close(self) -> None:
        pass


def record(length: int) -> bytes:
    payload = noise(length).encode()
    fields = RecordHeader(RECORD_MAGIC, RecordKind.CHANGE, 5, len(payload), 3 * length, 2, 1, 1_700_000_000, 7, 9, 0)
    return encode_record(fields, payload)[0]


def tail_of(offset: int, written: bytes, after: bytes = b"") -> Tail:
    """How a reader classifies these bytes at the offset, in a file otherwise filled with zeros."""
    content = bytes(offset) + written
    return classify(Bytes(content.ljust(offset + ROOM, b"\0") + after), offset)


@pytest.mark.parametrize("length", [12, 100, 448, 1500])
@pytest.mark.parametrize("offset", [FILE_HEADER_SIZE, 500, 512, 1000])
def test_record_of_which_only_first_bytes_arrived_is_torn(offset: int, length: int) -> None:
    whole = record(length)
    inside = range(RECORD_HEADER_SIZE - TOO_FEW + 1, RECORD_HEADER_SIZE)
    for arrived in range(1, len(whole) - TOO_FEW + 1):
        end = tail_of(offset, whole[:arrived]).end
        assert end is End.TORN or (arrived in inside and end is End.DAMAGED), arrived


@pytest.mark.parametrize("offset", [FILE_HEADER_SIZE, 1000])
def test_zeros_in_last_bytes_of_record_are_damage(offset: int) -> None:
    whole = record(200)
    for arrived in range(len(whole) - TOO_FEW + 1, len(whole)):
        assert tail_of(offset, whole[:arrived]).end is End.DAMAGED


@pytest.mark.parametrize("at", [0, 5, RECORD_HEADER_SIZE - 1, RECORD_HEADER_SIZE, RECORD_HEADER_SIZE + 90, -1])
def test_changed_byte_of_record_is_damage(at: int) -> None:
    whole = bytearray(record(100))
    for value in (0, whole[at] ^ 1, whole[at] ^ 0x80):
        if value != whole[at]:
            changed = whole.copy()
            changed[at] = value
            assert tail_of(1000, bytes(changed)).end is End.DAMAGED, value


@pytest.mark.parametrize("arrived", [20, 100])
@pytest.mark.parametrize("after", [b"x", record(10)])
def test_partial_record_with_something_after_it_is_damage(arrived: int, after: bytes) -> None:
    assert tail_of(FILE_HEADER_SIZE, record(200)[:arrived], after).end is End.DAMAGED
