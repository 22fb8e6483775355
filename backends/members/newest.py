"""Which member holds the newest state: the highest epoch, then the longest log of an undamaged member in sync.

Never the time, never the version, never the length alone: an old copy may have a later time, and a member that was put
out of sync may have a longer log, of changes that were never acknowledged.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backends.base import Position
from backends.errors import BackupError, Unreachable
from backends.log.format.members import Epoch, MembersDocument
from backends.text import counted


@dataclass(frozen=True, slots=True)
class SeenMember:
    """What a member says that was reached and that holds the wanted backup.

    `end` is where its log ends, None when that cannot be told; then `why` is a clause that says what is wrong.
    """

    name: str
    document: MembersDocument
    end: Position | None
    why: str = ""


class Diverged(BackupError):
    """Two nodes have written to different members without knowing of each other. Only a person can tell which counts.

    `names` has one member of each of the two histories.
    """

    kind = "diverged"

    def __init__(self, first: SeenMember, second: SeenMember) -> None:
        super().__init__(
            f"the members {first.name} and {second.name} were written by two nodes that did not know of each other "
            f"(both are in epoch {first.document.epoch.number}). Nothing was changed, and each of the two is whole. If "
            "both nodes run, stop one of them for good: two nodes with the same keys lose money. Find out which of "
            "them the peers last talked to, and restore from its members only, with --without for each of the others"
        )
        self.names = (first.name, second.name)


def newest_epoch(seen: Iterable[SeenMember]) -> Epoch:
    """The highest epoch of these members (at least one). Raises Diverged if two nodes began it."""
    members = list(seen)
    top = max(members, key=lambda member: member.document.epoch.number)
    for member in members:
        if member.document.epoch.number == top.document.epoch.number and member.document.epoch != top.document.epoch:
            raise Diverged(top, member)
    return top.document.epoch


def newest(seen: Sequence[SeenMember]) -> SeenMember:
    """The member whose state is the newest. Raises Diverged, or Unreachable if none can be used.

    Every member that is in sync in the highest epoch holds all acknowledged changes, so a damaged one is passed over if
    another is whole. One that trails counts only if none of those in sync is there, whole or damaged: it may be behind.
    """
    if not seen:
        raise Unreachable("no member of the backup can be reached. Nothing was changed; connect one, then try again")
    epoch = newest_epoch(seen)
    of_epoch = [member for member in seen if member.document.epoch == epoch]
    in_sync = [member for member in of_epoch if member.name in member.document.in_sync]
    candidates = [member for member in in_sync or of_epoch if member.end is not None]
    if not candidates:
        damaged = "; ".join(f"{member.name}: {member.why}" for member in of_epoch)
        raise Unreachable(
            f"{counted(len(of_epoch), 'member')} of the backup hold the newest state, and none of them is whole "
            f"({damaged}). Nothing was changed; connect every other member, then try again"
        )
    return max(candidates, key=lambda member: member.end.sequence if member.end is not None else 0)
