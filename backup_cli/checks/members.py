"""What check-config says about each member of a backup with several destinations."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

from backends import backup_at
from backends.log.format.members import Member
from backends.log.member_status import MemberState, MemberStatus
from backends.log.status import TroubleKind
from backends.log.status_of_members import is_need_not_met_soon, need_in_words, space_trouble, state_trouble
from backends.members.survey import WITHIN, ask_all
from backends.members.where import place_warnings, share_a_fate
from backup_cli.console import size
from backup_cli.findings import Finding, Level, ok, problem, warning
from backup_cli.members_lines import lag_in_words
from backup_cli.seen_members import SeenBackup

OF_MEMBERS = frozenset(
    {
        TroubleKind.MEMBER_OUT_OF_SYNC,
        TroubleKind.MEMBER_UNREACHABLE,
        TroubleKind.NEED_NOT_MET_SOON,
        TroubleKind.SPACE_LOW,
    }
)
"""The troubles of a status that are found here, too."""


def check_members(several: SeenBackup, directory: Path) -> Iterator[Finding]:
    """One line for each member, one for all of them, and one for what a single failure would take from several."""
    members, need = several.status.members, several.status.need
    in_sync = [member.name for member in members if member.state is MemberState.IN_SYNC]
    for member in members:
        yield _check(several, member, in_sync)
    if not is_need_not_met_soon(members, need):
        waited_for = sum(not member.trailing for member in members)
        yield ok("members", f"{len(in_sync)} of {waited_for} are in sync, and the node needs {need}")
    else:
        found = problem if len(in_sync) < need else warning
        yield found("members", need_in_words(members, in_sync, need))
    yield from _check_disks([each for each in several.found.members if each.name in several.found.alone], directory)


def _check(several: SeenBackup, member: MemberStatus, in_sync: Sequence[str]) -> Finding:
    """Whether one member can be read and written, is in sync, and has space: one line."""
    wrong = [
        trouble.sentence
        for trouble in (state_trouble(member, in_sync), space_trouble(member, _stored(several)))
        if trouble is not None
    ]
    read = several.found.alone.get(member.name)
    if read is not None and read.closed is not None:
        wrong.append(f"nothing more can be saved in it, and the node goes on without it, or stops: {read.closed}")
    if wrong:
        return Finding(Level.WARNING, f"member {member.name}", ". ".join(wrong))
    state = "in sync" if member.state is MemberState.IN_SYNC else "trails"
    said = [part for part in (state, lag_in_words(member), _space(member)) if part]
    return ok(f"member {member.name}", f"{member.url}: {', '.join(said)}")


def _stored(several: SeenBackup) -> int:
    return several.status.snapshot_bytes + several.status.segment_bytes


def _space(member: MemberStatus) -> str:
    return "" if member.free_bytes is None else f"{size(member.free_bytes)} free"


def _check_disks(members: Sequence[Member], directory: Path) -> Iterator[Finding]:
    """What one broken disk or server would take away, among the members that could be read. Those that hang meanwhile
    are left out."""
    questions: dict[str, Callable[[], list[str]]] = {
        member.name: partial(_advice, member.url, directory) for member in members
    }
    answers, _ = ask_all(questions, WITHIN)
    for lines in answers.values():
        for line in lines:
            yield warning("disk", line)
    if not any(answers.values()):
        yield ok("disk", "no member is on the node's own disk")
    pairs = {f"{one.name} and {other.name}": (one.url, other.url) for one, other in combinations(members, 2)}
    shared, _ = ask_all({names: partial(share_a_fate, *urls) for names, urls in pairs.items()}, WITHIN)
    for names, what in shared.items():
        if what is not None:
            yield warning(
                "members",
                f"{names} are on the same {what}: when it fails, both fail, and two members there protect no better "
                "than one. Keep them on different ones",
            )


def _advice(url: str, directory: Path) -> list[str]:
    return place_warnings(url, backup_at(url).place, directory)
