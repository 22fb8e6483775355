"""What catching up one member needs of all that are running."""

import threading
from collections.abc import Collection
from typing import Protocol

from backends.base import Position
from backends.members.epochs import Epochs
from backends.members.examine import Obstacle
from backends.storage.base import Space
from backends.storage.mirror.storage import MirrorStorage


class Host(Protocol):
    """What catching up needs of the running members."""

    mirror: MirrorStorage
    epochs: Epochs
    structure: threading.Lock
    """Held while a member joins, and while files are given to all members one after another."""

    def position(self) -> Position:
        """Where the log ends."""

    def pause(self, copied: int) -> None:
        """Called while bytes are copied: so that commits do not wait for them."""

    def check_not_fenced(self) -> None:
        """Raise Fenced if another node has taken the backup over."""

    def damaged(self, name: str, what: str) -> bool:
        """A file of this member is damaged: put it out of sync, so that the others mend it. False if none could."""

    def obstructed(self, name: str, obstacle: Obstacle, why: str, sources: Collection[str] = ()) -> None:
        """The member cannot be caught up now; `sources` are those that would pass on something damaged."""

    def join(self, name: str) -> None:
        """Begin an epoch with this member, which the mirror has adopted. Raises BackupError or OSError."""

    def copied_to(self, name: str, position: Position, space: Space) -> None:
        """A pass has ended: the member holds everything up to this position, and has this space."""
