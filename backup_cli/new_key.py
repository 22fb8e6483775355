"""The key of an encrypted backup that a command makes: its slots, backup.key, and what to say of both."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backends.keyring import DataKey
from backends.log.backup import Backup, StoreSlots
from backends.log.ciphertext import check_ciphertext
from backends.log.format.attachments import Attachment
from backends.log.format.keys import HsmSlot, KeysDocument, PassphraseSlot, Slot
from backends.log.key_slots import publish_keys
from backends.node.key_file import KEY_FILE, key_until_failure, set_key_aside
from backends.storage.base import Storage
from backup_cli.console import say, warn
from backup_cli.encrypting import NewSlots


class NewKey:
    """The key of a backup that is being made, and the slots that it gets."""

    def __init__(self, slots: NewSlots) -> None:
        self.slots = slots
        self.key: DataKey | None = None
        """Known once the backup is being made."""
        self.document: KeysDocument | None = None
        """Its slots; known then, too."""

    def stored_in(self, storage: Storage) -> StoreSlots:
        """What `Backup.create` calls with the new key: it puts the slots into the backup."""

        def store(key: DataKey) -> None:
            self.document = self.slots.added_to(KeysDocument(key.backup_id, key.id), key)
            publish_keys(storage, self.document)
            self.key = key

        return store

    def tell(self, directory: Path | None) -> None:
        """Say what opens the backup, and what to keep where."""
        assert self.document is not None
        tell_key(directory, self.slots, self.document)

    def as_json(self) -> dict[str, Any]:
        """What a program is told about it. Nothing of it opens anything."""
        assert self.document is not None
        return {
            "encrypted": True,
            "key_id": self.document.key_id,
            "slots": [slot_as_json(s) for s in self.document.slots],
        }


PLAIN: dict[str, Any] = {"encrypted": False, "key_id": None, "slots": []}
"""What a program is told of a backup that is not encrypted."""


def slot_as_json(slot: Slot) -> dict[str, Any]:
    """A key slot for programs."""
    return {"number": slot.number, "kind": slot.kind, "created": slot.created}


def check_new_ciphertext(backups: Iterable[Backup], new: NewKey | None) -> None:
    """Check that nothing in these backups, which were just made, can be read without the key. Raises NotCiphertext."""
    for backup in backups if new is not None else ():
        check_ciphertext(backup.storage)


@contextmanager
def key_handed_over(directory: Path, backup_id: str, new: NewKey | None) -> Iterator[None]:
    """Around the writing of backup.lock: `backup.key` is this new backup's before, and after a failure what it was.

    Without a new key, the key of an earlier backup is set aside afterwards. Raises BackupError or OSError.
    """
    if new is None:
        yield
        aside = set_key_aside(directory, backup_id)
    else:
        assert new.key is not None
        with key_until_failure(directory, new.key):
            yield
        aside = None
    if aside is not None:
        say(f"The key of this node's earlier backup is kept as {aside.name}: it may be all that opens it.")


def tell_key(directory: Path | None, given: NewSlots, document: KeysDocument) -> None:
    """Say what opens the backup, and what to keep where. `directory` is the node's, if one goes on with the backup."""
    say(f"The backup is encrypted (key {document.key_id}). What opens it, and what to keep:")
    for line in _lines(directory, document.slots, given):
        say(f"- {line}")
    if directory is not None and not document.slots:
        warn(
            f"until the node has started, nothing but {directory / KEY_FILE} opens this backup: start the node before "
            "you rely on the backup"
        )


def _lines(directory: Path | None, slots: Sequence[Slot], given: NewSlots) -> list[str]:
    lines = []
    if directory is not None:
        lines.append(
            f"{directory / KEY_FILE} is what the node itself opens it with. If only this file is lost: backup-cli keys "
            "--restore-key"
        )
    for slot in slots:
        if isinstance(slot, HsmSlot):
            lines.append(
                f"hsm_secret (key slot {slot.number}): keep it where you keep it now, away from this machine and "
                "never at the destination. It is needed for the node's funds, anyway"
            )
        if isinstance(slot, PassphraseSlot):
            lines.append(
                f"the passphrase (key slot {slot.number}): write it on paper, and keep that away from this machine"
            )
    if given.secret is not None:
        lines.append(
            f"{Attachment.SECRET.value} itself is in the backup, encrypted: whoever has the destination and the "
            "passphrase has the node's funds. Still keep a copy of hsm_secret elsewhere"
        )
    if given.later:
        lines.append("hsm_secret, once the node has first started: the plugin makes its key slot by itself then")
    return lines
