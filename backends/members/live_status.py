"""The status of the members while the node runs, from memory: asking for it waits for none of them."""

from collections.abc import Collection, Mapping, Sequence

from backends.base import Position
from backends.log.format.members import Member, OutOfSync
from backends.log.member_status import MemberState, MemberStatus
from backends.members.examine import Obstacle
from backends.members.member_statuses import lag
from backends.members.running import RunningMembers
from backends.storage.base import Space
from backends.times import UNKNOWN_TIME

_NOTHING_KNOWN = (Obstacle.NOT_THERE, Obstacle.NOT_MOUNTED)


def live_statuses(running: RunningMembers) -> tuple[MemberStatus, ...]:
    """The status of each member, in the order of backup.lock."""
    sizes = None if running.writer is None else running.writer.sizes()
    return statuses(
        running.epochs.settings.members,
        in_sync=tuple(running.mirror.in_sync),
        out=running.epochs.note.out,
        end=running.position(),
        reached=dict(running.reached),
        obstacles=dict(running.obstacles),
        spaces=dict(running.spaces),
        latencies=dict(running.mirror.latencies),
        stored=None if sizes is None else sizes.snapshot + sizes.segments,
    )


def statuses(
    members: Sequence[Member],
    *,
    in_sync: Collection[str],
    out: Mapping[str, OutOfSync],
    end: Position,
    reached: Mapping[str, Position],
    obstacles: Mapping[str, tuple[Obstacle, str]],
    spaces: Mapping[str, Space],
    latencies: Mapping[str, float],
    stored: int | None = None,
) -> tuple[MemberStatus, ...]:
    """The status of each of these members: a pure function.

    `end` is where the log ends, `reached` up to where a member that is not in sync holds it, as far as this process
    knows; `obstacles` is what keeps a member from being caught up, `stored` the bytes of the backup in one in sync.
    """

    def status(member: Member) -> MemberStatus:
        name, space = member.name, spaces.get(member.name)
        if space is not None and not space.is_known:
            space = None
        obstacle = obstacles.get(name)
        state = _state(member, name in in_sync, None if obstacle is None else obstacle[0])
        noted = None if state is MemberState.IN_SYNC else out.get(name)
        behind = (0, 0.0) if state is MemberState.IN_SYNC else lag(reached.get(name), end)
        return MemberStatus(
            name,
            member.url,
            state,
            since=None if noted is None or noted.since == UNKNOWN_TIME else noted.since,
            why="" if state is MemberState.IN_SYNC else _why(noted, obstacle),
            lag_changes=behind[0],
            lag_seconds=behind[1],
            free_bytes=None if space is None else space.free,
            total_bytes=None if space is None else space.total,
            stored_bytes=stored if state is MemberState.IN_SYNC else None,
            latency=latencies.get(name) if state is MemberState.IN_SYNC else None,
            trailing=member.trailing,
        )

    return tuple(status(member) for member in members)


def _state(member: Member, in_sync: bool, obstacle: Obstacle | None) -> MemberState:
    if in_sync:
        return MemberState.IN_SYNC
    if obstacle is not None:
        # Of one that trails, only the obstacle tells that it gets nothing; any other has been out of sync before.
        return MemberState.UNREACHABLE if member.trailing and obstacle in _NOTHING_KNOWN else MemberState.OUT_OF_SYNC
    return MemberState.TRAILING if member.trailing else MemberState.CATCHING_UP


def _why(noted: OutOfSync | None, obstacle: tuple[Obstacle, str] | None) -> str:
    """Why the member went out of sync, and what keeps it from being caught up now, as one clause."""
    first, now = "" if noted is None else noted.why, "" if obstacle is None else obstacle[1]
    return f"{first}; now: {now}" if first and now and first != now else first or now
