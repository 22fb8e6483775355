"""Which members of a backup a restore may do without: each one that is missing has to be named by the user.

What a member believes about the others proves nothing: it may be an old copy of itself. So every configured member
counts that was not read, whatever is known about it. Nothing here asks any member; it is decided from what they said.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from backends.errors import BackupError
from backends.log.format.members import Member, MembersDocument
from backends.members.newest import Diverged, SeenMember, newest, newest_epoch
from backends.text import counted, shell_line
from backends.times import known_moment


class MembersMissing(BackupError):
    """A configured member was not read, and the user has not said that it is lost. `names` are all such members."""

    kind = "members_missing"

    def __init__(self, message: str, names: Sequence[str], listed: Sequence[str]) -> None:
        super().__init__(message)
        self.names, self.listed = tuple(names), tuple(listed)


@dataclass(frozen=True, slots=True)
class Choice:
    """What to restore from."""

    sources: tuple[SeenMember, ...]
    """The members to restore from, the best one first. Another one is as good, should one turn out to be damaged."""
    newest: MembersDocument
    """The newest document: which members are configured."""
    given_up: Mapping[str, str]
    """For each member that the restore does without, by its name: a clause that names it and says what is known."""


def choose(seen: Sequence[SeenMember], missing: Mapping[str, str], without: Collection[str]) -> Choice:
    """Which members to restore from. `seen` has at least one; one whose `end` is None is damaged.

    `missing` says why others were not read, by name; a configured one may be in neither. `without` are the names that
    the user has typed. Raises MembersMissing, Diverged, or BackupError for a name that makes no sense.
    """
    seen = _one_history([member for member in seen if member.document.epoch.number], without) or seen
    epoch = newest_epoch(seen)
    document = next(member.document for member in seen if member.document.epoch == epoch)
    _refuse_unknown(document, seen, missing, without)
    reasons = _not_read(document, seen, missing)
    of_epoch = [member for member in seen if member.document.epoch == epoch]
    in_sync = [member for member in of_epoch if member.name in document.in_sync]
    readable = not in_sync or any(member.end is not None for member in in_sync)
    others = [member for member in seen if member not in in_sync and member.end is not None]
    if not readable and others:  # what the newest members acknowledged cannot be read any more
        damaged = {member.name: member.why for member in in_sync}
        reasons = {each.name: why for each in document.members if (why := {**damaged, **reasons}.get(each.name))}
    _demand(document, seen, reasons, without)
    given_up = {name: _known(name, why, document, seen) for name, why in reasons.items()}
    if readable and any(member.end is not None for member in of_epoch):
        return Choice(_as_good(newest(seen), in_sync), document, given_up)
    # Without any whole member, reading a damaged one says what is wrong.
    return Choice((newest(others),) if others else tuple(in_sync or seen), document, given_up)


def _as_good(best: SeenMember, in_sync: Sequence[SeenMember]) -> tuple[SeenMember, ...]:
    """The member to restore from, and those that hold as much: at most the last change, which was not acknowledged yet,
    may be missing in a member that is in sync. One with less is an old copy of itself."""
    least = _length(best) - 1
    others = [member for member in in_sync if member != best and member.end is not None and _length(member) >= least]
    return (best, *sorted(others, key=_length, reverse=True))


def _one_history(seen: list[SeenMember], without: Collection[str]) -> list[SeenMember]:
    """The members of `seen` (which may be empty) that count: if two nodes have written to different ones, those that
    the user leaves out do not.

    Raises Diverged if they still contradict each other.
    """
    try:
        if seen:
            newest_epoch(seen)
    except Diverged:
        remaining = [member for member in seen if member.name not in without]
        if not remaining:
            raise
        newest_epoch(remaining)
        return remaining
    return seen


def _refuse_unknown(
    document: MembersDocument, seen: Sequence[SeenMember], missing: Mapping[str, str], without: Collection[str]
) -> None:
    known = [*dict.fromkeys([*(member.name for member in document.members), *missing])]
    known += [member.name for member in seen if member.name not in known]
    for name in without:
        if name not in known:
            raise BackupError(
                f"--without {name} names no member of this backup; they are: {', '.join(known)}. Nothing was restored"
            )


def _not_read(document: MembersDocument, seen: Sequence[SeenMember], missing: Mapping[str, str]) -> dict[str, str]:
    """For each configured member whose state was not read: why not.

    Every member that is in sync carries the newest epoch. So one that does not is an old copy, put in its place, and
    the member itself may have gone on without the others.
    """
    carries = {member.name: member.document.epoch for member in seen if member.document.epoch.number}
    reasons: dict[str, str] = {}
    for name in (member.name for member in document.members):
        if name not in carries:
            reasons[name] = missing.get(name, "it was left out")
        elif name in document.in_sync and carries[name] != document.epoch:
            reasons[name] = (
                f"what is there is an older copy of it (of epoch {carries[name].number}; the newest that was read is "
                f"{document.epoch.number})"
            )
    return reasons


def _demand(
    document: MembersDocument, seen: Sequence[SeenMember], reasons: Mapping[str, str], without: Collection[str]
) -> None:
    """Raise MembersMissing unless each of `reasons` is in `without`."""
    if not set(reasons) - set(without):
        return
    names = list(reasons)
    one = len(names) == 1
    it, are, hold = ("it", "is", "holds") if one else ("they", "are", "hold")
    consent = shell_line(*(word for name in names for word in ("--without", name)))
    raise MembersMissing(
        f"{counted(len(names), 'member')} of this backup could not be read, and what {it} {hold} may be newer than "
        "what the others do: a node that runs from an older state can lose every channel. Nothing was restored. "
        f"Connect {'it' if one else 'them'} (or add the URL where {it} {are} now), then repeat this. Only if "
        f"{'it is' if one else 'all of them are'} lost for good, add {consent}. Not read:",
        names,
        [_known(name, why, document, seen) for name, why in reasons.items()],
    )


def _known(name: str, why: str, document: MembersDocument, seen: Sequence[SeenMember]) -> str:
    """A member that was not read: its URL, why, and what is known of its state."""
    member = _member(document, name)
    where = "" if member is None else f" ({member.url})"
    return f"{name}{where}: {_state(name, member, document, seen)}; not read because: {why}"


def _member(document: MembersDocument, name: str) -> Member | None:
    return next((member for member in document.members if member.name == name), None)


def _state(name: str, member: Member | None, document: MembersDocument, seen: Sequence[SeenMember]) -> str:
    """What the others know about its state, and what follows: may it hold newer changes?"""
    if name in document.in_sync:
        last = max((each.end.time for each in seen if each.end is not None), default=0)
        when = known_moment(last)
        until = "" if when is None else f" until {when} (the newest change that was read)"
        return f"in sync{until}, so it may hold newer changes"
    if member is not None and member.trailing:
        return "it trails, so it is older or equal"
    out = document.out.get(name)
    if out is None:
        return "not in sync, so probably older"
    since = known_moment(out.since, "%a %Y-%m-%d %H:%M")
    return f"out of sync{'' if since is None else f' since {since}'} ({out.why}), so probably older"


def _length(member: SeenMember) -> int:
    return 0 if member.end is None else member.end.sequence
