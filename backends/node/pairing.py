"""Is this backup this node's, and which of the two holds the newer state?

The commands and the plugin both decide by this module, so that they cannot disagree. It gives facts, as enums and
numbers; the callers write the sentences. Nothing here changes anything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from backends.base import MAX_ROLL_FORWARD, LastWriter, Position
from backends.change import ahead
from backends.log.known_damage import KnownDamage
from backends.node.memory import NOTHING, Memory, Remembered


class Found(Enum):
    """What was found where a node's database should be."""

    VERSION = auto()
    """A lightningd database that states its version."""
    NO_VERSION = auto()
    """A lightningd database from before lightningd kept a version."""
    NOTHING = auto()
    """No file, or a file without tables: the node never started, or it has lost its database."""
    CORRUPT = auto()
    UNREADABLE = auto()
    """The file cannot be read, is a broken link, or is not a lightningd database."""
    IN_USE = auto()
    """A running node uses the database, so it is not opened."""


@dataclass(frozen=True, slots=True)
class NodeDatabase:
    """A node's database as it would be once the node has started: a hot journal or WAL counts."""

    found: Found
    version: int | None = None
    node_id: str | None = None
    why: str = ""
    """What is wrong when the database is CORRUPT or UNREADABLE, as a sentence."""
    unknown_objects: str = ""
    """What the schema holds that no lightningd creates, in words."""


@dataclass(frozen=True, slots=True)
class BackupEnd:
    """Which backup it is, and where it ends."""

    backup_id: str
    node_id: str | None
    version: int
    """The newest version that is known to have been saved; in a damaged backup, also after the damage."""
    empty: bool
    """The backup holds no database yet: the node has never started with it."""
    damaged: bool
    last_change: int
    """When the last change was saved, in seconds since 1970."""
    writer: LastWriter | None
    """The last writer; None when nobody has written yet, or nothing tells who has."""
    end: Position | None = None
    """Where the log ends; None when it is damaged, or nobody asked."""
    known: KnownDamage | None = None
    """What is noted against the backup: it is `damaged` then, too."""


class Identity(Enum):
    """Whose backup it is."""

    OURS = auto()
    OTHER_BACKUP = auto()
    """backup.lock names another backup: this one is another node's, or was created again."""
    OTHER_NODE = auto()
    """The backup holds another node's database."""
    TAKEN_OVER = auto()
    """A writer that was never this directory has written to the backup since: perhaps a node that is in use."""


class Relation(Enum):
    """How the node's database relates to the end of the backup."""

    EQUAL = auto()
    AHEAD = auto()
    BEHIND = auto()
    BOTH_EMPTY = auto()
    """The node never started."""
    NO_DATABASE = auto()
    """The backup holds a state, and the node has no database."""
    NO_VERSION = auto()
    """Neither the database nor the backup states its version."""
    CORRUPT = auto()
    UNREADABLE = auto()
    RUNNING = auto()
    """The node is running, and its plugin has decided already."""


DISPUTED = (Relation.EQUAL, Relation.AHEAD, Relation.NO_VERSION)
"""The relations in which the database would replace what the backup holds, which a copy must not do."""


class NextStart(Enum):
    """What the plugin will do at the node's next start."""

    GO_ON = auto()
    ROLL_FORWARD = auto()
    SNAPSHOT = auto()
    REFUSE = auto()


@dataclass(frozen=True, slots=True)
class Pairing:
    """How a node's database and a backup relate to each other."""

    identity: Identity
    relation: Relation
    database: NodeDatabase
    backup: BackupEnd
    distance: int = 0
    """Changes by which the database is ahead; negative when it is behind."""
    wrote_last: bool = False
    """Whether the backup's last writer is known to have been this directory."""
    copied: bool = False
    """Whether this directory may be a copy that has diverged, so that the higher version need not be the newer state.

    Only set for a node's own directory with the backup that its backup.lock names.
    """
    memory: Remembered = NOTHING
    """What the node remembers about the end of the backup."""

    def next_start(self, provable: Callable[[], bool]) -> NextStart:
        """What the plugin does at the next start.

        `provable` tells whether the database is an earlier state of the very history that the backup holds; it is only
        called for a database that is a few changes behind.
        """
        if self.identity is not Identity.OURS or self.both_older:
            return NextStart.REFUSE
        if self.relation is Relation.BEHIND:
            return NextStart.ROLL_FORWARD if self.may_roll_forward and provable() else NextStart.REFUSE
        if self.copied and self.relation in DISPUTED:
            return NextStart.REFUSE
        return _NEXT[self.relation]

    @property
    def may_roll_forward(self) -> bool:
        """Whether everything but the proof (see `next_start`) allows bringing the database forward."""
        few = self.relation is Relation.BEHIND and -self.distance <= MAX_ROLL_FORWARD
        return (
            few
            and self.wrote_last
            and not self.copied
            and self.identity is Identity.OURS
            and self.database.found is Found.VERSION
            and self.memory.verdict is Memory.AGREES
        )

    @property
    def both_older(self) -> bool:
        """Whether the database and the backup are both older than what this node has had acknowledged."""
        if self.memory.verdict is not Memory.OLDER or self.database.found is Found.IN_USE:
            return False
        return ahead(self.memory.version, self.database.version or 0) > 0

    @property
    def database_surely_newest(self) -> bool:
        """Whether nothing newer is lost when the database replaces what the backup holds."""
        if self.identity is not Identity.OURS or self.both_older or (self.copied and self.relation in DISPUTED):
            return False  # once a node's history has split, the higher version need not be the newer state
        return self.relation in (Relation.EQUAL, Relation.AHEAD, Relation.BOTH_EMPTY)

    @property
    def backup_surely_newest(self) -> bool:
        """Whether nothing newer is lost when what the backup holds replaces the database."""
        if self.relation in (Relation.NO_DATABASE, Relation.BOTH_EMPTY):
            return True
        same_node = self.identity in (Identity.OURS, Identity.TAKEN_OVER)
        return same_node and self.relation in (Relation.EQUAL, Relation.BEHIND)


_NEXT = {
    Relation.EQUAL: NextStart.GO_ON,
    Relation.AHEAD: NextStart.SNAPSHOT,
    Relation.BOTH_EMPTY: NextStart.GO_ON,
    Relation.NO_DATABASE: NextStart.REFUSE,
    Relation.NO_VERSION: NextStart.GO_ON,
    Relation.CORRUPT: NextStart.REFUSE,
    Relation.UNREADABLE: NextStart.REFUSE,
    Relation.RUNNING: NextStart.GO_ON,
}


def pair(
    database: NodeDatabase,
    backup: BackupEnd,
    expected: str | None,
    sessions: list[str] | None,
    *,
    copied: bool = False,
    memory: Remembered = NOTHING,
) -> Pairing:
    """How a database and a backup relate to each other.

    `expected` is the backup's id in backup.lock (None when it names none), `sessions` are the ids of the sessions that
    this directory has had with the backup (None when it knows of none); `copied` and `memory` are as in `Pairing`.
    """
    relation, distance = _relation(database, backup)
    writer = backup.writer
    wrote_last = writer is not None and sessions is not None and writer.session_id in sessions
    return Pairing(
        identify(backup.backup_id, expected, writer, sessions, backup.node_id, database.node_id),
        relation,
        database,
        backup,
        distance,
        wrote_last,
        copied,
        memory,
    )


def identify(
    found: str,
    expected: str | None,
    writer: LastWriter | None,
    sessions: list[str] | None,
    backup_node: str | None = None,
    database_node: str | None = None,
) -> Identity:
    """Whose backup `found` is: by its id, by the node in it and in the database, and by its last writer."""
    if expected not in (None, found):
        return Identity.OTHER_BACKUP
    if backup_node is not None and database_node is not None and backup_node != database_node:
        return Identity.OTHER_NODE
    if writer is not None and sessions is not None and writer.session_id not in sessions:
        return Identity.TAKEN_OVER
    return Identity.OURS


_WITHOUT_VERSION = {
    Found.CORRUPT: Relation.CORRUPT,
    Found.UNREADABLE: Relation.UNREADABLE,
    Found.IN_USE: Relation.RUNNING,
}


def _relation(database: NodeDatabase, backup: BackupEnd) -> tuple[Relation, int]:
    if database.found in _WITHOUT_VERSION:
        return _WITHOUT_VERSION[database.found], 0
    if database.found is Found.NOTHING:
        return (Relation.BOTH_EMPTY, 0) if backup.empty else (Relation.NO_DATABASE, -backup.version)
    if backup.empty:
        return Relation.AHEAD, max(database.version or 0, 1)
    if database.found is Found.NO_VERSION and backup.version == 0:
        return Relation.NO_VERSION, 0
    # lightningd never drops the version again: a database without one is older than a backup with one.
    distance = ahead(database.version or 0, backup.version)
    if distance == 0:
        return Relation.EQUAL, 0
    return (Relation.AHEAD if distance > 0 else Relation.BEHIND), distance
