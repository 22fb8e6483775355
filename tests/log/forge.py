"""Backups as an attacker may make them: every checksum is right, and nothing else has to be."""

import json
import sys
from dataclasses import dataclass
from hashlib import sha256
from zlib import crc32

from backends.change import VERSIONS
from backends.log.format.documents import MANIFEST
from backends.log.format.records import (
    RECORD_MAGIC,
    FileHeader,
    FileKind,
    RecordHeader,
    RecordKind,
    encode_record,
    segment_name,
    snapshot_name,
)
from backends.log.writer.segment import first_checksum
from tests.log.corruption import Files

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ID = bytes(range(16))

FRAME = 1
ADVANCES = 4


@dataclass(frozen=True, slots=True)
class Forged:
    """A record's fields; None means what a writer would put there."""

    payload: bytes = b""
    kind: int = RecordKind.CHANGE
    flags: int = ADVANCES
    length: int | None = None
    size: int | None = None
    data_version: int | None = None
    sequence: int | None = None
    previous: int | None = None


def packed(text: bytes = b"SELECT 1", size: int | None = None, **fields: int) -> Forged:
    """A change that begins a zstd stream of its own."""
    flags = {"flags": FRAME | ADVANCES, **fields}
    return Forged(zstd_block(text), size=len(text) if size is None else size, **flags)


def zstd_block(data: bytes, window_log: int = 20) -> bytes:
    """The beginning of a stream that unpacks to this."""
    stream = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
    return stream.compress(data, zstd.ZstdCompressor.FLUSH_BLOCK)


def finished(data: bytes) -> bytes:
    """A whole stream that unpacks to this."""
    return zstd.compress(data)


def zeros(size: int, block: int = 1 << 20) -> bytes:
    """The beginning of a stream that unpacks to `size` zeros, made without holding them in memory."""
    stream = zstd.ZstdCompressor()
    parts = [stream.compress(bytes(min(block, size - done))) for done in range(0, size, block)]
    return b"".join([*parts, stream.flush(zstd.ZstdCompressor.FLUSH_BLOCK)])


def records(forged: list[Forged], sequence: int, previous: int) -> bytes:
    """These records, chained from this sequence number and checksum on unless their fields say otherwise."""
    out: list[bytes] = []
    for one in forged:
        sequence += 1
        header = RecordHeader(
            RECORD_MAGIC,
            one.kind,
            one.flags,
            len(one.payload) if one.length is None else one.length,
            len(one.payload) if one.size is None else one.size,
            sequence % VERSIONS if one.data_version is None else one.data_version,
            sequence if one.sequence is None else one.sequence,
            1_700_000_000,
            0,
            previous if one.previous is None else one.previous,
            0,
        )
        record, previous = encode_record(header, one.payload)
        out.append(record)
    return b"".join(out)


def segment(
    *forged: Forged, index: int = 1, sequence: int = 0, previous: int = first_checksum(ID), rest: bytes = b""
) -> bytes:
    """A segment file with these records, and `rest` after them."""
    return FileHeader(FileKind.SEGMENT, ID, index).encode() + records(list(forged), sequence, previous) + rest


def snapshot(*forged: Forged) -> bytes:
    """A snapshot file with these records."""
    return FileHeader(FileKind.SNAPSHOT, ID, 1).encode() + records(list(forged), 0, 0)


def document(text: str) -> bytes:
    """A manifest or session of this text."""
    line = text.encode()
    return line + b"\n%08x\n" % crc32(line)


FIELDS: dict[str, object] = {
    "lightningd-backup": 1, "backup_id": ID.hex(), "generation": 1, "sequence": 0, "data_version": 0,
    "checksum": first_checksum(ID), "foreign_keys": True, "first_segment": 1, "created": 1_700_000_000,
    "reason": "init", "node_id": None,
}  # fmt: skip
"""The fields of a manifest that fits the other files."""


def manifest(**fields: object) -> bytes:
    """A manifest with some fields changed."""
    return document(json.dumps({**FIELDS, **fields}))


def _empty_snapshot() -> bytes:
    end = (0).to_bytes(8, "little") + sha256().digest()
    return snapshot(Forged(end, RecordKind.END, 0, data_version=0))


def backup(**changed: bytes) -> Files:
    """A small undamaged backup, with some files replaced: `manifest`, `segment`, `snapshot`, `session`."""
    files = {
        MANIFEST: manifest(),
        snapshot_name(1): _empty_snapshot(),
        segment_name(1): segment(packed(), packed(b"SELECT 2\0SELECT 3")),
    }
    names = {"segment": segment_name(1), "snapshot": snapshot_name(1)}
    return {**files, **{names.get(name, name): data for name, data in changed.items()}}
