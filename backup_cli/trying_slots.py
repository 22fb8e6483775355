"""Trying the key slots of an encrypted backup, before they are needed: which are opened by what is at hand?"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from backends.errors import BackupError, DamagedSlot, WrongKey
from backends.keyring import DataKey
from backends.log.format.keys import HsmSlot, KeysDocument, PassphraseSlot, Slot
from backends.log.key_slots import open_with_passphrase
from backends.node.hsm_seed import needs_passphrase, read_seed
from backends.node.hsm_slots import open_with_seed
from backends.node.key_file import KEY_FILE, read_key
from backends.text import printable
from backup_cli.console import say
from backup_cli.given_secret import asked_seed
from backup_cli.key_options import KeyOptions, at_terminal, passphrase_from, typed


class State(Enum):
    """What is known about a slot. The value is for programs."""

    OPENS = "opens"
    DOES_NOT_OPEN = "does_not_open"
    """Not by what was tried."""
    DAMAGED = "damaged"
    NOT_TRIED = "not_tried"


@dataclass(slots=True)
class Tried:
    """What was found out."""

    states: dict[int, State]
    """The state of each slot, by its number."""
    backup_key: str | None = None
    """What is to be said of backup.key, as a sentence; None if nobody looked."""
    troubles: list[str] = field(default_factory=list)
    """What must be put right, each as a sentence."""


def untried(document: KeysDocument) -> Tried:
    """The slots as they are listed."""
    lost = set(document.damaged)
    return Tried({name.number: State.DAMAGED if name.number in lost else State.NOT_TRIED for name in document.names})


def try_slots(
    document: KeysDocument, key_id: str, options: KeyOptions, directory: Path | None, secret: Path | None
) -> Tried:
    """Open each slot that can be opened with the options, `secret` (an hsm_secret), or what is typed at the terminal.

    `key_id` names the key that the backup is encrypted with. With a node's directory, its backup.key is checked, too.
    """
    tried = untried(document)
    for number in document.damaged:
        tried.troubles.append(f"key slot {number} is damaged: make a new one, and remove it (--remove {number})")
    if document.key_id != key_id:
        tried.troubles.append(
            f"the key slots hold the key {document.key_id}, and the backup is encrypted with {key_id}: the file `keys` "
            "is another backup's, or was changed. Make new slots with backup.key: --add-passphrase, --add-hsm-secret"
        )
    passphrase = None if options.passphrase_file is None else passphrase_from(options, new=False)
    was_of_secret = _try_hsm(document, tried, secret, passphrase)
    _try_passphrases(document, tried, passphrase, was_of_secret)
    if directory is not None:
        _check_backup_key(tried, directory, document.backup_id, key_id)
    return tried


def _try_hsm(document: KeysDocument, tried: Tried, secret: Path | None, passphrase: bytes | None) -> bool:
    """Returns whether the passphrase in the file that was named is that of the hsm_secret."""
    slots = [slot for slot in document.slots if isinstance(slot, HsmSlot)]
    if not slots or secret is None:
        return False
    try:
        seed = _seed(secret, passphrase)
        was_of_secret = passphrase is not None and needs_passphrase(secret)
    except BackupError as error:
        tried.troubles.append(f"the slot for hsm_secret was not tried: {error}")
        return False
    if seed is None:
        return False
    _open_each(document, tried, slots, lambda alone: open_with_seed(alone, seed))
    if all(tried.states[slot.number] is State.DOES_NOT_OPEN for slot in slots):
        tried.troubles.append(
            f"{printable(secret)} opens no key slot: it is another node's, or the slots are not this node's"
        )
    return was_of_secret


def _seed(secret: Path, passphrase: bytes | None) -> bytes | None:
    """What is in the hsm_secret; None if it needs a passphrase that nobody can be asked for."""
    if not needs_passphrase(secret):
        return read_seed(secret)
    if passphrase is not None:
        return read_seed(secret, passphrase)
    return asked_seed(secret) if at_terminal() else None


def _try_passphrases(document: KeysDocument, tried: Tried, passphrase: bytes | None, was_of_secret: bool) -> None:
    slots = [slot for slot in document.slots if isinstance(slot, PassphraseSlot)]
    if not slots:
        return
    if passphrase is None and at_terminal():
        say("An empty line leaves the passphrase untried")
        passphrase = typed("Passphrase of this backup")
    if not passphrase:
        return
    _open_each(document, tried, slots, lambda alone: open_with_passphrase(alone, passphrase))
    if all(tried.states[slot.number] is State.DOES_NOT_OPEN for slot in slots) and not was_of_secret:
        tried.troubles.append("the passphrase opens no key slot: it is mistyped, or another one")


def _open_each(
    document: KeysDocument,
    tried: Tried,
    slots: list[HsmSlot] | list[PassphraseSlot],
    opened: Callable[[KeysDocument], DataKey],
) -> None:
    for slot in slots:
        tried.states[slot.number] = _state(_alone(document, slot), opened)
        if tried.states[slot.number] is State.DAMAGED:
            tried.troubles.append(f"key slot {slot.number} holds another key than this backup's: remove it")


def _alone(document: KeysDocument, slot: Slot) -> KeysDocument:
    return replace(document, slots=(slot,), lost=())


def _state(alone: KeysDocument, opened: Callable[[KeysDocument], DataKey]) -> State:
    try:
        opened(alone)
    except WrongKey:
        return State.DOES_NOT_OPEN
    except DamagedSlot:
        return State.DAMAGED
    return State.OPENS


def _check_backup_key(tried: Tried, directory: Path, backup_id: bytes, key_id: str) -> None:
    path = directory / KEY_FILE
    try:
        found = read_key(directory)
    except BackupError as error:
        tried.backup_key = f"{path} cannot be used"
        tried.troubles.append(str(error))
        return
    if found is None:
        tried.backup_key = f"{path} is missing"
        tried.troubles.append(
            f"{path} is missing, and the node does not start without it: backup-cli keys --restore-key"
        )
    elif (found.key.backup_id, found.key.id) != (backup_id, key_id):
        tried.backup_key = f"{path} is another key"
        tried.troubles.append(
            f"{path} does not open this backup: it holds the key {found.key.id}. Keep it, it may open another one; "
            "to get the right one, run: backup-cli keys --restore-key"
        )
    else:
        tried.backup_key = f"{path} opens this backup"
