"""The small text files: the manifest, the session marker, and the manifest of a generation that is kept.

Each is one line of JSON and one line with the CRC-32 of the first (`text_files`), so that a person can read the file
and a changed byte is noticed.

An attacker who can write the file can also make the checksum match, so every field has a range. A field that the backup
depends on is damage if it is out of range; a field that only informs a person (a time, a host, a process) then counts
as unknown.

In an encrypted backup, what would tell a stranger about the node is sealed in one field. Without the key it counts as
unknown; with the key, a change of any field is noticed.
"""

from dataclasses import dataclass
from typing import Any

from backends import keyring
from backends.base import LastWriter
from backends.change import VERSIONS
from backends.errors import Damaged, NotEncrypted
from backends.log.format.records import MAX_NUMBER, MAX_SEQUENCE, FileHeader, FileKind
from backends.log.format.text_files import decode_document, encode_document, sealed_by
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
    node_id: str | None  # the node's public key in hex; None if its database did not contain it, or without the key
    key: str | None = None
    """The public name of the key that this generation is encrypted with; None if it is not encrypted."""
    lineage: int = 0
    """The number of the generation from which on the log and the snapshots say the same. It changes when a snapshot of
    the database replaces what the log said, while the log goes on: a copy that was replayed from what it said before
    must be made anew."""

    def node_of(self, session: "Session | None") -> str | None:
        """The public key (hex) of the node that this backup belongs to; None if not known yet.

        A new node's database contains it only after some time: until then the session marker has it.
        """
        return self.node_id or (None if session is None else session.node_id)

    def segment_header(self, index: int) -> FileHeader:
        """The file header of this generation's segment with that index."""
        return FileHeader(FileKind.SEGMENT, self.backup_id, index, key=self.key)

    def snapshot_header(self, generation: int | None = None) -> FileHeader:
        """The file header of the first part of this generation's snapshot, or of that of another generation."""
        return FileHeader(FileKind.SNAPSHOT, self.backup_id, generation or self.generation, key=self.key)

    @property
    def made_by_compaction(self) -> bool:
        """Whether a compaction made this generation: then it holds the same history as the generation before it."""
        return self.reason == COMPACTION

    def encode(self) -> bytes:
        """The bytes of the file. Raises KeyNeeded."""
        return encode_document(MANIFEST, self.fields(), self.private_fields(), self.key)

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """The manifest in the bytes of its file. Raises Damaged, NotABackup, FromTheFuture or NotEncrypted."""
        manifest = cls.from_fields(decode_document(MANIFEST, data))
        if manifest.key is None and keyring.demanded(manifest.backup_id):
            raise _not_encrypted()
        return manifest

    def fields(self) -> dict[str, Any]:
        """The fields of the manifest's file that everybody may read."""
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
            "key": self.key,
            "lineage": self.lineage,
            "reason": reason_in_short(self.reason)[:_MAX_TEXT],
        }

    def private_fields(self) -> dict[str, Any]:
        """The fields that an encrypted backup hides."""
        # The reason may contain an error message of any length.
        return {"reason": self.reason[:_MAX_TEXT], "node_id": self.node_id}

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "Manifest":
        """The inverse of `fields`. Raises Damaged."""
        base = Base(
            number_in(fields, "sequence", MAX_SEQUENCE),
            number_in(fields, "data_version", VERSIONS),
            number_in(fields, "checksum", 1 << 32),
            _boolean(fields, "foreign_keys"),
        )
        return cls(
            _hex(fields, "backup_id"),
            number_in(fields, "generation"),
            base,
            number_in(fields, "first_segment"),
            believed(fields.get("created")),
            _informative(fields, "reason"),
            _text(fields, "node_id") if fields.get("node_id") is not None else None,
            _sealing_key(fields),
            number_in({"lineage": 0, **fields}, "lineage"),  # earlier releases did not write it
        )


def _sealing_key(fields: dict[str, Any]) -> str | None:
    """The key that a manifest names. Raises Damaged unless its private fields are sealed with that very key.

    Otherwise anybody could write a manifest that names the key: nothing in it would prove that the key's holder did.
    """
    key = key_name(fields)
    if key != sealed_by(fields):
        what = "the text names another key than the one that its private fields are sealed with,"
        raise Damaged(what, _name(fields), 0)
    return key


def key_name(fields: dict[str, Any]) -> str | None:
    """The public name of a key in the field `key`; None if nothing is encrypted. Raises Damaged."""
    if fields.get("key") is None:
        return None
    return _hex(fields, "key", keyring.NAME_SIZE).hex()


def _not_encrypted() -> NotEncrypted:
    return NotEncrypted(
        "this node's backup is encrypted, and what is there is not: somebody else has put it there, or it is a copy "
        "from before it was encrypted. Nothing was written to it; keep it, and find out who did that. If you know that "
        "it is yours, encrypt it again: backup-cli resync --encrypt"
    )


def reason_in_short(reason: str) -> str:
    """A manifest's `reason` without its details, which concern the past."""
    return reason.partition(_DETAILS)[0]


@dataclass(frozen=True, slots=True)
class Kept:
    """A generation that was replaced and is kept for a while: because the database disagreed with it, or because the
    history is kept (`History`).

    Its files stay next to those of the current generation, under their own names.
    """

    manifest: Manifest
    last_segment: int
    """The index of the segment in which its log ends; later segments belong to another generation."""
    data_version: int
    """The version at which its log ended."""
    since: int
    """When it was replaced, in seconds since 1970."""
    last_sequence: int | None = None
    """Its last record, if a compaction replaced it: the segment in which its log ends may hold records of the next
    generation, too. Otherwise None."""

    def encode(self) -> bytes:
        """The bytes of the file."""
        manifest = self.manifest
        own = {"last_segment": self.last_segment, "end_version": self.data_version, "since": self.since}
        return encode_document(KEPT, {**manifest.fields(), **own}, manifest.private_fields(), manifest.key)

    @classmethod
    def decode(cls, data: bytes) -> "Kept":
        """The note in the bytes of its file. Raises Damaged, NotABackup or FromTheFuture."""
        fields = decode_document(KEPT, data)
        return cls(
            Manifest.from_fields(fields),
            number_in(fields, "last_segment"),
            number_in(fields, "end_version", VERSIONS),
            since_in(fields),
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
    key: str | None = None  # the public name of the key that hides the host and what is said of the node

    @property
    def last_writer(self) -> LastWriter | None:
        """Who wrote this backup last; None when no node has written to it yet."""
        if not self.session_id:
            return None
        return LastWriter(self.session_id, self.host, self.pid, self.started, self.closed)

    def encode(self) -> bytes:
        """The bytes of the file."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "key"}
        private = {name: fields.pop(name) for name in ("host", "pid", "node_id", "trouble")}
        return encode_document(SESSION, fields, private, self.key)

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
            number_in(fields, "generation"),
            number_in(fields, "sequence", MAX_SEQUENCE),
            number_in(fields, "data_version", VERSIONS),
            _boolean(fields, "closed"),
            _text(fields, "node_id") if fields.get("node_id") is not None else None,
            _informative(fields, "trouble", _UNREADABLE) if fields.get("trouble") is not None else None,
            sealed_by(fields),
        )


def _wrong(fields: dict[str, Any], key: str) -> Damaged:
    return Damaged(f"an impossible value of {key} ({_shown(fields.get(key))})", _name(fields), 0)


def _name(fields: dict[str, Any]) -> str:
    return SESSION if "session_id" in fields else KEPT if "last_segment" in fields else MANIFEST


def _shown(value: Any) -> str:
    try:
        return printable(repr(value), 42)
    except RecursionError:
        return "something deeply nested"


def number_in(fields: dict[str, Any], key: str, below: int = MAX_NUMBER) -> int:
    """The number in this field of a decoded text file. Raises Damaged unless it is at least 0 and `below`."""
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
    if value.isprintable():
        return value
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


def since_in(fields: dict[str, Any]) -> int:
    """When a generation was replaced. Raises Damaged for a bad time instead of guessing: it decides when the
    generation's files are removed."""
    value = believed(fields.get("since"))
    if not value:
        raise _wrong(fields, "since")
    return value


def _hex(fields: dict[str, Any], key: str, size: int = 16) -> bytes:
    try:
        value = bytes.fromhex(_text(fields, key))
    except ValueError:
        raise _wrong(fields, key) from None
    if len(value) != size:
        raise _wrong(fields, key)
    return value
