"""The small files that are text: the manifest, the session, and the manifest of a generation that is kept.

Each is one line of JSON and one line with the CRC-32 of the first, in hexadecimal, so that a person can read them
and no changed byte is believed.
"""

import json
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from backends.change import VERSIONS
from backends.errors import Damaged, NotABackup
from backends.log.format import FORMAT, from_the_future

MANIFEST = "manifest"
SESSION = "session"
KEPT = "kept"

_MOST_TEXT = 1000
"""Characters in a field; what no reader would take must not be written either."""


@dataclass(frozen=True, slots=True)
class Base:
    """Where a generation's snapshot stands in the log: it holds everything up to and including `sequence`."""

    sequence: int
    data_version: int
    checksum: int
    foreign_keys: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """Names the current generation: its snapshot (by number), and the first segment that goes on from it."""

    backup_id: bytes
    generation: int
    base: Base
    first_segment: int
    created: int  # seconds since 1970 when this generation was begun
    reason: str  # why: "init", "compaction", …
    node_id: str | None  # the node's public key in hex, when its database said it

    def encode(self) -> bytes:
        """The bytes of the file."""
        return encode_document(self.fields())

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """Raises Damaged or FromTheFuture."""
        return cls.from_fields(decode_document(MANIFEST, data))

    def fields(self) -> dict[str, Any]:
        """What the file says."""
        base = self.base
        return {
            "backup_id": self.backup_id.hex(),
            "generation": self.generation,
            "sequence": base.sequence,
            "data_version": base.data_version,
            "checksum": base.checksum,
            "foreign_keys": base.foreign_keys,
            "first_segment": self.first_segment,
            "created": self.created,
            "reason": self.reason[:_MOST_TEXT],  # it may tell an error of any length
            "node_id": self.node_id,
        }

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "Manifest":
        """The inverse. Raises Damaged."""
        base = Base(
            _number(fields, "sequence"),
            _number(fields, "data_version", VERSIONS),
            _number(fields, "checksum", 1 << 32),
            _boolean(fields, "foreign_keys"),
        )
        return cls(
            _hex(fields, "backup_id"),
            _number(fields, "generation"),
            base,
            _number(fields, "first_segment"),
            _number(fields, "created"),
            _text(fields, "reason"),
            _text(fields, "node_id") if fields.get("node_id") is not None else None,
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """A generation that was replaced because the database disagreed with it, and that is kept for a while.

    Its files lie beside those of the current one, under their own names.
    """

    manifest: Manifest
    last_segment: int
    """The segment in which its log ends: those after it are not its own."""
    data_version: int
    """Where its log ended."""
    since: int
    """When it was replaced, in seconds since 1970."""

    def encode(self) -> bytes:
        """The bytes of the file."""
        own = {"last_segment": self.last_segment, "end_version": self.data_version, "since": self.since}
        return encode_document({**self.manifest.fields(), **own})

    @classmethod
    def decode(cls, data: bytes) -> "Kept":
        """Raises Damaged or FromTheFuture."""
        fields = decode_document(KEPT, data)
        return cls(
            Manifest.from_fields(fields),
            _number(fields, "last_segment"),
            _number(fields, "end_version", VERSIONS),
            _number(fields, "since"),
        )


@dataclass(frozen=True, slots=True)
class Session:
    """Who writes this backup now, and how far it has acknowledged.

    A writer that finds another's session here has been replaced. `sequence` trails behind (it is written in the
    background and at the end): a log that ends before it has lost something that was once saved. So does `generation`:
    a manifest of an earlier one is an old copy of itself.
    """

    writer: str  # random: the mark of one writer, whether it is a node or a command
    session_id: str  # random: the node's session that wrote last; a command goes on under it
    host: str
    pid: int
    started: int  # seconds since 1970
    generation: int
    sequence: int
    data_version: int
    closed: bool
    node_id: str | None
    trouble: str | None  # what the writer wants a reader to know, e.g. that a compaction failed

    def encode(self) -> bytes:
        """The bytes of the file."""
        return encode_document({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def decode(cls, data: bytes) -> "Session":
        """Raises Damaged or FromTheFuture."""
        fields = decode_document(SESSION, data)
        return cls(
            _text(fields, "writer"),
            _text(fields, "session_id"),
            _text(fields, "host"),
            _number(fields, "pid"),
            _number(fields, "started"),
            _number(fields, "generation"),
            _number(fields, "sequence"),
            _number(fields, "data_version", VERSIONS),
            _boolean(fields, "closed"),
            _text(fields, "node_id") if fields.get("node_id") is not None else None,
            _text(fields, "trouble") if fields.get("trouble") is not None else None,
        )


def encode_document(fields: dict[str, Any]) -> bytes:
    """These fields as a text file of a backup."""
    line = json.dumps({"lightningd-backup": FORMAT, **fields}).encode()
    return line + b"\n%08x\n" % crc32(line)


def decode_document(name: str, data: bytes) -> dict[str, Any]:
    """The fields of the text file `name`. Raises Damaged, NotABackup or FromTheFuture."""
    line, _, rest = data.partition(b"\n")
    if not data.startswith(b"{"):
        raise Damaged("the file is not what a writer leaves (empty, or overwritten)", name, 0)
    if rest != b"%08x\n" % crc32(line):
        raise Damaged("the text does not fit its checksum", name, 0)
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise Damaged("the text is not JSON", name, 0) from None
    version = fields.get("lightningd-backup")
    if type(version) is not int or version < 1:
        raise NotABackup(f"{name} is not a file of lightningd-backup; nothing was changed")
    if version > FORMAT:
        raise from_the_future(name, version)
    return dict(fields)


def _wrong(fields: dict[str, Any], key: str) -> Damaged:
    name = SESSION if "session_id" in fields else KEPT if "last_segment" in fields else MANIFEST
    return Damaged(f"{key} is {str(fields.get(key))[:40]!r}, which no writer leaves", name, 0)


def _number(fields: dict[str, Any], key: str, below: int = 1 << 63) -> int:
    value = fields.get(key)
    if type(value) is not int or not 0 <= value < below:
        raise _wrong(fields, key)
    return value


def _boolean(fields: dict[str, Any], key: str) -> bool:
    value = fields.get(key)
    if not isinstance(value, bool):
        raise _wrong(fields, key)
    return value


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or len(value) > _MOST_TEXT:
        raise _wrong(fields, key)
    # It will be shown on a terminal, and may come from a stranger's disk.
    return "".join(character if character.isprintable() else "?" for character in value)


def _hex(fields: dict[str, Any], key: str) -> bytes:
    try:
        value = bytes.fromhex(_text(fields, key))
    except ValueError:
        raise _wrong(fields, key) from None
    if len(value) != 16:
        raise _wrong(fields, key)
    return value
