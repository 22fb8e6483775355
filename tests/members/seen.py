"""Members as a start sees them, in few words."""

from collections.abc import Mapping, Sequence

from backends.base import Position
from backends.log.format.members import Epoch, Member, MembersDocument
from backends.members.newest import SeenMember

BACKUP = "00112233445566778899aabbccddeeff"

OURS, THEIRS = "our session", "another node's session"

MEMBERS = (
    Member("stick", "usb://STICK/lightning.bkp"),
    Member("nas", "nfs://nas/export/lightning.bkp"),
    Member("disk", "file:///mnt/disk/lightning.bkp"),
    Member("far", "sftp://friend/lightning.bkp", trailing=True),
)


def seen(
    name: str,
    epoch: int,
    in_sync: Sequence[str],
    *,
    end: int | None = 100,
    session: str = OURS,
    history: Mapping[str, int] | None = None,
    says: str | None = None,
) -> SeenMember:
    """A member that carries this epoch. `end` is the last record, None if damaged; `says` is its name for itself.

    By default its history is that of a node that went on from all that our session did before this epoch.
    """
    history = history or ({OURS: epoch} if session == OURS else {OURS: epoch - 1, session: epoch})
    document = MembersDocument(BACKUP, says or name, Epoch(epoch, session), tuple(in_sync), MEMBERS, 1, history=history)
    position = None if end is None else Position(end, end, 0)
    return SeenMember(name, document, position, "" if position else "a record is missing")
