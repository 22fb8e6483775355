"""Tells the node's log, and whoever is notified, what happens to the members of its backup."""

import time
from collections.abc import Sequence

from backends.base import Report
from backends.log.format.members import Member
from backends.members.examine import Obstacle
from plugin import member_reports


class MemberEvents:
    """Reports each change of a member's state once (`Events` in backends/members)."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def out_of_sync(self, member: Member, since: int, why: str, in_sync: Sequence[str], need: int) -> None:
        """The node goes on without the member."""
        self._report(*member_reports.out_of_sync(member.name, member.url, why, in_sync, need, since))

    def obstructed(
        self, member: Member, obstacle: Obstacle, why: str, mount: str | None, in_sync: Sequence[str]
    ) -> None:
        """The member is not caught up."""
        self._report(*member_reports.obstructed(member, obstacle, why, mount, in_sync, time.time()))

    def in_sync(self, member: Member, since: int | None, changes: int | None, in_sync: Sequence[str]) -> None:
        """The member has joined again."""
        self._report(*member_reports.back_in_sync(member.name, since, changes, in_sync, time.time()))
