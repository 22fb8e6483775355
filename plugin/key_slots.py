"""The key slots of an encrypted backup at a start: the plugin adds the one that only it can make.

A backup that is made before the node's first start has no slot for `hsm_secret`, which lightningd has not made yet.
Until there is a slot, nothing but `backup.key` opens the backup, and a disk that dies takes that with it. So the slot
is added before the first change is acknowledged. What a person has removed is never added again.

With several members all of them are looked at, because a crash may have left the slot at some only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backends.errors import BackupError, DamagedSlot, KeyNeeded
from backends.keyring import DataKey
from backends.log.format.keys import HsmSlot, KeysDocument
from backends.log.key_slots import publish_keys, read_keys, with_hsm_slot
from backends.members.key_copies import rank
from backends.members.survey import ask_all
from backends.node.hsm_secret import HSM_SECRET
from backends.node.hsm_seed import needs_passphrase, read_seed
from backends.node.hsm_slots import slot_secret
from backends.storage.base import Storage
from backends.text import shell_line

READ_WITHIN = 15.0
"""Seconds that each member has to answer, all at once."""


@dataclass(frozen=True, slots=True)
class Slots:
    """What is to be done about the key slots once the node may go on. Making this has changed nothing."""

    document: KeysDocument
    """The slots as they are to be."""
    publish: bool
    """Whether that is not what every member holds."""
    lines: tuple[tuple[str, str], ...]
    """Lines for the node's log, each with its level."""

    def store(self, storage: Storage) -> None:
        """Put the slots where they are missing, durably. Raises BackupError."""
        if self.publish:
            publish_keys(storage, self.document)


def slots_at_start(directory: Path, storages: Mapping[str, Storage], key: DataKey, *, first: bool) -> Slots:
    """The key slots of the backup in these storages. `first`: no node has written to it yet.

    Raises BackupError if there has never been a slot and none can be made: then the node must not go on, because
    nothing but backup.key would open its backup. If the slots were lost later, it goes on and says so.
    """
    found, bad, why = found_slots(storages, key)
    if not found and not bad:
        if first or why is None:
            raise why or BackupError("no member of this backup has answered. Nothing was changed; start the node again")
        line = f"the key slots of this backup could not be read ({why}). Changes are saved; to check: backup-cli keys"
        return Slots(KeysDocument(key.backup_id, key.id), False, (("unusual", line),))
    best = max(found, key=rank, default=None)
    lines = [_unreadable(bad)] if bad else []
    if best is not None and best.lost:
        lines.append(damaged_slots(best))
    document = best or KeysDocument(key.backup_id, key.id)
    if is_due(document) and not holds_secret(storages):
        try:
            document = with_hsm_slot(document, key, derived_of(directory))
            lines.append(("info", f"a key slot was made: {HSM_SECRET} alone opens this backup from now on"))
        except BackupError as error:
            if not document.slots and (first or (best is not None and best.next == 1)):
                raise _refused(directory, error) from error
            lines.append(still_to_do(directory, error, first, bool(document.slots)))
    differs = bool(bad) or any(each != document or not (each.intact or each.lost) for each in found)
    return Slots(document, differs and bool(document.slots), tuple(lines))


def found_slots(
    storages: Mapping[str, Storage], key: DataKey
) -> tuple[list[KeysDocument], list[str], BaseException | None]:
    """The documents that are this key's; the names of the storages whose document is missing, damaged or another
    key's; and why another one could not be read."""
    questions = {name: lambda storage=storage: read_keys(storage) for name, storage in storages.items()}
    answers, failures = ask_all(questions, READ_WITHIN)
    own = {name: each for name, each in answers.items() if (each.backup_id, each.key_id) == (key.backup_id, key.id)}
    bad = [name for name, error in failures.items() if isinstance(error, KeyNeeded | DamagedSlot)]
    bad += [name for name in answers if name not in own]
    return list(own.values()), bad, next((error for error in failures.values() if error is not None), None)


def is_due(document: KeysDocument) -> bool:
    """Whether a slot for hsm_secret is to be made: nothing opens the backup, or there has never been such a slot.

    Slots are numbered, and no number is used twice, so one that was removed has left a gap.
    """
    if not document.slots:
        return True
    removed = document.next - 1 > len(document.names)
    return not removed and all(name.kind != HsmSlot.kind for name in document.names)


def holds_secret(storages: Mapping[str, Storage]) -> bool:
    """Whether hsm_secret itself is in the backup: then it is not what opens it."""
    answers, _ = ask_all({name: storage.names for name, storage in storages.items()}, READ_WITHIN)
    return any(HSM_SECRET in names for names in answers.values())


def derived_of(directory: Path) -> bytes:
    """What opens an hsm slot of this node. Raises BackupError."""
    path = directory / HSM_SECRET
    if needs_passphrase(path):
        raise BackupError("its passphrase is needed, and nobody can be asked for it now")
    return slot_secret(read_seed(path))


def _refused(directory: Path, error: BackupError) -> BackupError:
    return BackupError(
        f"this backup is encrypted and has no key slot yet, so nothing but backup.key in {directory} could open it; "
        f"and the slot for {HSM_SECRET} cannot be made: {error}. Nothing was committed and nothing was changed. Stop "
        f"lightningd, make a slot by one of these, and start the node again: {command(directory, '--add-hsm-secret')} "
        f"(asks for the passphrase of {HSM_SECRET}), or: {command(directory, '--add-passphrase')}"
    )


def still_to_do(directory: Path, error: BackupError, first: bool, opened: bool) -> tuple[str, str]:
    """`opened`: another slot opens the backup."""
    if not opened:
        return "broken", (
            f"no key slot of this backup can be used any more, and none can be made for {HSM_SECRET} ({error}), so "
            f"nothing but backup.key in {directory} opens it. Every change is saved; copy that file to a safe place "
            f"now, and make a new slot: {command(directory, '--add-passphrase')}"
        )
    return "unusual" if first else "info", (
        f"{HSM_SECRET} does not open this backup yet, only its passphrase does: the slot for {HSM_SECRET} could not be "
        f"made ({error}). Changes are saved. To make it, run: {command(directory, '--add-hsm-secret')}"
    )


def _unreadable(bad: list[str]) -> tuple[str, str]:
    return "unusual", (
        f"the file `keys`, which holds the key slots, is missing or damaged at {' and '.join(bad)}, or was another "
        "backup's. backup.key is not affected, and changes are saved; it is written again. Passphrases that only it "
        "knew must be added again: backup-cli keys --add-passphrase"
    )


def damaged_slots(document: KeysDocument) -> tuple[str, str]:
    numbers = " and ".join(str(number) for number in document.damaged)
    return "unusual", (
        f"key slot {numbers} of this backup is damaged, and opens it no more. Changes are saved, and the other slots "
        "work. To see them, run: backup-cli keys; to replace a damaged one: backup-cli keys --add-passphrase, or "
        "--add-hsm-secret, and then --remove SLOT"
    )


def command(directory: Path, option: str) -> str:
    return shell_line("backup-cli", "keys", option, "--lightning-dir", directory)
