"""What somebody who can write to the destination does to a node's backup; every checksum fits afterwards."""

import json
import shutil
from pathlib import Path

from backends.change import DATABASE_HEADER, Change, database_fingerprint
from backends.log.format.documents import SESSION, Session
from backends.log.format.records import (
    FILE_HEADER_SIZE,
    RECORD_HEADER_SIZE,
    RECORD_MAGIC,
    RecordHeader,
    RecordKind,
    decode_record_header,
    encode_record,
)
from backends.log.format.text_files import encode_document
from tests.end_to_end.world import World
from tests.fake_lightningd.calls import bump
from tests.log.forge import ADVANCES, FRAME, zstd_block


def last_segment(backup: Path) -> Path:
    """The newest segment that holds a record; the first if none does."""
    segments = sorted(backup.glob("segment-????????"))
    return next((one for one in reversed(segments) if records(one)), segments[0])


def records(segment: Path) -> list[tuple[int, RecordHeader]]:
    """Where each record of a segment begins, and its header."""
    data, offset, found = segment.read_bytes(), FILE_HEADER_SIZE, []
    while (header := decode_record_header(data, offset)) is not None:
        found.append((offset, header))
        offset += RECORD_HEADER_SIZE + header.length
    return found


def empty(segment: Path) -> None:
    """Overwrite all records with zeros, so that they look like preallocated space."""
    data = segment.read_bytes()
    writable(segment)
    segment.write_bytes(data[:FILE_HEADER_SIZE] + bytes(len(data) - FILE_HEADER_SIZE))


def cut(segment: Path, keep: int) -> None:
    """Keep exactly the first `keep` records, and overwrite the rest with zeros."""
    data, found = segment.read_bytes(), records(segment)
    end = found[keep][0] if keep < len(found) else len(data)
    writable(segment)
    segment.write_bytes(data[:end] + bytes(len(data) - end))


def writable(segment: Path) -> None:
    """Make the segment writable again: a later writer may have taken its write permission."""
    segment.chmod(0o600)


def forge_change(world: World, *statements: str, database: Path | None = None) -> int:
    """Append a change that the node never made; it fits the end of the log, and the database as it is now.

    Returns the version to which it leads.
    """
    segment = last_segment(world.backup)
    offset, last = records(segment)[-1]
    end = offset + RECORD_HEADER_SIZE + last.length
    version = last.data_version + 1
    raw = Change(version, [*statements, bump(version)]).encode()
    payload = zstd_block(raw)
    with (database or world.database).open("rb") as file:
        seen = database_fingerprint(file.read(DATABASE_HEADER))
    header = RecordHeader(
        RECORD_MAGIC, RecordKind.CHANGE, FRAME | ADVANCES, len(payload), len(raw), version,
        last.sequence + 1, last.time, seen, last.checksum, 0,
    )  # fmt: skip
    record, _ = encode_record(header, payload)
    data = segment.read_bytes()
    writable(segment)
    segment.write_bytes(data[:end] + record + data[end + len(record) :])
    return version


def forge_session(world: World, **fields: object) -> None:
    """Change some fields of the session marker."""
    path = world.backup / SESSION
    found = Session.decode(path.read_bytes())
    told = {name: getattr(found, name) for name in Session.__slots__}
    path.write_bytes(encode_document(path.name, {**told, **fields}))


def document(path: Path) -> dict[str, object]:
    """The fields of a text file of a backup."""
    fields: dict[str, object] = json.loads(path.read_bytes().partition(b"\n")[0])
    return fields


def put_back(copy: Path, place: Path) -> None:
    """Replace a directory by an older copy of it."""
    shutil.rmtree(place)
    shutil.copytree(copy, place)
