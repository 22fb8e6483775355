"""The status of a backup with several destinations: what each of its members adds to that of the log."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from backends.log.member_status import MemberState, MemberStatus
from backends.log.status import Status, Trouble, TroubleKind, is_space_low, space_in_words
from backends.text import counted
from backends.times import known_moment
from backends.urls import names_a_mount

DAY_AND_MINUTE = "%a %Y-%m-%d %H:%M"
"""How the sentences about members write a point in time: `Tue 2026-11-24 14:03`."""


def with_members(log: Status, members: Sequence[MemberStatus], need: int, epoch: int | None) -> Status:
    """The status of the whole backup. `log` is the status of its log, as one member holds it or the writer knows it.

    The space is that of the member with the least. The troubles of the members are added to those of the log.
    """
    stored = log.snapshot_bytes + log.segment_bytes
    measured = [member for member in members if member.free_bytes is not None]
    troubles = [each for each in log.troubles if each.kind is not TroubleKind.SPACE_LOW or not measured]
    least = min(measured, key=lambda member: member.free_bytes or 0, default=None)
    if least is not None:
        log = replace(log, free_bytes=least.free_bytes or 0, total_bytes=least.total_bytes or 0)
    found = (*troubles, *member_troubles(members, need, stored))
    return replace(log, members=tuple(members), need=need, epoch=epoch, troubles=found)


def member_troubles(members: Sequence[MemberStatus], need: int, stored: int) -> Iterator[Trouble]:
    """What is wrong with the members. `stored` is the bytes of the backup in a member that does not say it."""
    in_sync = [member.name for member in members if member.state is MemberState.IN_SYNC]
    for member in members:
        for trouble in (state_trouble(member, in_sync), space_trouble(member, stored)):
            if trouble is not None:
                yield trouble
    if is_need_not_met_soon(members, need):
        yield Trouble(TroubleKind.NEED_NOT_MET_SOON, need_in_words(members, in_sync, need))


def state_trouble(member: MemberStatus, in_sync: Sequence[str]) -> Trouble | None:
    """What is wrong with the member's state; None if nothing is. `in_sync` are the members that hold every change."""
    if member.state in (MemberState.OUT_OF_SYNC, MemberState.CATCHING_UP):
        return Trouble(TroubleKind.MEMBER_OUT_OF_SYNC, _out_of_sync(member, in_sync))
    if member.state is MemberState.UNREACHABLE:
        return Trouble(TroubleKind.MEMBER_UNREACHABLE, _unreachable(member))
    return None


def space_trouble(member: MemberStatus, stored: int) -> Trouble | None:
    """That space is low at the member; None if it is not, or nobody knows. `stored` is as in `member_troubles`."""
    stored = stored if member.stored_bytes is None else member.stored_bytes
    if member.free_bytes is None or not is_space_low(member.free_bytes, stored):
        return None
    return Trouble(
        TroubleKind.SPACE_LOW,
        f"{space_in_words(member.free_bytes, stored, member.name)}: when it is full, the node goes on without it, or "
        "stops if it needs it. Free some space there soon",
    )


def is_need_not_met_soon(members: Iterable[MemberStatus], need: int) -> bool:
    """Whether the next member that fails stops the node, although more are configured than it needs; or whether there
    are already too few."""
    waited_for = [member for member in members if not member.trailing]
    in_sync = sum(member.state is MemberState.IN_SYNC for member in waited_for)
    return in_sync < need or in_sync == need < len(waited_for)


def listed(names: Sequence[str]) -> str:
    """Names in words: `nas`, `nas and usb`, `disk, nas and usb`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _out_of_sync(member: MemberStatus, in_sync: Sequence[str]) -> str:
    since = None if member.since is None else known_moment(member.since, DAY_AND_MINUTE)
    begins = f"{member.name} is out of sync" if since is None else f"{member.name} has been out of sync since {since}"
    begins += f" ({member.why})" if member.why else ""
    if member.state is MemberState.CATCHING_UP:
        missing = "" if member.lag_changes is None else f" ({counted(member.lag_changes, 'change')} to go)"
        return f"{begins}. The node is bringing it up to date now{missing}; nothing needs to be done"
    holds = f", which {listed(in_sync)} {'holds' if len(in_sync) == 1 else 'hold'}" if in_sync else ""
    remedy = (
        "Plug it in, mount it, or free some space there, whichever it needs"
        if names_a_mount(member.url)
        else "Check its server, the way to it, and the space there"
    )
    return (
        f"{begins}. It may lack the newest changes{holds}. {remedy}; the running node then brings it up to date by "
        "itself"
    )


def _unreachable(member: MemberStatus) -> str:
    remedy = (
        "Plug it in, mount it, or switch it on"
        if names_a_mount(member.url)
        else "Check its server, and the way to it from here"
    )
    return (
        f"{member.name} cannot be read now ({member.why or 'nobody knows why'}), so what it holds is unknown. "
        f"{remedy}; the running node then brings it up to date by itself, if it lacks anything"
    )


def need_in_words(members: Sequence[MemberStatus], in_sync: Sequence[str], need: int) -> str:
    """What `is_need_not_met_soon` means for these members, as a sentence."""
    away = [member.name for member in members if not member.trailing and member.name not in in_sync]
    needs = f"the node needs {counted(need, 'member')} in sync"
    if len(in_sync) < need:
        are = f"only {listed(in_sync)} {'is' if len(in_sync) == 1 else 'are'}" if in_sync else "none is"
        return (
            f"{needs}, and {are}. It commits nothing until more are, so nothing can be lost meanwhile. Bring back "
            f"{listed(away)}"
        )
    fails = f"{in_sync[0]} fails" if len(in_sync) == 1 else f"one of {listed(in_sync)} fails"
    return f"{needs}, and has no more than that. If {fails} as well, the node stops. Bring back {listed(away)} soon"
