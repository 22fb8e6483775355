"""What happens to members while a node runs, for whoever tells people about it."""

from collections.abc import Sequence
from typing import Protocol

from backends.log.format.members import Member
from backends.members.examine import Obstacle


class Events(Protocol):
    """Told once for each change of a member's state, from any thread. `in_sync` are the members that are, now."""

    def out_of_sync(self, member: Member, since: int, why: str, in_sync: Sequence[str], need: int) -> None:
        """The member was put out of sync, or was so when the session began. `since` is when, in seconds since 1970, and
        `why` the reason, as a clause."""

    def obstructed(
        self, member: Member, obstacle: Obstacle, why: str, mount: str | None, in_sync: Sequence[str]
    ) -> None:
        """The member, which is out of sync or trails, cannot be caught up now.

        `mount` is where its filesystem should be mounted, if that is known.
        """

    def in_sync(self, member: Member, since: int | None, changes: int | None, in_sync: Sequence[str]) -> None:
        """The member has joined. `since` is when it was put out of sync (seconds since 1970), and `changes` how many
        were made since; None for what is not known."""
