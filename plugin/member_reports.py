"""What the node's log, and the operator's own command, are told when the state of a member changes.

Each function is pure, and returns a level and one line in ASCII for `CommitGate.report`. The levels are those of the
log; `backup.notify` is called for `unusual` and `broken`, so the good news is `unusual`, too: who was told that a member
is out of sync wants to know when it is back. Each line has its time, so that a second failure within the hour is not
taken for a repetition of the first (plugin/notify.py). To be called once for each change of a member's state.
"""

from collections.abc import Sequence

from backends.log.status_of_members import DAY_AND_MINUTE, listed
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


def out_of_sync(name: str, url: str, why: str, others: Sequence[str], need: int, now: float) -> Told:
    """A member has failed, or was too slow, and the node goes on without it.

    `why` is a clause, `others` are the members that remain in sync (at least `need`).
    """
    return _told(
        "unusual",
        f"{name} ({url}) is out of sync since {_at(now)}: {why}. {_safe(others)}, and the node goes on. "
        f"{_if_next_fails(others, need)}. {_BY_ITSELF}",
    )


def back_in_sync(name: str, out_for: float, changes: int | None, in_sync: Sequence[str], now: float) -> Told:
    """A member holds every acknowledged change again.

    `out_for` is how long it did not, in seconds, `changes` how many it lacked (None if it was filled anew), `in_sync`
    the members in sync now, with this one.
    """
    copied = "the whole backup was" if changes is None else _were(changes)
    return _told(
        "unusual",
        f"{name} is in sync again since {_at(now)}: it was out of sync for {age(out_for)}, and {copied} copied to it. "
        f"In sync now: {listed(in_sync)}. Nothing needs to be done",
    )


def holds_another_backup(name: str, url: str, found: str | None, others: Sequence[str], now: float) -> Told:
    """A place of this backup holds a different one, `found` (its id, if that is known). It is not touched."""
    which = "another backup" if found is None else f"another backup ({found})"
    return _told(
        "unusual",
        f"{url}, where {name} should be, holds {which} (seen {_at(now)}). It is not touched, and {name} stays out of "
        f"sync. {_safe(others)}. Put the right disk back, or give {name} another place: {_other_place(name)}",
    )


def holds_anothers_work(name: str, url: str, epoch: int, others: Sequence[str], now: float) -> Told:
    """A member carries an epoch that no session of this node began: another node has written to it."""
    return _told(
        "broken",
        f"{name} ({url}) was written by another node that works with a copy of this one's directory, or with a restored "
        f"one (epoch {epoch}, seen {_at(now)}). It is not touched, and stays out of sync. {_safe(others)}. If that "
        "node is in use, stop one of the two for good: two nodes with the same keys lose money. Only if it is off for "
        f"good, keep what it wrote and give {name} another place: {_other_place(name)}",
    )


def not_mounted(name: str, url: str, mount: str, others: Sequence[str], now: float) -> Told:
    """The filesystem that held a member is not mounted. The empty directory below it is no wiped member."""
    return _told(
        "unusual",
        f"the disk or share with {name} ({url}) is not mounted at {mount} (seen {_at(now)}), so {name} stays out of "
        f"sync, and nothing is written into the empty directory. {_safe(others)}. To mount it, run: "
        f"{shell_line('mount', mount)}. {_BY_ITSELF}",
    )


def trails_too_far(name: str, url: str, changes: int, seconds: float, now: float) -> Told:
    """A trailing member is behind by more than LAG_TOO_LARGE."""
    return _told(
        "unusual",
        f"{name} ({url}) trails by {counted(changes, 'change')}, and its last one is {age(seconds)} older than the "
        f"newest ({_at(now)}). The node does not wait for it, and what it saves elsewhere is safe; but from {name} alone, "
        "these changes could not be restored. Is that server up, and is the line fast enough?",
    )


def has_caught_up(name: str, seconds: float, now: float) -> Told:
    """A trailing member that was reported is behind by less than LAG_WELL_AGAIN."""
    return _told("unusual", f"{name} has caught up ({_at(now)}): its last change is {age(seconds)} behind the newest")


def _safe(others: Sequence[str]) -> str:
    return f"Every change is saved in {listed(others)}" if others else "What was saved until now is safe"


def _if_next_fails(others: Sequence[str], need: int) -> str:
    spare = len(others) - need
    if spare > 0:
        return f"{counted(spare, 'more member')} may fail before the node stops"
    fails = f"{others[0]} fails" if len(others) == 1 else f"one of {listed(others)} fails"
    return f"If {fails} as well, the node stops before it commits anything unsaved, so bring this one back soon"


def _were(changes: int) -> str:
    return f"{counted(changes, 'change')} {'was' if changes == 1 else 'were'}"


def _other_place(name: str) -> str:
    return f"{shell_line('lightning-cli', 'backup-member-remove', name)}, then: lightning-cli backup-member-add URL"


def _at(now: float) -> str:
    return moment(now, DAY_AND_MINUTE)


def _told(level: str, line: str) -> Told:
    """What comes from outside (a URL, an error) may hold anything; lightningd prints what is not ASCII as `???`."""
    return level, one_line(line).encode("ascii", "backslashreplace").decode()
