"""What happens to members while a node runs, for whoever tells people about it."""

from typing import Protocol

from backends.members.examine import Obstacle


class Events(Protocol):
    """Told once for each change of a member's state, from any thread."""

    def out_of_sync(self, name: str, why: str, left: int, need: int) -> None:
        """The member was put out of sync for the reason `why` (a clause). `left` are in sync now."""

    def obstructed(self, name: str, obstacle: Obstacle, why: str) -> None:
        """The member, which is out of sync or trails, cannot be caught up now."""

    def in_sync(self, name: str, since: int | None) -> None:
        """The member has joined. `since` is when it was put out of sync (seconds since 1970), if that is known."""
