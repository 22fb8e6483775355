"""Whether anything but backup.key opens an encrypted backup: one verdict, and one sentence for each that is bad.

All of a backup's bytes may be whole, and yet nobody can restore it once the node's disk is gone. `verify`, `status` and
the running node say the same about it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from backends import keyring
from backends.errors import DamagedSlot, KeyNeeded
from backends.log.format.keys import KeysDocument
from backends.log.status import Status, Trouble, TroubleKind

KeysCommand = Callable[[str], str]
"""The command `backup-cli keys` for this backup with an option (`--add-passphrase`), ready to type."""


@dataclass(frozen=True, slots=True)
class SlotsHealth:
    """What the key slots of a backup are worth."""

    usable: int
    damaged: int
    trouble: Trouble | None
    """None if all is well. A backup whose node has never started may have no slot yet, and that is no trouble."""

    @property
    def closed(self) -> bool:
        """Whether nothing but backup.key opens the backup any more."""
        return self.trouble is not None and self.trouble.kind is TroubleKind.NO_KEY_SLOT

    def added_to(self, seen: Status) -> Status:
        """The status, with what is known about the key slots."""
        troubles = seen.troubles if self.trouble is None else (*seen.troubles, self.trouble)
        return replace(seen, key_slots=self.usable, key_slots_damaged=self.damaged, troubles=troubles)


def health_of_unreadable(error: KeyNeeded | DamagedSlot) -> SlotsHealth:
    """The verdict on a document that is missing, or in which nothing can be read."""
    return SlotsHealth(0, 0, Trouble(TroubleKind.NO_KEY_SLOT, str(error)))


def health_of(document: KeysDocument, backup_id: bytes, key_id: str, command: KeysCommand) -> SlotsHealth:
    """The verdict on the document of the backup with this id, which is encrypted with the key of that name."""
    if (document.backup_id, document.key_id) != (backup_id, key_id):
        return SlotsHealth(0, 0, Trouble(TroubleKind.NO_KEY_SLOT, _anothers(command)))
    return SlotsHealth(len(document.slots), len(document.lost), _trouble(document, command))


def _trouble(document: KeysDocument, command: KeysCommand) -> Trouble | None:
    if not document.names and document.next == 1:
        return None
    if not document.slots:
        return Trouble(TroubleKind.NO_KEY_SLOT, _none(command))
    if document.lost:
        return Trouble(TroubleKind.KEY_SLOT_DAMAGED, _damaged(document, command))
    if keyring.find(document.key_id) is not None and not document.authentic:
        return Trouble(TroubleKind.KEY_SLOTS_CHANGED, _changed(command))
    return None


def _anothers(command: KeysCommand) -> str:
    return (
        "the file `keys` of this backup is another backup's, or was changed: nothing but backup.key opens this "
        f"backup. Keep a copy of that file, and make new key slots: {command('--add-passphrase')}"
    )


def _none(command: KeysCommand) -> str:
    return (
        "no key slot of this backup can be used, so nothing but backup.key opens it: if that file is lost with the "
        f"node's machine, so is the backup. Nothing else is affected; make a new key slot: "
        f"{command('--add-passphrase')}"
    )


def _damaged(document: KeysDocument, command: KeysCommand) -> str:
    numbers = " and ".join(map(str, document.damaged))
    return (
        f"key slot {numbers} is damaged, and opens this backup no more; the others do. To replace it, add another "
        f"one ({command('--add-passphrase')}), and then remove what is damaged with --remove SLOT"
    )


def _changed(command: KeysCommand) -> str:
    return (
        "the file `keys` of this backup was changed by somebody who does not have its key, so its key slots may "
        f"open nothing. Try them: {command('--test')}"
    )
