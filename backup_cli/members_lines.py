"""The lines of `status` about the members of a backup with several destinations."""

from collections.abc import Iterator

from backends.log.member_status import MemberState, MemberStatus
from backends.log.status import Status
from backends.log.status_of_members import DAY_AND_MINUTE
from backends.text import counted
from backends.times import known_moment
from backup_cli.console import age, show_row, size

_STATES = {
    MemberState.IN_SYNC: "in sync",
    MemberState.OUT_OF_SYNC: "out of sync",
    MemberState.CATCHING_UP: "catching up",
    MemberState.TRAILING: "trails",
    MemberState.UNREACHABLE: "cannot be read",
}

_MAX_WIDTH = 44
"""Columns for the names. Ours are shorter; a stranger's backup may hold any."""


def show_members(seen: Status) -> None:
    """Show a line for all members, and one for each; nothing for a backup with one destination."""
    if not seen.members:
        return
    in_sync = sum(member.state is MemberState.IN_SYNC for member in seen.members)
    waited_for = sum(not member.trailing for member in seen.members)
    show_row("members", f"{in_sync} of {waited_for} in sync; the node needs {seen.need}", 13)
    width = min(max(13, *(len(member.name) + 3 for member in seen.members)), _MAX_WIDTH)
    for member in seen.members:
        show_row(f"  {member.name}", ", ".join(_said(member)), width)


def state_in_words(member: MemberStatus) -> str:
    """The member's state, and since when it has been in it."""
    since = None if member.since is None else known_moment(member.since, DAY_AND_MINUTE)
    return _STATES[member.state] + ("" if since is None else f" since {since}")


def _said(member: MemberStatus) -> Iterator[str]:
    yield state_in_words(member)
    behind = lag_in_words(member)
    if behind:
        yield behind
    if member.free_bytes is not None and member.total_bytes is not None:
        yield f"{size(member.free_bytes)} of {size(member.total_bytes)} free"
    if member.latency is not None:
        yield f"a write takes {member.latency * 1000:.1f} ms"
    yield member.url


def lag_in_words(member: MemberStatus) -> str:
    """How far behind the newest change the member is; empty if it is in sync, or nobody can tell."""
    if member.state is MemberState.IN_SYNC:
        return ""
    if member.lag_changes == 0:
        return "nothing missing"
    far = [] if member.lag_changes is None else [counted(member.lag_changes, "change")]
    if member.lag_seconds is not None:
        far.append(age(member.lag_seconds))
    return f"{' and '.join(far)} behind" if far else ""
