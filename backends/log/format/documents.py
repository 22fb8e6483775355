"""The small files that are text: the manifest, the session, and the manifest of a generation that is kept.

Each is one line of JSON and one line with the CRC-32 of the first, in hexadecimal, so that a person can read them
and no changed byte is believed.

Whoever can write there can make the checksum fit. So each field has a range. What the backup depends on and is out of
its range is damage; what only tells a person something (a time, a host, a process) is unknown then.
"""

import json
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from backends.base import LastWriter
from backends.change import VERSIONS
from backends.errors import Damaged, NotABackup
from backends.log.format.records import FORMAT, MAX_NUMBER, MAX_SEQUENCE, from_the_future
from backends.text import printable
from backends.times import believed

MANIFEST = "manifest"
SESSION = "session"
KEPT = "kept"

COMPACTION = "compaction"
"""The `reason` of a generation that a compaction made, and of no other (docs/format.md)."""

_DETAILS = " ("
"""Where the details begin, in brackets, with which a `reason` may go on: a failure's whole sentence, for example."""

_MAX_TEXT = 1000
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
    created: int  # seconds since 1970 when this generation was begun; UNKNOWN_TIME, too
    reason: str  # why: "init", "compaction", …
    node_id: str | None  # the node's public key in hex, when its database said it

    @property
    def made_by_compaction(self) -> bool:
        """Whether this generation is the same history as the one before it, folded."""
        return self.reason == COMPACTION

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
            "reason": self.reason[:_MAX_TEXT],  # it may tell an error of any length
            "node_id": self.node_id,
        }

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "Manifest":
        """The inverse. Raises Damaged."""
        base = Base(
            _number(fields, "sequence", MAX_SEQUENCE),
            _number(fields, "data_version", VERSIONS),
            _number(fields, "checksum", 1 << 32),
            _boolean(fields, "foreign_keys"),
        )
        return cls(
            _hex(fields, "backup_id"),
            _number(fields, "generation"),
            base,
            _number(fields, "first_segment"),
            believed(fields.get("created")),
            _informative(fields, "reason"),
            _text(fields, "node_id") if fields.get("node_id") is not None else None,
        )


def reason_in_short(reason: str) -> str:
    """A manifest's `reason` without its details, which are over."""
    return reason.partition(_DETAILS)[0]


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
            _since(fields),
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
    pid: int  # 0: unknown
    started: int  # seconds since 1970; UNKNOWN_TIME, too
    generation: int
    sequence: int
    data_version: int
    closed: bool
    node_id: str | None
    trouble: str | None  # that the last compaction failed, and why, in a sentence; None unless it did

    @property
    def last_writer(self) -> LastWriter | None:
        """Who wrote this backup last; None when no node has written to it yet."""
        if not self.session_id:
            return None
        return LastWriter(self.session_id, self.host, self.pid, self.started, self.closed)

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
            _informative(fields, "host"),
            _pid(fields),
            believed(fields.get("started")),
            _number(fields, "generation"),
            _number(fields, "sequence", MAX_SEQUENCE),
            _number(fields, "data_version", VERSIONS),
            _boolean(fields, "closed"),
            _text(fields, "node_id") if fields.get("node_id") is not None else None,
            _informative(fields, "trouble", _UNREADABLE) if fields.get("trouble") is not None else None,
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
    return Damaged(f"{key} is {_shown(fields.get(key))}, which no writer leaves", name, 0)


def _shown(value: Any) -> str:
    try:
        return printable(repr(value), 42)
    except RecursionError:
        return "something deeply nested"


def _number(fields: dict[str, Any], key: str, below: int = MAX_NUMBER) -> int:
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
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise _wrong(fields, key)
    # It will be shown on a terminal, and may come from a stranger's disk.
    return "".join(character if character.isprintable() else "?" for character in value)


_UNREADABLE = "what the writer has noted here for readers cannot be read"


def _informative(fields: dict[str, Any], key: str, otherwise: str = "unknown") -> str:
    """A text that only a person reads, and that must not be in the way of anything."""
    try:
        return _text(fields, key)
    except Damaged:
        return otherwise


def _pid(fields: dict[str, Any]) -> int:
    """0 for what is no process's number: asking the system for it would fail."""
    value = fields.get("pid")
    return value if type(value) is int and 0 < value < _MAX_PID else 0


_MAX_PID = 1 << 31


def _since(fields: dict[str, Any]) -> int:
    """When a generation was replaced. It decides when its files are removed, so a guess would not do."""
    value = believed(fields.get("since"))
    if not value:
        raise _wrong(fields, "since")
    return value


def _hex(fields: dict[str, Any], key: str) -> bytes:
    try:
        value = bytes.fromhex(_text(fields, key))
    except ValueError:
        raise _wrong(fields, key) from None
    if len(value) != 16:
        raise _wrong(fields, key)
    return value
