"""Tells the node's log, and whoever is notified, what happens to the members of its backup."""

from backends.base import Report
from backends.members.examine import Obstacle


class MemberEvents:
    """Reports each change of a member's state once."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def out_of_sync(self, name: str, why: str, left: int, need: int) -> None:
        """The node goes on without the member."""
        self._report("unusual", f"the member {name} is out of sync: {why}. {left} in sync, {need} needed")

    def obstructed(self, name: str, obstacle: Obstacle, why: str) -> None:
        """The member is not caught up."""
        self._report("unusual", f"the member {name} cannot be caught up: {why}")

    def in_sync(self, name: str, since: int | None) -> None:
        """The member has joined again."""
        self._report("unusual", f"the member {name} is in sync again")
