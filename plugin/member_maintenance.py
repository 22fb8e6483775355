"""What must happen from time to time for the members of a backup: the scrub, and a look at space and lag."""

import time
from pathlib import Path

from backends.base import Report
from backends.log.member_status import MemberState
from backends.members.live_status import live_statuses
from backends.members.running import RunningMembers
from plugin.member_reports import LAG_TOO_LARGE, LAG_WELL_AGAIN, has_caught_up, trails_too_far
from plugin.scrub import Scrub

LOOK_EVERY = 60.0
"""Seconds between two looks at the space and the lag of the members."""


class MemberMaintenance:
    """For one opening of a backup with several members. Only the maintenance thread calls its methods."""

    def __init__(self, directory: Path, report: Report, members: RunningMembers) -> None:
        self.members, self._report = members, report
        self._scrub = Scrub(directory, report, lambda name, file, what: self._damaged(name, f"{what} in {file}"))
        self._next_look = 0.0
        self._behind: set[str] = set()
        """The trailing members whose lag was reported as too large."""

    def tick(self) -> None:
        """Do what is due. Raises OSError if a member that is needed fails."""
        self._scrub.tick(tuple(self.members.mirror.in_sync))
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_EVERY
            self.members.look_at_space()
            self._look_at_lag()

    def stop(self) -> None:
        """The plugin is ending."""
        self._scrub.stop()

    def _damaged(self, name: str, what: str) -> None:
        if not self.members.damaged(name, what):
            self._report(
                "broken",
                f"the member {name} is damaged ({what}), and it cannot be mended while the node runs, because too few "
                "others are in sync. Every new change is still saved. Bring another member back, or stop the node and "
                "run: backup-cli verify --repair",
            )

    def _look_at_lag(self) -> None:
        for status in live_statuses(self.members):
            if status.state is not MemberState.TRAILING or status.lag_seconds is None:
                continue
            name, lag, now = status.name, status.lag_seconds, time.time()
            if lag > LAG_TOO_LARGE and name not in self._behind:
                self._behind.add(name)
                self._report(*trails_too_far(name, status.url, status.lag_changes or 0, lag, now))
            elif lag < LAG_WELL_AGAIN and name in self._behind:
                self._behind.discard(name)
                self._report(*has_caught_up(name, lag, now))
