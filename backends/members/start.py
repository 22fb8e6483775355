"""Whether a node may start with those members of its backup that are here: a pure function.

What each rule prevents
-----------------------
A member that is alone cannot know that the others went on without it. What can be known is this. An epoch is begun
only by members of the one before it, and each of them carries the new one. So if every member that was in sync in the
newest epoch seen is here, and shows no newer one, there is none. If one of them is away, it may have gone on without
those that are here; then only the node's own note (backup.members) tells that it has not: the node notes an epoch as
done before it acknowledges anything under it.

The note may itself be old: the directory was copied to another machine, or set back to a snapshot. So with a member
away, the note is believed only if the sync point proves the database to be the newest state, and if that was written
within the last hour. Otherwise a person has to say that the member is lost.

An old copy of a member, put back in its place, looks as if it were here and had no newer epoch. It is found by the note
only: it carries an older epoch than the note says all members of that epoch have carried. So without a note, every
member that does not trail must be here, as at a restore. That every member in sync is here is not enough: if the last
one in sync fails while another joins, that one goes on alone, and the first carries an epoch that does not name it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType

from backends.errors import BackupError, Unreachable
from backends.log.format.members import Epoch, Member
from backends.members.missing import Missing
from backends.members.newest import SeenMember, newest_epoch
from backends.members.start_wording import Wording, removal
from backends.node.members_note import MEMBERS_FILE, MembersNote
from backends.text import counted, printable

MAX_AGE = 3600.0
"""Seconds since the database last changed, up to which a node starts by itself without a member that was in sync. A
node that has been down for longer may have been moved to another machine meanwhile."""


RESTORE = "backup-cli restore --resume --replace URL... DEST"
"""The command that is right whenever the backup is newer than the node's directory, and no other node goes on."""


@dataclass(frozen=True, slots=True)
class StartWith:
    """The members that a node starts with. Nothing may be appended before all of `in_sync` equal `source`."""

    source: SeenMember
    """The member whose state is the newest."""
    in_sync: tuple[str, ...]
    """The members here that hold every acknowledged change, `source` included."""
    absent: tuple[str, ...]
    """The members that were in sync in the newest epoch and cannot be used now: they are to be put out of sync."""
    behind: bool = False
    """Whether acknowledged changes may be missing from `source`, because a person gave up all members that held them.
    Then the backup is whole again only after a new snapshot of the node's database."""
    by_consent: bool = False
    """Whether a person gave up all members of the last epoch that the node has noted as done."""


class Rule(Enum):
    """Why a start is refused. Programs identify it by the value."""

    NEWER_ELSEWHERE = "newer_elsewhere"
    """The node's note knows of a newer epoch than any member that is here."""
    TAKEN_OVER = "replaced"
    """The newest epoch is not part of this node's history: another node began it, or this one did, before its directory
    was set back to an old copy."""
    MEMBER_AWAY = "member_away"
    """A member that was in sync is not here, and nothing shows that it holds no newer changes."""
    NEED_NOT_MET = "need_not_met"
    """Fewer members can be used than the node needs."""


class StartRefused(BackupError):
    """The node may not start with these members. `rule` says why, `names` are the members that it is about."""

    def __init__(self, rule: Rule, names: Collection[str], message: str) -> None:
        super().__init__(message)
        self.rule, self.names, self.kind = rule, tuple(names), rule.value


class _Found(Enum):
    """In what state a member is here that was in sync in the newest epoch."""

    WHOLE = auto()
    """It holds every acknowledged change."""
    UNUSABLE = auto()
    """It is damaged, or was about to join, but shows that it has not gone on without the others."""
    AWAY = auto()
    """It is not here, or what is here in its place is something else: an old copy, or another member."""


def may_start(
    seen: Sequence[SeenMember],
    configured: Sequence[Member],
    need: int,
    note: MembersNote | None,
    *,
    proven: bool,
    changed_ago: float | None,
    without: Collection[str] = (),
    missing: Mapping[str, Missing] = MappingProxyType({}),
) -> StartWith:
    """Which members the node starts with, if these were `seen`. Raises StartRefused, Unreachable or Diverged.

    `configured` and `need` are those of backup.lock. `proven`: the sync point shows that the database holds exactly
    what the newest of the members seen holds. `changed_ago` is how many seconds ago the database last changed, None if
    that is unknown. `without` names the members that a person has given up, `missing` those that
    were asked and not seen.
    """
    if not seen:
        places = ", ".join(f"{member.name}: {printable(member.url)}" for member in configured)
        raise Unreachable(
            f"no member of this node's backup can be reached ({places}). Nothing was changed, and what was saved is "
            "safe. Connect at least one of them, then start the node again"
        )
    if note is not None and note.backup_id != seen[0].document.backup_id:
        note = None  # it is about an earlier backup of this node
    seen = [member for member in seen if _counts(member, note)]
    if not any(member.document.epoch.number for member in seen):  # epoch 0: it is only being filled
        raise Unreachable(
            "the members of this node's backup that can be reached hold no state that it could go on from. Nothing was "
            "changed, and what was saved is safe. Connect another member, then start the node again"
        )
    start = _Start(seen, configured, newest_epoch(seen), note, frozenset(without), missing)
    start.check_no_other_node()
    start.check_newest_is_here()
    start.check_none_away(proven, changed_ago)
    return start.with_members(need)


def _counts(member: SeenMember, note: MembersNote | None) -> bool:
    """Whether the member has a say: not one on which another node went on from an epoch that this node has left behind.
    That one stays out of sync, and is never overwritten (backends/members/examine.py).

    One of epoch 0, which is being filled, holds no newest state. But it is here: if the node was killed while that
    member joined, nothing was acknowledged with it alone.
    """
    epoch = member.document.epoch
    return not epoch.number or note is None or epoch.number >= note.epoch.number or note.knows(epoch)


@dataclass(frozen=True, slots=True)
class _Start:
    """One question, with what answers it. `epoch` is the newest that was seen."""

    seen: Sequence[SeenMember]
    configured: Sequence[Member]
    epoch: Epoch
    note: MembersNote | None
    without: frozenset[str]
    missing: Mapping[str, Missing]

    def check_no_other_node(self) -> None:
        """Refuse if another node has begun the newest epoch: two nodes with the same keys lose money.

        It may also have been this node itself, if its directory was set back since. Then its database is too old.
        """
        note = self.note
        if note is None or self.epoch in (note.epoch, note.intent) or note.knows(self.epoch):
            return
        if self.epoch.number < note.epoch.number:
            return  # then it is not the newest
        names = [member.name for member in self.seen if member.document.epoch == self.epoch]
        raise StartRefused(
            Rule.TAKEN_OVER,
            names,
            f"what is in {', '.join(names)} is not what this node's directory knows of (epoch {self.epoch.number}; it "
            f"knows of {note.newest}): either another node has taken over the backup, or this directory is an old copy "
            "of itself. Nothing was changed. If another node with these keys is in use, never start this one again: "
            "two nodes with the same keys lose money. If none is, the backup holds the newest state, and this database "
            f"is too old: restore it with: {RESTORE}. Only if this database is surely the newest, run: backup-cli "
            "resync. Only if you restored this node without that member, and it is back now, run: "
            f"{removal(names)}",
        )

    def check_newest_is_here(self) -> None:
        """Refuse if changes may have been acknowledged that no member here holds.

        Only an epoch that is done matters: under an intent, nothing has been acknowledged. A person may give up all
        members of that epoch; then it is for the sync point to say whether the database is new enough.
        """
        note = self.note
        if note is None or not self._is_behind(note):
            return
        if note.knows(self.epoch) and self.without.issuperset(note.in_sync):
            return
        here = [member.name for member in self.seen]
        others = set(here) - set(note.in_sync)
        advice = self._say.connect(note.in_sync) if others else self._say.last_resort(note.in_sync)
        raise StartRefused(
            Rule.NEWER_ELSEWHERE,
            note.in_sync,
            f"this node's newest changes, of epoch {note.epoch.number}, were saved to "
            f"{self._say.listed(note.in_sync)}. What is here ({', '.join(here)}, of epoch {self.epoch.number}) may "
            f"lack them. Nothing was changed. {advice}",
        )

    def check_none_away(self, proven: bool, changed_ago: float | None) -> None:
        """Refuse if a member that was in sync is away, and may hold newer changes than those that are here."""
        early = self._in_sync_that_end_early()
        asked_for = [name for name in self._asked_for() if name in early or self._found(name) is _Found.AWAY]
        away = [name for name in asked_for if name not in self.without]
        doubt = self._doubt(proven, changed_ago)
        if away and doubt:
            raise StartRefused(
                Rule.MEMBER_AWAY,
                away,
                f"{self._say.listed(away)} may hold newer changes than what is here: {doubt}. Nothing was changed. "
                f"{self._say.connect(away)}",
            )

    def with_members(self, need: int) -> StartWith:
        """The members to start with. Raises StartRefused if they are fewer than `need`."""
        whole = {name: self._member(name) for name in self._names() if self._found(name) is _Found.WHOLE}
        waited_for = [member.name for member in self.configured if not member.trailing]
        in_sync = tuple(name for name in whole if name in waited_for)
        if len(in_sync) < max(need, 1):
            missing = [name for name in waited_for if name not in in_sync]
            raise StartRefused(
                Rule.NEED_NOT_MET,
                missing,
                f"this node needs {counted(need, 'member')} of its backup with every change, and only {len(in_sync)} "
                f"can be used ({', '.join(in_sync) or 'none'}). The others: {self._say.listed(missing) or 'none'}. "
                "Nothing was changed, and what was saved is safe. "
                f"{self._say.connect(missing) if in_sync else self._say.last_resort(missing)}",
            )
        absent = tuple(name for name in self._names() if name not in in_sync)
        source = max((member for member in whole.values() if member), key=_newness)
        note = self.note
        return StartWith(
            source,
            in_sync,
            absent,
            behind=note is not None and self._is_behind(note),
            by_consent=note is not None and self.without.issuperset(note.in_sync),
        )

    def _is_behind(self, note: MembersNote) -> bool:
        """Whether the node has noted an epoch as done that no member here carries."""
        return note.epoch != self.epoch and note.epoch.number >= self.epoch.number

    def _names(self) -> tuple[str, ...]:
        """The members that were in sync in the newest epoch. All that carry it say the same."""
        carriers = (member.document.in_sync for member in self.seen if member.document.epoch == self.epoch)
        return tuple(dict.fromkeys(name for names in carriers for name in names))

    def _asked_for(self) -> tuple[str, ...]:
        """The members that may hold newer changes than those in sync that are here.

        Without a note, that is every member that does not trail.
        """
        waited_for = (member.name for member in self.configured if self.note is None and not member.trailing)
        return tuple(dict.fromkeys((*self._names(), *waited_for)))

    def _found(self, name: str) -> _Found:
        """What is here of a member that was in sync in the newest epoch."""
        member, note = self._member(name), self.note
        if note is not None and note.epoch == self.epoch and name not in note.in_sync:
            return _Found.UNUSABLE  # a person gave it up, at a restore: the node's history is that of the others
        if member is None and self._lost_its_document(name):
            return _Found.UNUSABLE
        if member is None or member.document.name != name or self._was_set_back(member):
            return _Found.AWAY
        if member.end is None:
            return _Found.UNUSABLE
        if member.document.epoch == self.epoch:
            return _Found.WHOLE
        # The node was stopped while it wrote the epoch to its members. Nothing was acknowledged under it, so a member
        # of the last epoch that was done still holds everything. One that was about to join may not.
        return _Found.WHOLE if note is not None and name in note.in_sync else _Found.UNUSABLE

    def _lost_its_document(self, name: str) -> bool:
        """Whether this member is here and only its document is lost, which says in which epoch it is.

        Whoever takes a member over writes the session marker before the document. So one that carries the marker of the
        session that began the newest epoch, and has no longer log, has not gone on without the others. The log matters
        if the node's directory was set back to a moment of that session.
        """
        note, missing = self.note, self.missing.get(name)
        known = note is not None and note.epoch == self.epoch and note.newest == self.epoch.number
        if not known or missing is None or missing.left is None or missing.left.session != self.epoch.session:
            return False
        ends = [member.end.sequence for member in self.seen if member.document.epoch == self.epoch and member.end]
        return missing.left.end.sequence <= max(ends, default=0)

    def _was_set_back(self, member: SeenMember) -> bool:
        """Whether this is an old copy of a member that was in sync in the newest epoch, or may be one.

        Without a note, nothing tells it from a member that the node was stopped before writing the epoch to.
        """
        note, carries = self.note, member.document.epoch
        if note is None:
            return carries != self.epoch and member.name in self._names()
        if self._is_behind(note) and member.name in note.in_sync:
            return True  # it carried the newer epoch, which a person has given up
        if carries == self.epoch:
            return False
        if note.epoch.number >= self.epoch.number or note.newest < self.epoch.number:
            return True  # every member carried the newest epoch, or the note is too old to tell
        if member.name not in note.in_sync or carries == note.epoch:
            return False
        return carries.number <= note.epoch.number or not note.knows(carries)

    def _in_sync_that_end_early(self) -> Collection[str]:
        """The members in sync, if one that trails holds more of the newest epoch than each of them.

        Everything that trails was copied from a member in sync. So each of them is an old copy of itself, from earlier
        in the same epoch, or the one that had more is away.
        """
        of_epoch = [member for member in self.seen if member.document.epoch == self.epoch and member.end is not None]
        in_sync = [member for member in of_epoch if member.name in self._names()]
        longest = max((_newness(member) for member in in_sync), default=None)
        early = longest is not None and any(_newness(member) > longest for member in of_epoch)
        return {member.name for member in in_sync} if early else ()

    def _doubt(self, proven: bool, changed_ago: float | None) -> str:
        """Why the node may not start by itself without a member that was in sync: a clause; "" if it may."""
        note = self.note
        if note is None:
            return f"the node's directory has no readable {MEMBERS_FILE}, which would tell"
        if note.epoch != self.epoch:
            number = note.epoch.number
            return f"{MEMBERS_FILE} in the node's directory is of epoch {number}, not {self.epoch.number}"
        if note.newest > self.epoch.number:
            return "the node was stopped while it changed which of the members are in sync"
        if not proven:
            return "nothing shows that this node's database is the newest state"
        if changed_ago is None or not 0 <= changed_ago <= MAX_AGE:
            return "this node's database has not changed within the last hour, so the node may have run elsewhere"
        return ""

    def _member(self, name: str) -> SeenMember | None:
        return next((member for member in self.seen if member.name == name), None)

    @property
    def _say(self) -> Wording:
        return Wording(self.configured, self.seen, self.missing, self._in_sync_that_end_early())


def _newness(member: SeenMember) -> tuple[int, int]:
    """The epoch first: a member may have a longer log of changes that were never acknowledged."""
    return member.document.epoch.number, 0 if member.end is None else member.end.sequence
