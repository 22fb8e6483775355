"""Going on from what a member says, where the node's own note does not tell: after a restore, or when it was lost."""

from dataclasses import replace

from backends.log.format.members import MembersDocument
from backends.node.members_note import MembersNote


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
