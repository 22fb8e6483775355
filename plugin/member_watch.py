"""Watches what no event tells: the space at each member, and how far behind one is that trails."""

from collections.abc import Sequence

from backends.base import Report
from backends.log.member_status import MemberState, MemberStatus
from backends.log.status_of_members import space_trouble
from plugin.member_reports import LAG_TOO_LARGE, LAG_WELL_AGAIN, has_caught_up, trails_too_far

PERSISTS = 120.0
"""Seconds for which a lag must be too large before it is reported. After a quiet hour, one new change makes a member
trail by an hour until it is copied, a moment later."""


class MemberWatch:
    """Called from time to time, by one thread. Each thing is reported once, until it is over."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._low: set[str] = set()
        self._behind_since: dict[str, float] = {}
        self._told_behind: set[str] = set()

    def look(self, members: Sequence[MemberStatus], stored: int, now: float) -> None:
        """Report what has become too little or too much. `stored` is the bytes of the backup, `now` is in seconds since
        1970."""
        for member in members:
            self._look_at_space(member, stored)
            if member.state is MemberState.TRAILING and member.lag_seconds is not None:
                self._look_at_lag(member, member.lag_seconds, now)

    def _look_at_space(self, member: MemberStatus, stored: int) -> None:
        trouble = space_trouble(member, stored)
        if trouble is None:
            self._low.discard(member.name)
        elif member.name not in self._low:
            self._low.add(member.name)
            self._report("unusual", trouble.sentence)

    def _look_at_lag(self, member: MemberStatus, lag: float, now: float) -> None:
        name = member.name
        if lag <= LAG_TOO_LARGE:
            self._behind_since.pop(name, None)
        elif now - self._behind_since.setdefault(name, now) >= PERSISTS and name not in self._told_behind:
            self._told_behind.add(name)
            self._report(*trails_too_far(name, member.url, member.lag_changes, lag, now))
        if lag < LAG_WELL_AGAIN and name in self._told_behind:
            self._told_behind.discard(name)
            self._report(*has_caught_up(name, lag, now))
