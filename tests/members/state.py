"""What the model of several destinations consists of: the members' disks, the machines of nodes, the truth about both.

A log is a tuple of numbers, one for each change; an acknowledged change is lost when a log lacks its number.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from backends.base import Position
from backends.errors import BackupError
from backends.log.format.members import Epoch, Member, MembersDocument
from backends.members.epochs import Epochs
from backends.members.newest import Diverged, SeenMember
from backends.node.lockfile import Settings
from backends.node.members_note import MembersNote

Log = tuple[int, ...]

HOUR = 3600.0

BACKUP_ID = "b"


class Stopped(Exception):
    """The node has stopped: it crashed, or refused to go on."""


class Lost(Exception):
    """An acknowledged change is gone, and nobody was asked."""


@dataclass(slots=True)
class Disk:
    """What a member holds. Without a document it is empty: new, or wiped."""

    name: str
    trailing: bool = False
    document: MembersDocument | None = None
    log: Log = ()
    torn: bool = False
    """Its log cannot be read to the end."""
    filling: bool = False
    """Only for the check: its log was replaced, and its document not yet."""
    writer: str = ""
    """The session that took the member over last, and so wrote last. Any other is fenced."""

    def seen(self) -> SeenMember | None:
        """What a reader finds; None for an empty member."""
        if self.document is None:
            return None
        end = None if self.torn else Position(len(self.log), len(self.log), 0)
        return SeenMember(self.name, self.document, end, "torn" if self.torn else "")

    def put_back(self, old: "Disk") -> None:
        """Become an old copy of itself."""
        self.document, self.log, self.torn = old.document, old.log, old.torn
        self.writer, self.filling = old.writer, old.filling

    def wipe(self) -> None:
        """Lose everything."""
        self.put_back(Disk(self.name))


@dataclass(frozen=True, slots=True)
class SyncPoint:
    """The node's proof that its database is as its last session left it."""

    database: Log
    changed: float
    """When the last change was made, by the clock."""
    inode: int


@dataclass(frozen=True, slots=True)
class Side:
    """A node's directory: all that a copy of it takes along, but for the inode of the database."""

    note: MembersNote | None
    database: Log = ()
    changed: float = 0.0
    """When the last change was made, by the clock."""
    sync_point: SyncPoint | None = None
    agreed: frozenset[str] = frozenset()
    """The members that a restore left out with a person's consent."""
    restored_from: str = ""
    """Who had written last to the backup that it was restored from."""
    line: int = 0
    """Only for the check: which of the histories it goes on with."""


@dataclass(slots=True)
class Machine:
    """A machine with a node's directory, and what its node has in memory while it runs."""

    side: Side
    inode: int
    reach: set[str]
    session: str = ""
    """Empty: the node is down."""
    log: Log = ()
    open: set[str] = field(default_factory=set)
    """The members that it has open for writing. One that went away, or was replaced, is not open any more."""

    pending: set[int] = field(default_factory=set)
    """Acknowledged changes that, once a person has given up all members that held them, only the database holds: until
    the new snapshot of it is saved, they count as given up."""

    def stop(self) -> None:
        """The node ends, whether it wanted to or not."""
        self.session, self.open = "", set()

    @property
    def note(self) -> MembersNote:
        """What a running node knows."""
        assert self.side.note is not None
        return self.side.note

    def write(self, note: MembersNote) -> None:
        """Note it durably."""
        self.side = replace(self.side, note=note)


@dataclass(slots=True)
class World:
    """Everything, and the chance that drives it."""

    chance: random.Random
    broken: frozenset[str]
    disks: dict[str, Disk]
    need: int
    machines: list[Machine] = field(default_factory=list)
    clock: float = 0.0
    acknowledged: list[set[int]] = field(default_factory=lambda: [set()])
    """The truth, for each line of history. A second line begins when a person lets a node go on without a member that
    may know more."""
    given_up: set[int] = field(default_factory=set)
    """The acknowledged changes that a person has done without."""
    copies: list[Disk] = field(default_factory=list)
    """Earlier states of members."""
    snapshots: list[tuple[Machine, Side, float]] = field(default_factory=list)
    """Earlier states of node directories, and when they were taken."""
    meanwhile: Callable[[Machine], None] = lambda machine: None
    """What other nodes do while one is in the middle of something."""
    late: list[tuple[Disk, Log]] = field(default_factory=list)
    """Writes that a server may still apply, though nobody waits for them any more."""
    diverged: int = 0
    """How often two histories were told apart."""
    alone: bool = True
    """Whether there has been one node only, and nobody gave anything up: then there is one history."""
    telling: bool = False
    told: list[str] = field(default_factory=list)
    """What happened, for a person who looks for the reason of a loss."""
    count: int = 0

    def tell(self, what: str) -> None:
        """Remember what happens, and what every member holds then."""
        if self.telling:
            members = "; ".join(_text(disk) for disk in self.disks.values())
            self.told.append(f"{what:60} {members}")

    def number(self) -> int:
        """A number that nothing else has."""
        self.count += 1
        return self.count

    def happens(self, probability: float) -> bool:
        """Whether something with that probability happens now."""
        return self.chance.random() < probability

    def maybe_crash(self, probability: float = 0.03) -> None:
        """The node may end here."""
        if self.happens(probability):
            raise Stopped

    def shuffled(self, names: Iterable[str]) -> list[str]:
        """These names in any order: what is written in parallel becomes durable in any."""
        ordered = sorted(names)
        self.chance.shuffle(ordered)
        return ordered

    @property
    def members(self) -> tuple[Member, ...]:
        """All that are configured now."""
        return tuple(Member(disk.name, f"file:///{disk.name}", disk.trailing) for disk in self.disks.values())

    def all_acknowledged(self) -> set[int]:
        """Of every line, without what was given up."""
        return set().union(*self.acknowledged) - self.given_up

    def documented(self, note: MembersNote, name: str, epoch: Epoch, in_sync: Iterable[str]) -> MembersDocument:
        """The document of a member, as the node that knows `note` writes it."""
        settings = Settings("", BACKUP_ID, self.members, self.need)
        return Epochs(Path(), settings, note, epoch.session).document(name, epoch, tuple(sorted(in_sync)), {})

    def alone_holds(self, disk: Disk) -> bool:
        """Whether something acknowledged would be gone without this member: no other holds it and is known to."""
        held = set(disk.log) & set().union(*self.acknowledged)
        return not any(
            other is not disk and not other.torn and held <= set(other.log) and _counts_as(other, disk)
            for other in self.disks.values()
        )

    def check_kept(self, disk: Disk, log: Log) -> None:
        """Raises Lost if `log`, in place of what that member holds, destroys an acknowledged change.

        What a node was only filling, another may empty, as long as there is another copy. What a person has given up
        counts as lost already, because they were told to do so only if it is.
        """
        gone = (set(disk.log) - set(log)) & set().union(*self.acknowledged)
        if "given-up-comes-back" not in self.broken:
            gone -= self.given_up
        if gone and disk.filling:
            gone -= set().union(*(other.log for other in self.disks.values() if other is not disk))
        if gone:
            raise Lost("destroyed on a member")

    def refused(self, why: BackupError) -> None:
        """A start or a restore was refused. Raises Lost if that was for a reason that there cannot be."""
        if isinstance(why, Diverged):
            self.diverged += 1
            if self.alone:
                raise Lost("two histories were seen where there was one")

    def saved(self, machine: Machine, log: Log) -> None:
        """Every member in sync holds `log` now, with what only the database held before."""
        if machine.pending <= set(log):
            self.given_up -= machine.pending
            self.acknowledged[machine.side.line] |= machine.pending
            machine.pending = set()

    def consent(self, log: Log) -> int:
        """A person has allowed to go on from `log`, whatever it lacks. Returns the new line of history."""
        self.alone = False
        everything = set().union(*self.acknowledged)
        self.given_up |= everything - set(log)
        self.acknowledged.append(everything & set(log))
        return len(self.acknowledged) - 1


def _counts_as(other: Disk, disk: Disk) -> bool:
    if other.document is None or other.name not in other.document.in_sync:
        return False
    return disk.document is None or other.document.epoch.number >= disk.document.epoch.number


def _text(disk: Disk) -> str:
    if disk.document is None:
        return f"{disk.name}: empty {disk.log}"
    epoch, in_sync = disk.document.epoch, "".join(disk.document.in_sync)
    trails, torn = " trails" if disk.trailing else "", " torn" if disk.torn else ""
    return f"{disk.name}: {epoch.number}/{epoch.session} {{{in_sync}}} {disk.log} by {disk.writer}{trails}{torn}"
