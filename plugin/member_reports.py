"""What the node's log, and the operator's own command, are told when the state of a member changes.

Each function is pure, and returns a level and one line in ASCII for `CommitGate.report`. To be called once for each
change of a member's state. `backup.notify` is called for the levels `unusual` and `broken` only, so good news is
`unusual`, too: whoever was told that a member is out of sync wants to know when it is back. Each line holds its time,
because the notifier takes the same line within an hour for a repetition (plugin/notify.py).
"""

from collections.abc import Sequence

from backends.log.format.members import Member
from backends.log.status_of_members import DAY_AND_MINUTE, listed
from backends.members.examine import Obstacle
from backends.text import counted, one_line, shell_line
from backends.times import age, moment

Told = tuple[str, str]
"""A level of lightningd's log, and one line."""

LAG_TOO_LARGE = 3600.0
"""Seconds by which a trailing member may be behind before that is reported."""

LAG_WELL_AGAIN = 600.0
"""Seconds below which a trailing member that was reported has caught up. Less than LAG_TOO_LARGE, so that one that is
slow for a day is not reported every minute."""

_BY_ITSELF = "Once it is back, it is brought up to date by itself, without a restart"


def out_of_sync(name: str, url: str, why: str, others: Sequence[str], need: int, since: float) -> Told:
    """A member has failed, or was too slow, and the node goes on without it.

    `why` is a clause, `others` are the members that remain in sync (at least `need`). The line holds the time at which
    that happened, and so stays the same at every start while the member is away.
    """
    return _told(
        "unusual",
        f"{name} ({url}) went out of sync ({_at(since)}): {why}. {_safe(others)}, and the node goes on. "
        f"{_if_next_fails(others, need)}. {_BY_ITSELF}",
    )


def back_in_sync(name: str, since: int | None, changes: int | None, in_sync: Sequence[str], now: float) -> Told:
    """A member holds every acknowledged change again.

    `since` is when it was put out of sync, in seconds since 1970, and `changes` how many were made since; None for what
    is not known. `in_sync` are the members in sync now, with this one.
    """
    out_for = [] if since is None else [f"it was out of sync for {age(now - since)}"]
    copied = [] if changes is None else [f"{counted(changes, 'change')} {_were(changes)} made up for"]
    said = " and ".join(out_for + copied)
    return _told(
        "unusual",
        f"{name} is back in sync ({_at(now)}){f': {said}' if said else ''}. Every change is saved in "
        f"{listed(in_sync)} now. Nothing needs to be done",
    )


def obstructed(
    member: Member, obstacle: Obstacle, why: str, mount: str | None, others: Sequence[str], now: float
) -> Told:
    """A member that is out of sync or trails cannot be caught up now; `why` is a clause, `others` are in sync.

    `mount` is where its filesystem should be mounted, if that is known.
    """
    match obstacle:
        case Obstacle.NOT_THERE:
            return not_there(member, why, now)
        case Obstacle.NOT_MOUNTED:
            return not_mounted(member, why, mount, others, now)
        case Obstacle.OTHER_BACKUP:
            return holds_another_backup(member, why, others, now)
        case Obstacle.SOURCE_DAMAGED:
            return source_is_damaged(member, why, others, now)
        case Obstacle.OTHER_NODE:
            return holds_anothers_work(member, why, others, now)


def not_there(member: Member, why: str, now: float) -> Told:
    """A member cannot be reached. For one that was put out of sync, that has been told; so only the log says it again.
    One that trails was never put out of sync, so this is all that anybody hears."""
    if not member.trailing:
        return _told("info", f"{member.name} ({member.url}) cannot be brought up to date yet: {why}")
    return _told(
        "unusual",
        f"{member.name} ({member.url}) cannot be reached ({_at(now)}): {why}. The node does not wait for it, and every "
        f"change is saved elsewhere; but {member.name} falls behind. {_BY_ITSELF}",
    )


def not_mounted(member: Member, why: str, mount: str | None, others: Sequence[str], now: float) -> Told:
    """The filesystem that held a member is not mounted. The empty directory below it is no wiped member."""
    command = "Mount its disk or share" if mount is None else f"To mount it, run: {shell_line('mount', mount)}"
    return _told(
        "unusual",
        f"{member.name} ({member.url}) cannot be brought up to date ({_at(now)}): {why}. So nothing is written into "
        f"the empty directory. {_safe(others)}. {command}. {_BY_ITSELF}",
    )


def holds_another_backup(member: Member, why: str, others: Sequence[str], now: float) -> Told:
    """A place of this backup holds something else. It is not touched."""
    return _told(
        "unusual",
        f"{member.url}, where {member.name} should be, cannot be used ({_at(now)}): {why}. It is not touched, and gets "
        f"no changes. {_safe(others)}. Put the right disk back, or give {member.name} another place: "
        f"{_other_place(member.name)}",
    )


def source_is_damaged(member: Member, why: str, others: Sequence[str], now: float) -> Told:
    """What the member would get is damaged, and what it holds may be good: nothing is copied over it."""
    return _told(
        "broken",
        f"{member.name} ({member.url}) is not brought up to date ({_at(now)}), because {listed(others)} would pass on a "
        f"damaged file: {why}. Every new change is still saved. Stop the node soon (lightning-cli stop), with "
        f"{member.name} connected, and run: backup-cli verify --repair",
    )


def holds_anothers_work(member: Member, why: str, others: Sequence[str], now: float) -> Told:
    """A member carries an epoch or a session that is none of this node's: another node has written to it."""
    return _told(
        "broken",
        f"{member.name} ({member.url}) cannot be brought up to date ({_at(now)}): {why}, one that works with a copy of "
        f"this node's directory, or was restored from this backup. It is not touched. {_safe(others)}. If that node is "
        "in use, stop one of the two for good: two nodes with the same keys lose money. Only if it is off for good, "
        f"keep what it wrote and give {member.name} another place: {_other_place(member.name)}",
    )


def trails_too_far(name: str, url: str, changes: int | None, seconds: float, now: float) -> Told:
    """A trailing member is behind by more than LAG_TOO_LARGE. `changes` is None if nobody can count them."""
    far = age(seconds) if changes is None else f"{counted(changes, 'change')} and {age(seconds)}"
    return _told(
        "unusual",
        f"{name} ({url}) trails by {far} ({_at(now)}). The node does "
        f"not wait for it, and every change is saved elsewhere; but {name} alone could not restore the newest "
        "ones. Is that server up, and is the line to it fast enough?",
    )


def has_caught_up(name: str, seconds: float, now: float) -> Told:
    """A trailing member that was reported is behind by less than LAG_WELL_AGAIN."""
    return _told("unusual", f"{name} has caught up ({_at(now)}): its last change is {age(seconds)} behind the newest")


def cannot_be_mended(name: str, file: str, what: str) -> Told:
    """A file of a member is damaged that only another member could replace, and too few others are in sync."""
    return _told(
        "broken",
        f"the member {name} is damaged ({file}: {what}), and cannot be mended while the node runs, because too few "
        "others are in sync. Every new change is still saved. Bring another member back, or stop the node and run: "
        "backup-cli verify --repair",
    )


def _safe(others: Sequence[str]) -> str:
    return f"Every change is saved in {listed(others)}" if others else "What was saved until now is safe"


def _if_next_fails(others: Sequence[str], need: int) -> str:
    spare = len(others) - need
    if spare > 0:
        return f"{counted(spare, 'more member')} may fail before the node stops"
    fails = f"{others[0]} fails" if len(others) == 1 else f"one of {listed(others)} fails"
    return f"If {fails} as well, the node stops before it commits anything unsaved, so bring this one back soon"


def _were(changes: int) -> str:
    return "was" if changes == 1 else "were"


def _other_place(name: str) -> str:
    return f"{shell_line('lightning-cli', 'backup-member-remove', name)}, then: lightning-cli backup-member-add URL"


def _at(now: float) -> str:
    return moment(now, DAY_AND_MINUTE)


def _told(level: str, line: str) -> Told:
    """What comes from outside (a URL, an error) may hold anything; lightningd prints what is not ASCII as `???`."""
    return level, one_line(line).encode("ascii", "backslashreplace").decode()
