"""What is known of each member, from backup.lock, the node's note, and what the members say: a pure function.

For a command, which reads the destinations as they are. The running plugin knows more: who is catching up, and how long
a write takes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from backends.base import Position
from backends.errors import Damaged
from backends.log.format.members import Epoch, Member, OutOfSync
from backends.log.member_status import MemberState, MemberStatus
from backends.log.status import Status, TroubleKind
from backends.members.newest import SeenMember, newest_epoch
from backends.members.survey import Absence, Survey
from backends.node.members_note import MembersNote
from backends.times import UNKNOWN_TIME

MAX_LAG = 1 << 31
"""A distance of this many changes is none: a log that is begun anew after damage starts far beyond the old one."""

BEING_FILLED = "it is being filled for the first time"
"""Why a new member is not in sync: it is no backup yet, and nothing in it is damaged."""

REPAIR = "to repair it from another member, run: backup-cli verify --repair"

_NOTHING_KNOWN = (Absence.NO_ANSWER, Absence.UNREACHABLE, Absence.LATER_RELEASE)
"""Nobody can tell what such a member holds. What is found at any other absent one is not the wanted state."""


@dataclass(frozen=True, slots=True)
class Belief:
    """Which members are in sync, by the newest epoch that anybody knows of."""

    epoch: Epoch
    in_sync: tuple[str, ...]
    out: Mapping[str, OutOfSync]


@dataclass(frozen=True, slots=True)
class ReadAlone:
    """What was found out by reading the whole log of one member, as if it were the only one."""

    status: Status | None = None
    """None if it could not be read to its end in time, or a whole file is missing."""
    damage: Damaged | None = None
    """Why there is no status, if that is damage."""
    closed: str | None = None
    """Why nothing can be written there; None if no reason is known."""

    @property
    def finding(self) -> str:
        """What is damaged, as a clause; empty if nothing is."""
        if self.damage is not None:
            return self.damage.finding
        troubles = () if self.status is None else self.status.troubles
        return next((each.finding for each in troubles if each.kind is TroubleKind.DAMAGE), "")


@dataclass(frozen=True, slots=True)
class Found:
    """Everything that the statuses of the members depend on."""

    members: tuple[Member, ...]
    """All that were asked, in the order in which they are shown."""
    survey: Survey
    note: MembersNote | None = None
    """What the node's own side knows, if there is a node."""
    alone: Mapping[str, ReadAlone] = field(default_factory=dict)
    """For each member that was read."""

    @property
    def belief(self) -> Belief | None:
        """What the newest epoch says, of the members that were seen and the node's note. None if nobody says anything.

        Raises Diverged.
        """
        seen, note = self.survey.seen, self.note
        top = None
        if seen:
            epoch = newest_epoch(seen)
            document = next(member.document for member in seen if member.document.epoch == epoch)
            top = Belief(epoch, document.in_sync, document.out)
            if note is not None and note.backup_id != document.backup_id:
                note = None
        if note is not None and (top is None or note.epoch.number > top.epoch.number):
            return Belief(note.epoch, note.in_sync, note.out)
        return top

    def whole(self, member: SeenMember) -> bool:
        """Whether nothing of this member's log is known to be damaged."""
        read = self.alone.get(member.name)
        return member.end is not None and (read is None or not read.finding)

    def holds_all(self, member: SeenMember, belief: Belief) -> bool:
        """Whether this member holds every acknowledged change, as far as anybody knows."""
        return member.document.epoch == belief.epoch and member.name in belief.in_sync and self.whole(member)


def member_statuses(found: Found) -> tuple[MemberStatus, ...]:
    """The status of each member. Raises Diverged."""
    belief, seen = found.belief, {member.name: member for member in found.survey.seen}
    newest = _newest_end(found, belief)
    return tuple(
        _seen(found, member, seen[member.name], belief, newest)
        if member.name in seen and belief is not None
        else _absent(found, member, belief)
        for member in found.members
    )


def _newest_end(found: Found, belief: Belief | None) -> Position | None:
    """Where the log ends in those that hold all of it; None if none of them was read."""
    ends = [
        member.end
        for member in found.survey.seen
        if belief is not None and member.end is not None and found.holds_all(member, belief)
    ]
    return max(ends, key=lambda end: end.sequence, default=None)


def _seen(found: Found, member: Member, seen: SeenMember, belief: Belief, newest: Position | None) -> MemberStatus:
    status = _measured(found, member)
    if found.holds_all(seen, belief):
        # Another one may end later: it was asked a moment after this one, and the node goes on meanwhile.
        return _with(status, MemberState.IN_SYNC, behind=(0, 0.0))
    behind = lag(seen.end, newest)
    finding = found.alone.get(member.name, ReadAlone()).finding
    if not found.whole(seen) and not seen.document.epoch.number:
        return _with(status, MemberState.OUT_OF_SYNC, why=BEING_FILLED, behind=behind)
    if not found.whole(seen):
        return _with(status, MemberState.OUT_OF_SYNC, why=_damaged(seen, finding), behind=behind)
    if member.trailing:
        return _with(status, MemberState.TRAILING, behind=behind)
    out = belief.out.get(member.name)
    if out is None and seen.document.epoch != belief.epoch:
        why = (
            f"it is of epoch {seen.document.epoch.number}, and the newest is {belief.epoch.number}: it may be an older "
            "copy of itself"
        )
        return _with(status, MemberState.OUT_OF_SYNC, why=why, behind=behind)
    return _with(status, MemberState.OUT_OF_SYNC, out, behind=behind)


def _damaged(seen: SeenMember, finding: str) -> str:
    return f"{f'it is damaged: {finding}' if finding else seen.why}; {REPAIR}"


def _absent(found: Found, member: Member, belief: Belief | None) -> MemberStatus:
    why = found.survey.missing.get(member.name, "")
    absence = found.survey.absences.get(member.name, Absence.UNREACHABLE)
    out = None if belief is None else belief.out.get(member.name)
    before = ""
    if out is not None:
        reason = " for the same reason" if out.why == why else f" ({out.why})"
        before = f"; it was out of sync before{reason if out.why else ''}"
    elif belief is not None and member.name in belief.in_sync:
        before = "; when it was last heard of, it was in sync"
    state = MemberState.UNREACHABLE if absence in _NOTHING_KNOWN else MemberState.OUT_OF_SYNC
    return _with(_measured(found, member), state, out, why=why + before)


def _measured(found: Found, member: Member) -> MemberStatus:
    """The member's name, URL and sizes; its state is filled in by `_with`."""
    alone = found.alone.get(member.name, ReadAlone()).status
    status = MemberStatus(member.name, member.url, MemberState.UNREACHABLE, trailing=member.trailing)
    if alone is None:
        return status
    return replace(
        status,
        free_bytes=alone.free_bytes,
        total_bytes=alone.total_bytes,
        stored_bytes=alone.snapshot_bytes + alone.segment_bytes,
    )


def _with(
    status: MemberStatus,
    state: MemberState,
    out: OutOfSync | None = None,
    *,
    why: str = "",
    behind: tuple[int | None, float | None] = (None, None),
) -> MemberStatus:
    since = None if out is None or out.since == UNKNOWN_TIME else out.since
    why = why or ("" if out is None else out.why)
    return replace(status, state=state, since=since, why=why, lag_changes=behind[0], lag_seconds=behind[1])


def lag(end: Position | None, newest: Position | None) -> tuple[int | None, float | None]:
    """By how many changes and seconds a log that ends at `end` is behind; None for what nobody can tell."""
    if end is None or newest is None:
        return None, None
    changes = max(newest.sequence - end.sequence, 0)
    if not changes:
        return 0, 0.0
    times_known = UNKNOWN_TIME not in (end.time, newest.time)
    seconds = float(max(newest.time - end.time, 0)) if times_known else None
    return (changes if changes < MAX_LAG else None), seconds
