"""Backups and legacy backups as a stranger would make them to exhaust a machine."""

import struct
import sys
from hashlib import sha256
from pathlib import Path

import apsw

from backends.log.format.records import RecordKind
from backends.log.reader.snapshot import PIECE
from tests.log.corruption import Files
from tests.log.forge import Forged, packed, segment, snapshot

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TABLES = (
    "CREATE TABLE vars (name VARCHAR(32), val VARCHAR(255), intval INTEGER, blobval BLOB, PRIMARY KEY (name))",
    "CREATE TABLE version (version INTEGER)",
    "INSERT INTO vars (name, intval) VALUES ('data_version', 0)",
)
"""The tables by which a lightningd's database is recognised."""

DOUBLING = (
    "CREATE TABLE t (x BLOB)",
    f"INSERT INTO t VALUES (x'{'00' * 100_000}')",
    *["INSERT INTO t SELECT x FROM t"] * 14,
)
"""Statements of a few hundred bytes when compressed, which make 1.6 GB on disk."""

BUSY = "UPDATE vars SET val = instr(hex(zeroblob(20000000)), hex(zeroblob(10000000)) || '1')"
"""One call into SQLite that takes days."""


def log(*changes: tuple[str, ...]) -> bytes:
    """A segment of changes to a new node's database, each ending with the bump."""
    return segment(*[packed(_change(version, *change)) for version, change in enumerate(changes, 1)])


def _change(version: int, *statements: str) -> bytes:
    bump = f"UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {version - 1}"
    return "\0".join([*statements, bump]).encode()


def many_rows(path: Path) -> bytes:
    """A database whose `vars` has a million rows of a name that should have one: 80 MB in Python."""
    with apsw.Connection(str(path)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("CREATE TABLE vars (name TEXT, val, intval INTEGER, blobval BLOB)")
        connection.execute("CREATE TABLE version (version INTEGER)")
        connection.execute(
            "INSERT INTO vars (name, intval) "
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) "
            "SELECT 'data_version', 4294967296 + i FROM n"
        )
    connection.close()
    return path.read_bytes()


def snapshot_of(database: bytes) -> bytes:
    """A snapshot file that holds this database at version 0."""
    stream, pieces = zstd.ZstdCompressor(), []
    for offset in range(0, len(database), PIECE):
        piece = database[offset : offset + PIECE]
        payload = stream.compress(piece, zstd.ZstdCompressor.FLUSH_BLOCK)
        pieces.append(Forged(payload, RecordKind.PIECE, 0, size=len(piece), data_version=0))
    end = len(database).to_bytes(8, "little") + sha256(database).digest()
    return snapshot(*pieces, Forged(end, RecordKind.END, 0, data_version=0))


def legacy_file(snapshot: bytes, *changes: tuple[str, ...]) -> bytes:
    """A legacy backup: a snapshot at version 0 unless it is empty, then these changes."""
    records = [struct.pack(">IIB", len(snapshot), 0, 2) + snapshot] if snapshot else []
    for version, change in enumerate(changes, 1):
        payload = _change(version, *change)
        records.append(struct.pack(">IIB", len(payload), version, 1) + payload)
    body = b"".join(records)
    end, previous = 512 + len(body), 512 + len(body) - len(records[-1])
    last = len(changes)
    return struct.pack(">IIQIQQ", 1, last, end, max(last - 1, 0), previous, len(records)).ljust(512, b"\0") + body


def long_statement(size: int) -> bytes:
    """The beginning of a compression stream that unpacks to one statement of `size` bytes, mostly blanks."""
    stream, block = zstd.ZstdCompressor(), b" " * (1 << 20)
    begin, end = b"UPDATE vars SET val = '", b"'"
    parts = [stream.compress(begin), *(stream.compress(block) for _ in range(size // len(block)))]
    rest = b" " * (size % len(block) - len(begin) - len(end))
    return b"".join([*parts, stream.compress(rest + end), stream.flush(zstd.ZstdCompressor.FLUSH_BLOCK)])


def written(directory: Path, files: Files) -> Path:
    """Write the files into a new directory."""
    directory.mkdir(mode=0o700)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory
