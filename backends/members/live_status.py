"""What a running node knows about the members of its backup: from memory, so that no answer waits for a destination."""

from backends.log.format.members import Member
from backends.log.member_status import MemberState, MemberStatus
from backends.members.running import RunningMembers


def live_statuses(running: RunningMembers) -> tuple[MemberStatus, ...]:
    """The status of each member, in the order of backup.lock."""
    return tuple(_status(running, member) for member in running.epochs.settings.members)


def _status(running: RunningMembers, member: Member) -> MemberStatus:
    name, end = member.name, running.position()
    in_sync = name in running.mirror.in_sync
    reached = end if in_sync else running.reached.get(name)
    out, space = running.epochs.note.out.get(name), running.spaces.get(name)
    why = "" if out is None else out.why
    if name in running.obstacles:
        why = running.obstacles[name][1]
    stored = running.writer.sizes() if in_sync and running.writer is not None else None
    return MemberStatus(
        name,
        member.url,
        _state(running, member),
        None if out is None else out.since,
        "" if in_sync else why,
        None if reached is None else end.sequence - reached.sequence,
        None if reached is None else float(max(end.time - reached.time, 0)) if reached != end else 0.0,
        None if space is None else space.free,
        None if space is None else space.total,
        None if stored is None else stored.snapshot + stored.segments,
        running.mirror.latencies.get(name) if in_sync else None,
    )


def _state(running: RunningMembers, member: Member) -> MemberState:
    if member.name in running.mirror.in_sync:
        return MemberState.IN_SYNC
    if member.trailing:
        return MemberState.TRAILING
    return MemberState.OUT_OF_SYNC if member.name in running.obstacles else MemberState.CATCHING_UP
