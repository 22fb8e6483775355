"""What a comparison of members says: of each file, which copies are good."""

from dataclasses import dataclass, field
from enum import Enum

from backends.errors import BackupError
from backends.log.format.members import Epoch


class State(Enum):
    """What one member's copy of a file is. Programs identify it by the value."""

    GOOD = "good"
    DAMAGED = "damaged"
    """Its bytes have changed, or cannot be read."""
    MISSING = "missing"
    BEHIND = "behind"
    """What is there is good, but not all of it is there: the member trails."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One member's copy of a file. `what` is a clause that says what is wrong, `offset` where."""

    member: str
    state: State
    what: str = ""
    offset: int = 0


@dataclass(frozen=True, slots=True)
class ComparedFile:
    """One file of the backup, as each member holds it."""

    name: str
    copies: tuple[Copy, ...]
    kept: bool = False
    """Whether it belongs to the generation that is only kept for a while, and not to the current one."""

    @property
    def good(self) -> tuple[str, ...]:
        """The members whose copy is good; empty if none is."""
        return tuple(copy.member for copy in self.copies if copy.state is State.GOOD)

    @property
    def bad(self) -> tuple[Copy, ...]:
        """The copies that are damaged or missing."""
        return tuple(copy for copy in self.copies if copy.state in (State.DAMAGED, State.MISSING))


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found out about the members."""

    epoch: Epoch
    backup_id: str
    generation: int
    compared: tuple[str, ...]
    """The members that were compared."""
    files: tuple[ComparedFile, ...]
    behind: tuple[str, ...]
    """The members of an earlier epoch or generation. Nothing is wrong with them, and nothing is known to be right."""
    unknown: tuple[str, ...]
    """The members that do not say in which epoch they are: nothing may be written there."""
    unreachable: dict[str, str] = field(default_factory=dict)
    """The members that failed while they were read, each with a clause that says how."""
    without_key: bool = False
    """Whether the members were compared without the key: then nothing is known but what checksums and numbers show."""

    @property
    def faults(self) -> tuple[ComparedFile, ...]:
        """The files of which some copy is damaged or missing, but for `lost_of_kept`."""
        return tuple(file for file in self.files if file.bad and (file.good or not file.kept))

    @property
    def lost_of_kept(self) -> tuple[ComparedFile, ...]:
        """Files of the kept generation that no member holds whole. It was perhaps replaced for that very reason, and
        no restore of the current state needs it."""
        return tuple(file for file in self.files if file.kept and file.bad and not file.good)


class GenerationChanged(BackupError):
    """A new generation was published while the members were compared: compare them again."""

    kind = "overtaken"
