"""The status of one member of a backup with several destinations, for people and programs."""

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class MemberState(Enum):
    """What a member is to the node. Programs identify it by the value."""

    IN_SYNC = "in_sync"
    """It holds every acknowledged change."""
    OUT_OF_SYNC = "out_of_sync"
    """It failed, and has not been reached since."""
    CATCHING_UP = "catching_up"
    """It is there again, and is being brought up to the others."""
    TRAILING = "trailing"
    """It is never waited for; the lag says how far behind it is."""
    UNREACHABLE = "unreachable"
    """It cannot be read now, so a command does not know more than the others say of it."""


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """What is known about a member. Sizes in bytes, times in seconds; None where it is not known."""

    name: str
    url: str
    state: MemberState
    since: int | None = None
    """Since when it has been in this state, in seconds since 1970."""
    why: str = ""
    """Why it is not in sync: a clause for people."""
    lag_changes: int | None = None
    lag_seconds: float | None = None
    """How much older its last change is than the newest of all; 0 if it has that one."""
    free_bytes: int | None = None
    total_bytes: int | None = None
    stored_bytes: int | None = None
    latency: float | None = None
    """How long one durable write takes there, from the last commits."""
    trailing: bool = False
    """Whether it is configured as one that is never waited for, in whichever state it is."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "state": self.state.value}
