"""What happens to backups: flipped bytes, missing files, files of a later release. Each act is a function of a path."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

from tests.end_to_end.world import World

_HEADER = 60  # bytes of a file's header before its own checksum


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Flip one bit; a negative offset counts from the end."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def edit_document(path: Path, **fields: object) -> None:
    """Change fields of the manifest or the session marker, and make the checksum fit, as a later release would."""
    line = path.read_bytes().split(b"\n")[0]
    line = json.dumps({**json.loads(line), **fields}).encode()
    path.write_bytes(line + b"\n%08x\n" % crc32(line))


def from_a_later_release(path: Path) -> None:
    """Mark a file as written in the next format version, with a checksum that fits."""
    if path.name in ("manifest", "session"):
        edit_document(path, **{"lightningd-backup": 2})
        return
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, 8, 2)
    struct.pack_into("<I", data, _HEADER, crc32(data[:_HEADER]))
    path.write_bytes(data)


def segment(world: World) -> Path:
    """The path of the first segment."""
    return min(world.backup.glob("segment-*"))


def snapshot(world: World) -> Path:
    """The path of the snapshot."""
    return min(world.backup.glob("snapshot-*"))


def in_file(name: str, act: Callable[[Path], object]) -> Callable[[World], object]:
    """Turn an act on a path into one on a world: on the first file of its backup whose name begins with `name`."""
    return lambda world: act(min(world.backup.glob(f"{name}*")))


DAMAGED: dict[str, Callable[[World], object]] = {
    "the manifest has a flipped bit": in_file("manifest", lambda path: flip(path, 30)),
    "the manifest is empty": in_file("manifest", lambda path: path.write_bytes(b"")),
    "the session marker has a flipped bit": in_file("session", lambda path: flip(path, 30)),
    "a segment's file header has a flipped bit": in_file("segment", lambda path: flip(path, 20)),
    "a record's header has a flipped bit": in_file("segment", lambda path: flip(path, 70)),
    "a record's content has a flipped bit": in_file("segment", lambda path: flip(path, 130)),
    "a segment was cut to nothing": in_file("segment", lambda path: path.write_bytes(b"")),
    "a segment was cut in its first record": in_file("segment", lambda path: path.write_bytes(path.read_bytes()[:100])),
    "a segment is missing": in_file("segment", Path.unlink),
    "the snapshot is missing": in_file("snapshot", Path.unlink),
}
"""Damage that the plugin notices when it starts."""

DAMAGED_OUT_OF_SIGHT: dict[str, Callable[[World], object]] = {
    "the snapshot's file header has a flipped bit": in_file("snapshot", lambda path: flip(path, 20)),
    "the snapshot has a flipped bit": in_file("snapshot", lambda path: flip(path, 200)),
    "the snapshot's end has a flipped bit": in_file("snapshot", lambda path: flip(path, -5)),
    "the snapshot was cut": in_file("snapshot", lambda path: path.write_bytes(path.read_bytes()[:-30])),
    "the snapshot was cut to nothing": in_file("snapshot", lambda path: path.write_bytes(b"")),
}
"""Damage that only a full read finds: a start does not read the snapshot."""
