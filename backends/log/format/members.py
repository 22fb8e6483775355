"""The document `members`: in a backup with several members, which of them hold every acknowledged change.

Each member has its own copy, which differs only in `name`. A backup with one destination has no such document. How the
epochs are used is in backends/members.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backends import keyring
from backends.errors import Damaged, NotEncrypted
from backends.log.format.encryption import known_key
from backends.log.format.records import MAX_NUMBER
from backends.log.format.text_files import decode_document, encode_document, is_open, sealed_by
from backends.text import printable
from backends.times import believed

MEMBERS = "members"
"""The document's name in each member."""

MAX_MEMBERS = 16

MAX_HISTORY = 200
"""The most sessions in a document's history."""

_MAX_TEXT = 2000
"""The most characters in a field; a URL may be long."""


@dataclass(frozen=True, slots=True)
class Member:
    """One destination of a backup that has several. `url` is complete, except for `?trailing`."""

    name: str
    url: str
    trailing: bool = False

    def fields(self) -> dict[str, Any]:
        """The member as it stands in a JSON document."""
        return {"name": self.name, "url": self.url, "trailing": self.trailing}

    @classmethod
    def from_fields(cls, fields: Any) -> "Member":
        """The inverse of `fields`. Raises Damaged."""
        return cls(text_of(fields, "name"), text_of(fields, "url"), fields.get("trailing") is True)


@dataclass(frozen=True, slots=True)
class Epoch:
    """A span of the log's life in which the same members were in sync.

    Epochs of one node have ever greater numbers. `session` is the session that began the epoch: two epochs with one
    number and different sessions were begun by two nodes that did not know of each other.
    """

    number: int
    session: str


@dataclass(frozen=True, slots=True)
class OutOfSync:
    """Since when a member has been out of sync (seconds since 1970), and why: a clause for people."""

    since: int
    why: str


@dataclass(frozen=True, slots=True)
class MembersDocument:
    """What one member says about all of them, as of the beginning of `epoch`."""

    backup_id: str
    name: str
    """The member that this copy of the document belongs to."""
    epoch: Epoch
    in_sync: tuple[str, ...]
    """The names of the members that hold every change acknowledged in this epoch and before."""
    members: tuple[Member, ...]
    """All members that are configured, with those that are out of sync and those that trail."""
    need: int
    out: Mapping[str, OutOfSync] = field(default_factory=dict)
    """For each member that is neither in sync nor trailing."""
    history: Mapping[str, int] = field(default_factory=dict)
    """The sessions whose epochs lead to this one, each with the number of the last epoch that it began. An epoch that
    is not among them was begun by a node that did not know of this one."""
    floor: int = 0
    """Epochs up to this number are history, too: their sessions are too old to be listed."""
    key: str | None = None
    """The public name of the key that the document is sealed with: it says where the other members are."""

    def leads_from(self, epoch: Epoch) -> bool:
        """Whether that epoch is this one or part of its history. (Epoch 0 is that of a member being filled.)"""
        return epoch == self.epoch or is_history(epoch, self.history, self.floor)

    def encode(self) -> bytes:
        """The bytes of the file. Raises KeyNeeded, or NotEncrypted if everybody could read what must be sealed."""
        if self.key is None and _must_be_sealed(self.backup_id):
            raise NotEncrypted(
                "this node's backup is encrypted, and the document that says where its members are would not have "
                "been. Nothing was written; please report this"
            )
        return encode_document(
            MEMBERS,
            {"backup_id": self.backup_id, "epoch": self.epoch.number},
            {
                "name": self.name,
                "session": self.epoch.session,
                "in_sync": list(self.in_sync),
                "members": [each.fields() for each in self.members],
                "need": self.need,
                "out": {name: {"since": out.since, "why": out.why} for name, out in self.out.items()},
                "history": dict(self.history),
                "floor": self.floor,
            },
            self.key,
        )

    @classmethod
    def decode(cls, data: bytes) -> "MembersDocument":
        """The document in the bytes of its file. Raises Damaged, NotABackup, FromTheFuture or KeyNeeded.

        One that is not sealed, although this backup is known to be encrypted, is damaged: it is from before that, or
        was put there by somebody who does not have the key.
        """
        document = cls.as_found(data)
        if document.key is None and _must_be_sealed(document.backup_id):
            raise Damaged("text that is not encrypted, although this backup is,", MEMBERS, 0)
        return document

    @classmethod
    def as_found(cls, data: bytes) -> "MembersDocument":
        """The same, even if it must be sealed and is not: anybody may have written that. Only for finding out whether a
        member may be overwritten."""
        fields = decode_document(MEMBERS, data)
        key = sealed_by(fields)
        if key is not None and not is_open(fields):
            known_key(key, "what this member says about the others")
        members = tuple(map(Member.from_fields, _list(fields, "members")))
        names = {member.name for member in members}
        in_sync = tuple(_text(name, "in_sync") for name in _list(fields, "in_sync"))
        out = fields.get("out")
        if len(names) != len(members) or not set(in_sync) <= names or not isinstance(out, dict):
            raise Damaged("the lists of members contradict each other", MEMBERS, 0)
        return cls(
            text_of(fields, "backup_id"),
            text_of(fields, "name"),
            Epoch(_number(fields, "epoch"), text_of(fields, "session")),
            in_sync,
            members,
            _number(fields, "need"),
            {
                _text(name, "out"): OutOfSync(believed(each.get("since")), text_of(each, "why"))
                for name, each in list(out.items())[:MAX_MEMBERS]
                if isinstance(each, dict)
            },
            _history(fields),
            _number(fields, "floor"),
            key,
        )


@dataclass(frozen=True, slots=True)
class PublicPart:
    """What a document that is sealed says to those who do not have the key. Anybody may have written it."""

    backup_id: str
    epoch: int
    """The number of the epoch."""
    key: str | None
    """The public name of the key that it is sealed with."""

    @classmethod
    def decode(cls, data: bytes) -> "PublicPart":
        """The public part of the document in the bytes of its file. Raises Damaged, NotABackup or FromTheFuture."""
        fields = decode_document(MEMBERS, data)
        return cls(text_of(fields, "backup_id"), _number(fields, "epoch"), sealed_by(fields))


def _must_be_sealed(backup_id: str) -> bool:
    try:
        return keyring.demanded(bytes.fromhex(backup_id))
    except ValueError:
        return False


def is_history(epoch: Epoch, history: Mapping[str, int], floor: int) -> bool:
    """Whether that epoch is part of a history (see `MembersDocument.history` and `floor`)."""
    return epoch.number <= floor or epoch.number <= history.get(epoch.session, 0)


def _history(fields: dict[str, Any]) -> dict[str, int]:
    history = fields.get("history")
    if not isinstance(history, dict) or len(history) > MAX_HISTORY:
        raise Damaged("an impossible value of history", MEMBERS, 0)
    return {_text(session, "history"): _number(history, session) for session in history}


def text_of(fields: Any, key: str) -> str:
    """A text field, made safe to show. Raises Damaged."""
    return _text(fields.get(key) if isinstance(fields, dict) else None, key)


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise Damaged(f"an impossible value of {key}", MEMBERS, 0)
    # A URL must stay what it is; it is shown only in messages, which escape all that a terminal would obey.
    return value if key == "url" else printable(value, _MAX_TEXT)


def _list(fields: dict[str, Any], key: str) -> list[Any]:
    value = fields.get(key)
    if not isinstance(value, list) or len(value) > MAX_MEMBERS:
        raise Damaged(f"an impossible value of {key}", MEMBERS, 0)
    return value


def _number(fields: dict[str, Any], key: str) -> int:
    value = fields.get(key)
    if type(value) is not int or not 0 <= value < MAX_NUMBER:
        raise Damaged(f"an impossible value of {key}", MEMBERS, 0)
    return value
