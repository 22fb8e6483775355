"""Which member holds the newest state: the highest epoch, then the longest log of an undamaged member in sync.

Never the time, never the version, never the length alone: an old copy may have a later time, and a member that was put
out of sync may have a longer log, of changes that were never acknowledged.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backends.base import Position
from backends.errors import BackupError, Unreachable
from backends.keyring import init_command
from backends.log.format.members import Epoch, MembersDocument


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
            f"(epochs {first.document.epoch.number} and {second.document.epoch.number}). Nothing was changed, and each "
            "of the two is whole. If both nodes run, stop one of them for good: two nodes with the same keys lose "
            "money. Find out which of them the peers last talked to, and restore from its members only, with --without "
            "for each of the others"
        )
        self.names = (first.name, second.name)


def newest_epoch(seen: Iterable[SeenMember]) -> Epoch:
    """The highest epoch of these members (at least one).

    Raises Diverged if another of their epochs does not lead to it: then two nodes have gone on from the same past.
    """
    members = list(seen)
    top = max(members, key=lambda member: member.document.epoch.number)
    for member in members:
        if member.document.epoch.number and not top.document.leads_from(member.document.epoch):
            raise Diverged(top, member)
    return top.document.epoch


def newest(seen: Sequence[SeenMember]) -> SeenMember:
    """The member whose state is the newest. Raises Diverged, or Unreachable if none can be used.

    Every member that is in sync in the highest epoch holds all acknowledged changes, so a damaged one is passed over if
    another is whole. One that trails counts only if none of those in sync is damaged: it may be behind. A member that
    is being filled for the first time (epoch 0) never counts.
    """
    filled = [member for member in seen if member.document.epoch.number]
    if not filled:
        raise Unreachable(
            "no member of the backup can be reached that holds a whole state. Nothing was changed; connect another, "
            "then try again"
        )
    epoch = newest_epoch(filled)
    of_epoch = [member for member in filled if member.document.epoch == epoch]
    whole = [member for member in of_epoch if member.end is not None]
    in_sync = [member for member in of_epoch if member.name in member.document.in_sync]
    if not whole or (in_sync and all(member.end is None for member in in_sync)):
        damaged = "; ".join(f"{member.name}: {member.why}" for member in of_epoch if member.end is None)
        raise Unreachable(
            f"none of the members here that hold the newest state is whole ({damaged}). Nothing was changed; connect "
            "every other member, then try again. If there is none, and the node's own database is alive, keep every "
            f"disk and make a new backup of it in new directories: {init_command()} URL URL"
        )
    # The longest log: a member in sync may be an old copy of itself, from earlier in the same epoch.
    return max(whole, key=lambda member: (member.end.sequence if member.end else 0, member in in_sync))
