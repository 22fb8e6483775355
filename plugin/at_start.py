"""What is known about the node's database when lightningd starts, before it has opened it."""

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from backends.node.sync_point import Fingerprint

if TYPE_CHECKING:
    from backends.sqlite.source import DatabaseState
    from plugin.early_copy import EarlyCopy


class WhyLeft(Enum):
    """Why a database that is behind its backup was left as it is; the value continues a sentence after "because"."""

    UNREACHABLE = "the backup could not be read before lightningd opened the database"
    LATE = "the destination did not answer in time"
    NO_KEY = "the backup is encrypted and this node does not have its key, or the other way round"
    BACKUP_DAMAGED = "the end of the backup is damaged"
    OTHER_BACKUP = "the destination holds another backup"
    OTHER_WRITER = "the backup was last written from another node directory"
    OLDER_BACKUP = "the backup ends before a change that this node had acknowledged there"
    REWRITTEN = "the backup is not as this node wrote it: something else has changed it"
    NOT_OURS = "the backup continues after the last change that this node wrote there"
    COPIED_DIRECTORY = "this node directory is a copy, and not the one that the backup was written from"
    OTHER_NODE = "it belongs to another node"
    NO_DATABASE = "it is damaged, or not a database"
    UNREADABLE = "it could not be read"
    WAL = "it is in WAL mode, in which its file does not show its version"
    LOCKED = "another process was reading or writing it"
    LARGE_JOURNAL = "the journal beside it is too large to examine"
    IN_USE = "another process uses the node's directory"
    NO_LOCK = "the node's directory cannot be locked"
    EMPTY = "it is empty, and the backup holds more than a few changes"
    TOO_FAR = "it lacks more changes than are replayed without asking"
    NO_FINGERPRINT = "the backup does not record how it looked at that version"
    OTHER_HISTORY = "it does not look as it did at that version: something else has changed it since"
    TOUCHED = "its file was written after the backup's last change: by a node without this plugin, or by something else"
    TOO_LARGE = "the missing changes are too large"
    NO_TIME = "replaying the missing changes took too long"
    READ_ONLY = "its file cannot be written: it is read-only, or another user's"
    DISK_FULL = "its disk is full"
    DISK_FAILED = "its disk failed"
    CHANGE_FAILED = "one of the missing changes could not be replayed"
    OTHER_DATABASE = "lightningd is told to use a database elsewhere (wallet), so this one is an old copy"
    UNEXPECTED = "something unexpected went wrong"

    @property
    def words(self) -> str:
        """The value, with a hint that another start may help, where it may."""
        if self not in _PASSING:
            return self.value
        return f"{self.value} (fix that and start the node again: the database may be brought forward then)"


_PASSING = frozenset({
    WhyLeft.UNREACHABLE, WhyLeft.LATE, WhyLeft.UNREADABLE, WhyLeft.LOCKED, WhyLeft.IN_USE, WhyLeft.NO_LOCK,
    WhyLeft.NO_TIME, WhyLeft.READ_ONLY, WhyLeft.DISK_FULL, WhyLeft.DISK_FAILED,
})  # fmt: skip
"""Reasons that have nothing to do with what the database holds, so that another start may help."""


@dataclass(slots=True)
class Start:
    """What is known when the manifest is answered."""

    seen: Fingerprint | None
    """The database file as lightningd will find it."""
    left: WhyLeft | None = None
    """Why the database was not brought forward, if it is behind."""
    lines: list[tuple[str, str]] = field(default_factory=list)
    """Lines for the node's log, each with its level: nothing may be logged before the manifest."""
    copy: "EarlyCopy | None" = None
    """A copy of the database, if the backup will need a new snapshot of it, and it is not large."""
    state: "DatabaseState | None" = None
    """What the database said about itself, if the backup will need a new snapshot of it."""
