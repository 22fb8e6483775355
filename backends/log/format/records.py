"""The bytes of a backup, defined in one place; docs/format.md says the same in words.

Every file is a file header and then records. All numbers are little-endian. A checksum is a CRC-32 (as in zlib). Each
record also holds the checksum of the record before it, so that records cannot be left out, moved or mixed.
"""

import struct
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple
from zlib import crc32

from backends.errors import Damaged, FromTheFuture, NotABackup
from backends.storage.base import TEMPORARY

FORMAT = 1
MAGIC = b"LNBACKUP"
FILE_HEADER_SIZE = 64
_FILE = struct.Struct("<8sHHI16sQ8s12x")  # magic, format, file kind, part, backup id, number, key; then its CRC-32

RECORD_MAGIC = b"\xb5R"
_FIELDS = struct.Struct("<2sBBIIIQIII")  # see RecordHeader
_RECORD = struct.Struct("<2sBBIIIQIIIII")  # the same fields, the checksum, and the CRC-32 of all these bytes
RECORD_HEADER_SIZE = _RECORD.size

MAX_FILE = 1 << 30
"""Bytes. FAT32 has a limit of 4 GiB, and any tool can copy a file of 1 GiB."""

MAX_SEQUENCE = 1 << 55
"""No record and no text file has this sequence or a higher one: no node makes so many changes."""

MAX_NUMBER = 1 << 62
"""Every segment's index and every generation's number is below this."""

_MAX_DIGITS = len(str(MAX_NUMBER))

SECTOR = 512
"""Bytes that a disk writes completely or not at all; larger sectors are multiples of this."""


class FileKind(IntEnum):
    """What a file of the backup holds."""

    SEGMENT = 1
    SNAPSHOT = 2


class RecordKind(IntEnum):
    """What a record carries."""

    CHANGE = 1
    PIECE = 3
    END = 4


class Flag:
    """What a reader must know before it unpacks a record. Plain numbers for speed: they are tested for every record."""

    NONE = 0
    FRAME = 1  # a new compression stream begins with this record
    SESSION = 2  # first change after the plugin started: the node's SQLite connection is new, foreign keys are ON
    ADVANCES = 4  # the change ends with the bump: the database was at data_version - 1 before it
    FOREIGN_KEYS_OFF = 8  # not enforced during the change; needed by readers that read only the end of a log


class RecordHeader(NamedTuple):
    """A record's first 44 bytes, without their own checksum."""

    magic: bytes
    kind: int
    flags: int
    length: int  # stored bytes that follow the header
    size: int  # bytes after unpacking
    data_version: int
    sequence: int  # 1 for the first record of a backup's log, then counting up by one
    time: int  # seconds since 1970 when it was written
    database: int  # fingerprint of the node's database before the change (see backends.change); 0: unknown
    previous: int  # the checksum of the record before
    checksum: int  # over the fields above, then the stored bytes


@dataclass(frozen=True, slots=True)
class FileHeader:
    """Which backup a file belongs to, and its number in it: a segment's index or a snapshot's generation."""

    kind: FileKind
    backup_id: bytes
    number: int
    part: int = 0  # of a snapshot, from 0
    key: str | None = None
    """The public name of the key that its records are encrypted with, in hex; None if they are not."""

    @property
    def stored_key(self) -> bytes:
        """The key's name as it is stored; NOT_ENCRYPTED if there is none."""
        return NOT_ENCRYPTED if self.key is None else bytes.fromhex(self.key)

    def encode(self) -> bytes:
        """The file's first FILE_HEADER_SIZE bytes."""
        body = _FILE.pack(MAGIC, FORMAT, self.kind, self.part, self.backup_id, self.number, self.stored_key)
        return body + crc32(body).to_bytes(4, "little")


NOT_ENCRYPTED = bytes(8)
"""What stands in place of a key's public name in a file that is not encrypted."""


def check_file_header(data: bytes, expected: FileHeader, name: str, *, any_key: bool = False) -> None:
    """Raise Damaged, FromTheFuture or NotABackup unless `data` is the header that this file must have.

    With `any_key`, it may be encrypted with any key or none: for readers that know no manifest.
    """
    if len(data) < FILE_HEADER_SIZE:
        what = f"the file ends inside its header ({len(data)} bytes): it was not copied completely, or was cut off,"
        raise Damaged(what, name, 0)
    body, check = data[: _FILE.size], int.from_bytes(data[_FILE.size : FILE_HEADER_SIZE], "little")
    if crc32(body) != check:
        raise Damaged("the file header does not match its checksum", name, 0)
    magic, version, kind, part, backup_id, number, key = _FILE.unpack(body)
    if magic != MAGIC:
        raise Damaged("the file does not begin like a file of a backup", name, 0)
    if version > FORMAT:
        raise from_the_future(name, version)
    if backup_id != expected.backup_id:
        raise NotABackup(
            f"{name} belongs to another backup ({backup_id.hex()}) than the manifest next to it "
            f"({expected.backup_id.hex()}): files of two backups were mixed. Nothing was changed; put back the files "
            "that belong together."
        )
    if (version, kind, part, number) != (FORMAT, expected.kind, expected.part, expected.number):
        raise Damaged("the file header is that of another file", name, 0)
    if not any_key and key != expected.stored_key:
        what = "the file is encrypted with another key than the manifest names,"
        if key == NOT_ENCRYPTED:
            what = "the file is not encrypted, and the manifest says that it is,"
        raise Damaged(what, name, 0)


def from_the_future(name: str, version: object) -> FromTheFuture:
    """The error for a format that a later release wrote."""
    return FromTheFuture(
        f"{name} has format {version}, and this release knows formats up to {FORMAT}: the backup was written by a "
        "newer lightningd-backup. Nothing was changed; install that release and try again: "
        "pip install --upgrade lightningd-backup"
    )


def time_now() -> int:
    """Seconds since 1970, within the range of a record's field: a clock that is far wrong must not stop a node."""
    return min(max(int(time.time()), 0), (1 << 32) - 1)


def header_fields(header: RecordHeader) -> bytes:
    """The bytes of the header's fields, without its checksums."""
    return _FIELDS.pack(*header[:-1])


def encode_record(header: RecordHeader, payload: bytes) -> tuple[bytes, int]:
    """The record's bytes and its checksum. `header.checksum` is ignored."""
    return encode_fields(header_fields(header), payload)


def encode_fields(fields: bytes, payload: bytes) -> tuple[bytes, int]:
    """`encode_record` for a header of which `header_fields` was taken already."""
    checksum = crc32(payload, crc32(fields))
    body = fields + checksum.to_bytes(4, "little")
    return b"".join((body, crc32(body).to_bytes(4, "little"), payload)), checksum


def record_checksum(header: bytes, payload: bytes) -> int:
    """The checksum that a record must have, given its payload and the bytes of its header as they were read."""
    return crc32(payload, crc32(header[: _FIELDS.size]))


def decode_record_header(data: bytes, offset: int = 0) -> RecordHeader | None:
    """The record header at `offset` of `data`, or None if there is no complete and intact one."""
    end = offset + RECORD_HEADER_SIZE
    if len(data) < end:
        return None
    fields = _RECORD.unpack_from(data, offset)
    if fields[0] != RECORD_MAGIC or crc32(data[offset : end - 4]) != fields[-1]:
        return None
    return RecordHeader._make(fields[:-1])


def decode_record(data: bytes, offset: int) -> tuple[RecordHeader, bytes] | None:
    """The record header at `offset` of `data` and its stored bytes, or None if there is no complete and intact one."""
    header = decode_record_header(data, offset)
    if header is None:
        return None
    start = offset + RECORD_HEADER_SIZE
    end = start + header.length
    payload = data[start:end]
    if len(data) < end or record_checksum(data[offset:start], payload) != header.checksum:
        return None
    return header, payload


def segment_name(index: int) -> str:
    """The name of the segment with this index (from 1; an index is never used again)."""
    return f"segment-{index:08}"


def segment_index(name: str) -> int | None:
    """The index of a segment with this name; None for any other name."""
    number = _number_in(name.removeprefix("segment-"))
    return number if number is not None and segment_name(number) == name else None


def snapshot_name(generation: int) -> str:
    """The name of a generation's snapshot."""
    return f"snapshot-{generation:08}"


def snapshot_generation(name: str) -> int | None:
    """The generation whose finished snapshot, or a part of it, has this name; None for any other name."""
    whole = name.partition(".")[0]
    number = None if name.endswith(TEMPORARY) else _number_in(whole.removeprefix("snapshot-"))
    return number if number is not None and snapshot_name(number) == whole else None


def _number_in(digits: str) -> int | None:
    """The number in `digits`, which must have at least eight; None for any other text.

    A server may return names of any length, so the length is checked before the number is converted.
    """
    if not 8 <= len(digits) <= _MAX_DIGITS or not digits.isascii() or not digits.isdigit():
        return None
    number = int(digits)
    return number if number < MAX_NUMBER else None


def part_name(name: str, part: int) -> str:
    """The name of a snapshot's part (from 0), given the snapshot's name, temporary or final."""
    if part == 0:
        return name
    whole = name.removesuffix(TEMPORARY)
    return f"{whole}.{part}{name[len(whole) :]}"


def is_part_of(name: str, snapshot: str) -> bool:
    """Whether `name` is that of the first part or of a further one of the snapshot with this temporary or final name.

    The parts of a temporary snapshot once counted as others: `compact` then removed all but the first from a new
    snapshot of more than 1 GiB, before it published it.
    """
    whole = snapshot.removesuffix(TEMPORARY)
    return name == snapshot or (name.startswith(f"{whole}.") and name.endswith(snapshot[len(whole) :]))
