"""`backup.members`: what this node knows about the members of its backup, whatever they say themselves.

A member that is alone may be an old copy of itself, and cannot know that. So the node notes each epoch in its own
directory: as an intent before any member carries it, and as done once all of its members do. Without the intent, a
crash in the middle would let two members each believe to be the only one, under the same number.

The file is one line of JSON and one line with the CRC-32 of the first in hexadecimal. It is written durably, once or
twice for each epoch, never on the path of a commit that every member has saved. Without it (missing or unreadable), the
node knows of no epoch: then it starts only with every member that was in sync (backends/members/start.py).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from backends.errors import Damaged
from backends.log.format.members import MAX_MEMBERS, Epoch, OutOfSync, is_history, text_of
from backends.node.files import read_small_file, replace_file

MEMBERS_FILE = "backup.members"

MAX_SESSIONS = 1000
"""How many of its own sessions a node remembers, to tell an old copy of a member from another node's work."""


@dataclass(frozen=True, slots=True)
class MembersNote:
    """The node's own side of the epochs."""

    backup_id: str
    epoch: Epoch
    """The newest epoch that all of its members carry."""
    in_sync: tuple[str, ...]
    """The members of that epoch."""
    intent: Epoch | None = None
    """A newer epoch that some members may carry; None if there is none."""
    out: Mapping[str, OutOfSync] = field(default_factory=dict)
    """For each member that is neither in sync nor trailing."""
    sessions: tuple[str, ...] = ()
    """The ids of this node's sessions with this backup, the newest last."""
    history: Mapping[str, int] = field(default_factory=dict)
    """The sessions whose epochs lead to this one, each with the number of the last epoch that it began or, for this
    node's own, may have begun. Those before a restore are among them."""
    adopted: int = 0
    """Epochs up to this number are history, whoever began them."""
    mounts: Mapping[str, str] = field(default_factory=dict)
    """For a member in a local directory: where the filesystem that holds it is mounted. While something else is mounted
    there, or nothing, an empty directory is no wiped member."""

    @property
    def newest(self) -> int:
        """The highest number of an epoch that this node may have begun."""
        return max(self.epoch.number, 0 if self.intent is None else self.intent.number)

    def knows(self, epoch: Epoch) -> bool:
        """Whether that epoch is part of this node's history, so that what it left behind may be overwritten.

        The session alone does not tell: a directory that was set back knows its last session, but not what that did
        afterwards.
        """
        return is_history(epoch, self.history, self.adopted)

    def began(self, session: str) -> bool:
        """Whether a session with this id is known to this node."""
        return session in self.sessions or session in self.history


def read_members_note(directory: Path) -> MembersNote | None:
    """The note in this network directory; None for anything that is not whole and well-formed."""
    try:
        line, checksum, rest = read_small_file(directory / MEMBERS_FILE).split(b"\n", 2)
        if checksum != b"%08x" % crc32(line) or rest:
            return None
        return _note(json.loads(line))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, Damaged):
        return None


def write_members_note(directory: Path, note: MembersNote) -> None:
    """Write the note (mode 0600), durable when this returns. Raises OSError; then the old note is still there or, if
    only the last sync failed, the new one."""
    document = {
        "backup_id": note.backup_id,
        "epoch": _fields(note.epoch),
        "in_sync": list(note.in_sync),
        "intent": None if note.intent is None else _fields(note.intent),
        "out": {name: {"since": out.since, "why": out.why} for name, out in note.out.items()},
        "sessions": list(note.sessions[-MAX_SESSIONS:]),
        "history": dict(sorted(note.history.items(), key=lambda entry: entry[1])[-MAX_SESSIONS:]),
        "adopted": note.adopted,
        "mounts": dict(note.mounts),
    }
    line = json.dumps(document).encode()
    replace_file(directory / MEMBERS_FILE, line + b"\n%08x\n" % crc32(line), durably=True)


def remove_members_note(directory: Path) -> None:
    """Remove the note, if there is one: the node begins with another backup. Raises OSError."""
    (directory / MEMBERS_FILE).unlink(missing_ok=True)


def _fields(epoch: Epoch) -> dict[str, Any]:
    return {"number": epoch.number, "session": epoch.session}


def _note(document: dict[str, Any]) -> MembersNote:
    intent = document["intent"]
    return MembersNote(
        text_of(document, "backup_id"),
        _epoch(document["epoch"]),
        tuple(map(str, document["in_sync"][:MAX_MEMBERS])),
        None if intent is None else _epoch(intent),
        {str(name): OutOfSync(_number(out["since"]), text_of(out, "why")) for name, out in document["out"].items()},
        tuple(map(str, document["sessions"])),
        {str(session): _number(number) for session, number in document["history"].items()},
        _number(document["adopted"]),
        {str(name): str(mount) for name, mount in document["mounts"].items()},
    )


def _epoch(fields: dict[str, Any]) -> Epoch:
    return Epoch(_number(fields["number"]), text_of(fields, "session"))


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError("not a number of an epoch or a time")
    return value
