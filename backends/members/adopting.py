"""Going on from what a member says, where the node's own note does not tell: after a restore, or when it was lost."""

from dataclasses import replace

from backends.log.format.members import MEMBERS, Epoch, MembersDocument
from backends.node.members_note import MembersNote
from backends.storage.base import Storage

FIRST_EPOCH = Epoch(1, "")
"""The epoch in which a backup with several members is made. No session begins it, since no node writes yet: its session
is the empty text, and the node's note has it as history (`adopted`)."""


def adopted(note: MembersNote, document: MembersDocument) -> MembersNote:
    """The note of a node that goes on from this document: its epoch, and all that lead to it, are history."""
    epoch = document.epoch
    return replace(
        note,
        epoch=epoch,
        in_sync=document.in_sync,
        intent=None,
        out=document.out,
        history={**note.history, **document.history, epoch.session: epoch.number},
        adopted=max(note.adopted, document.floor),
    )


def note_of(document: MembersDocument) -> MembersNote:
    """The note of a node that knows nothing but this document: a restored one."""
    return adopted(MembersNote(document.backup_id, document.epoch, ()), document)


def first_epoch(storage: Storage) -> Epoch:
    """The first epoch of a backup that has had one destination, at `storage`, until now: it becomes the only member.

    An earlier attempt that was killed may have left a document, whose epoch the first one must be above: all up to it
    is to be adopted. Raises OSError, Damaged, NotABackup, FromTheFuture or KeyNeeded.
    """
    try:
        left = MembersDocument.as_found(storage.read_small(MEMBERS)).epoch.number
    except FileNotFoundError:
        left = 0
    return Epoch(left + FIRST_EPOCH.number, FIRST_EPOCH.session)
