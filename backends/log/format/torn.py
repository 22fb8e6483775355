"""Torn or damaged: what the first bytes that are not a valid record mean.

A commit is one write into zeros, then a sync, and only one is ever under way. So it is known what a power cut can
leave: some sectors of that one record are missing (still zeros, or beyond the end of the file), the others are there,
and nothing follows. Where a record is sent in pieces, or a filesystem takes only part of a write, a crash in between
leaves the record's first bytes and then zeros to its end. Such a record is torn: it was never acknowledged, and is cut
off. Any other bad bytes were once saved and have changed: that is damage, and is never skipped.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto

from backends.log.format.records import (
    FILE_HEADER_SIZE,
    MAX_SEQUENCE,
    RECORD_HEADER_SIZE,
    RECORD_MAGIC,
    SECTOR,
    decode_record_header,
)
from backends.storage.base import ReadHandle

_BLOCK = 1 << 20
_BEGIN = re.compile(re.escape(RECORD_MAGIC) + b"[\x01-\x04][\x00-\x0f]")

_NO_TEXT = 2 * MAX_SEQUENCE
"""Every record's sequence is below this, so every real header contains a zero byte. SQL text cannot contain one, so
text that a peer sent is never mistaken for a record."""


_NEVER_ALL_ZEROS = 8
"""The last bytes of a record's header (checksums), or of its payload (compressed SQL), of which at least one is not
zero."""


class End(Enum):
    """How the records of a segment end."""

    CLEAN = auto()
    TORN = auto()
    DAMAGED = auto()


@dataclass(frozen=True, slots=True)
class Tail:
    """How a segment's records end at `offset`; `why` says it in words."""

    end: End
    offset: int
    why: str = ""


def classify(handle: ReadHandle, offset: int) -> Tail:
    """What the bytes at `offset` are, where a record should begin and no good one does."""
    size = handle.size()
    if first_nonzero(handle, offset, size) is None:
        return Tail(End.CLEAN, offset)
    start = handle.read(offset, RECORD_HEADER_SIZE)
    header = decode_record_header(start)
    stop = min(size, offset + RECORD_HEADER_SIZE + (header.length if header else 0))
    later = next_record(handle, offset + 1 if header is None else stop, size)
    if later is not None:
        return Tail(End.DAMAGED, offset, f"a record is broken, and complete records follow it (at byte {later})")
    if header is None:
        # To the end of the sector in which the header ends: anything there shows that this sector was written.
        ends = -(-(offset + RECORD_HEADER_SIZE) // SECTOR) * SECTOR
        torn = (
            len(start) < RECORD_HEADER_SIZE
            or _missing_sector(handle, offset, ends)
            or first_nonzero(handle, offset + RECORD_HEADER_SIZE - _NEVER_ALL_ZEROS, size) is None
        )
        why = "the last record's header never reached the disk" if torn else "the last record's header has changed"
    else:
        torn = (
            offset + RECORD_HEADER_SIZE + header.length > size
            or _missing_sector(handle, offset, stop)
            or (header.length >= _NEVER_ALL_ZEROS and first_nonzero(handle, stop - _NEVER_ALL_ZEROS, stop) is None)
        )
        why = "part of the last record never reached the disk" if torn else "the last record has changed"
        if torn and first_nonzero(handle, stop, size) is not None:
            torn, why = False, "something other than zeros follows the last record"
    return Tail(End.TORN if torn else End.DAMAGED, offset, why)


def _missing_sector(handle: ReadHandle, start: int, stop: int) -> bool:
    """Whether some sector is still all zeros within [start, stop), as it was before the write."""
    position = start
    while position < stop:
        block_end = min(stop, (position // _BLOCK + 1) * _BLOCK)
        block = handle.read(position, block_end - position)
        at = 0
        while at < len(block):
            share = SECTOR - (position + at) % SECTOR
            if not any(block[at : at + share]):
                return True
            at += share
        position = block_end
    return False


def first_nonzero(handle: ReadHandle, start: int, stop: int) -> int | None:
    """The offset of the first nonzero byte in [start, stop); None if there is none."""
    for position in range(start, stop, _BLOCK):
        block = handle.read(position, min(_BLOCK, stop - position))
        stripped = block.lstrip(b"\0")
        if stripped:
            return position + len(block) - len(stripped)
    return None


def has_records(segment: ReadHandle) -> bool:
    """Whether the segment holds any record yet, be it torn: anything but zeros after the file header."""
    return first_nonzero(segment, FILE_HEADER_SIZE, segment.size()) is not None


def next_record(handle: ReadHandle, start: int, stop: int) -> int | None:
    """The offset of the first complete record header in [start, stop), at any alignment; None if there is none.

    It proves that more was written after a bad record.
    """
    for position in range(start, stop, _BLOCK):
        block = handle.read(position, _BLOCK + RECORD_HEADER_SIZE)
        for found in _BEGIN.finditer(block):
            header = decode_record_header(block, found.start())
            if header is not None and header.sequence < _NO_TEXT:
                return position + found.start()
    return None
