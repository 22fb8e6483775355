"""The small text files: the manifest, the session marker, and the manifest of a generation that is kept.

Each is one line of JSON and one line with the CRC-32 of the first, in hexadecimal, so that a person can read the file
and a changed byte is noticed.

An attacker who can write the file can also make the checksum match, so every field has a range. A field that the backup
depends on is damage if it is out of range; a field that only informs a person (a time, a host, a process) then counts
as unknown.
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
"""The `reason` of a generation made by a compaction, and of no other generation (docs/format.md)."""

_DETAILS = " ("
"""Begins the optional details of a `reason`, which are in brackets: the whole message of a failure, for example."""

_MAX_TEXT = 1000
"""The most characters in a field. Readers refuse more, so writers must not write more."""


@dataclass(frozen=True, slots=True)
class Base:
    """The point in the log at which a generation's snapshot was taken: it holds all changes up to `sequence`,
    inclusive."""

    sequence: int
    data_version: int
    checksum: int
    foreign_keys: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """Names the current generation: its snapshot (by number), and the first segment of its log."""

    backup_id: bytes
    generation: int
    base: Base
    first_segment: int
    created: int  # when this generation was begun, in seconds since 1970, or UNKNOWN_TIME
    reason: str  # why it was begun: "init", "compaction", …
    node_id: str | None  # the node's public key in hex; None if its database did not contain it

    def node_of(self, session: "Session | None") -> str | None:
        """The public key (hex) of the node that this backup belongs to; None if not known yet.

        A new node's database contains it only after some time: until then the session marker has it.
        """
        return self.node_id or (None if session is None else session.node_id)

    @property
    def made_by_compaction(self) -> bool:
        """Whether a compaction made this generation: then it holds the same history as the generation before it."""
        return self.reason == COMPACTION

    def encode(self) -> bytes:
        """The bytes of the file."""
        return encode_document(self.fields())

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """The manifest in the bytes of its file. Raises Damaged, NotABackup or FromTheFuture."""
        return cls.from_fields(decode_document(MANIFEST, data))

    def fields(self) -> dict[str, Any]:
        """The fields of the manifest's file."""
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
            "reason": self.reason[:_MAX_TEXT],  # it may contain an error message of any length
            "node_id": self.node_id,
        }

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "Manifest":
        """The inverse of `fields`. Raises Damaged."""
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
    """A manifest's `reason` without its details, which concern the past."""
    return reason.partition(_DETAILS)[0]


@dataclass(frozen=True, slots=True)
class Kept:
    """A generation that was replaced because the database disagreed with it, and that is kept for a while.

    Its files stay next to those of the current generation, under their own names.
    """

    manifest: Manifest
    last_segment: int
    """The index of the segment in which its log ends; later segments belong to another generation."""
    data_version: int
    """The version at which its log ended."""
    since: int
    """When it was replaced, in seconds since 1970."""

    def encode(self) -> bytes:
        """The bytes of the file."""
        own = {"last_segment": self.last_segment, "end_version": self.data_version, "since": self.since}
        return encode_document({**self.manifest.fields(), **own})

    @classmethod
    def decode(cls, data: bytes) -> "Kept":
        """The note in the bytes of its file. Raises Damaged, NotABackup or FromTheFuture."""
        fields = decode_document(KEPT, data)
        return cls(
            Manifest.from_fields(fields),
            _number(fields, "last_segment"),
            _number(fields, "end_version", VERSIONS),
            _since(fields),
        )


@dataclass(frozen=True, slots=True)
class Session:
    """The session marker: who writes this backup now, and up to where changes have been acknowledged.

    A writer that finds another writer's marker here has been fenced. `sequence` lags behind the log (it is written in
    the background and at the end): a log that ends before `sequence` has lost something that was once saved.
    `generation` lags as well: a manifest that names an earlier generation is an old copy of itself.
    """

    writer: str  # random: identifies one writer, be it a node or a command
    session_id: str  # random: the node's session that wrote last; a command continues it
    host: str
    pid: int  # 0: unknown
    started: int  # seconds since 1970, or UNKNOWN_TIME
    generation: int
    sequence: int
    data_version: int
    closed: bool
    node_id: str | None
    trouble: str | None  # a sentence if the last compaction failed, saying why; otherwise None

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
        """The marker in the bytes of its file. Raises Damaged, NotABackup or FromTheFuture."""
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
    """The bytes of a backup's text file with these fields."""
    line = json.dumps({"lightningd-backup": FORMAT, **fields}).encode()
    return line + b"\n%08x\n" % crc32(line)


def decode_document(name: str, data: bytes) -> dict[str, Any]:
    """The fields of the text file `name`. Raises Damaged, NotABackup or FromTheFuture."""
    line, _, rest = data.partition(b"\n")
    if not data.startswith(b"{"):
        raise Damaged("empty or overwritten content", name, 0)
    if rest != b"%08x\n" % crc32(line):
        raise Damaged("the text does not match its checksum", name, 0)
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
    return Damaged(f"an impossible value of {key} ({_shown(fields.get(key))})", name, 0)


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
    # It will be shown on a terminal, and the disk may be a stranger's.
    return "".join(character if character.isprintable() else "?" for character in value)


_UNREADABLE = "the writer left a note for readers here, and it cannot be read"


def _informative(fields: dict[str, Any], key: str, otherwise: str = "unknown") -> str:
    """A text that only a person reads, so a bad one must not stop anything: then the result is `otherwise`."""
    try:
        return _text(fields, key)
    except Damaged:
        return otherwise


def _pid(fields: dict[str, Any]) -> int:
    """The field `pid`; 0 for anything that cannot be a process number, since asking the system about it would fail."""
    value = fields.get("pid")
    return value if type(value) is int and 0 < value < _MAX_PID else 0


_MAX_PID = 1 << 31


def _since(fields: dict[str, Any]) -> int:
    """When a generation was replaced. Raises Damaged for a bad time instead of guessing: it decides when the
    generation's files are removed."""
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
