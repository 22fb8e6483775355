"""What check-config says about the key of an encrypted backup: that the node has it, and that it would not be lost with
the node."""

import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from backends.errors import BackupError, DamagedSlot, KeyNeeded, WrongSecret
from backends.log.format.keys import HsmSlot, KeysDocument, PassphraseSlot
from backends.members.strangers import encrypt_later, readable_by_others
from backends.node.directory import database_path
from backends.node.hsm_secret import HSM_SECRET
from backends.node.hsm_seed import SeedNeedsPassphrase, read_seed
from backends.node.hsm_slots import open_with_seed
from backends.node.key_file import KEY_FILE, NodeKey, key_file_is_open, key_in_use, load_key, read_key, read_key_file
from backends.node.lockfile import Settings
from backends.text import shell_line
from backup_cli.findings import Finding, ok, problem, warning
from backup_cli.seen_encryption import Encrypted, Look, best_slots, look_for_encryption

SLOTS = "key slots"


def check_key(directory: Path, settings: Settings) -> Iterator[Finding]:
    """Whether backup.key opens this node's backup, is closed to others, and could be had again from a key slot.

    Of a plain backup, it only says whether other people may read it. The key is known to this process afterwards, so
    that the rest can be checked.
    """
    look = Look()
    with suppress(BackupError):  # that the destination cannot be read is reported as such
        look = look_for_encryption(settings.urls, patient=False)
    members = look.members
    try:
        found = read_key(directory)
        load_key(directory)
    except BackupError as error:
        yield problem(KEY_FILE, str(error))
        found = None
    else:
        yield from _check_file(directory, settings, found, members)
    if members:
        yield from _check_slots(directory, settings, members)
    elif look.plain is not None and (found is None or not found.pending):
        told = readable_by_others(settings.urls, encrypt_later(directory))
        if told is not None:
            yield warning("encryption", told)


def _check_file(
    directory: Path, settings: Settings, found: NodeKey | None, members: tuple[Encrypted, ...]
) -> Iterator[Finding]:
    path = directory / KEY_FILE
    if found is None:
        if members:
            yield problem(
                KEY_FILE,
                f"{path} is missing, and the backup is encrypted: the node stops before its next start's first change. "
                f"To get it back from a key slot: {_keys(directory, settings, '--restore-key')}",
            )
        return
    if key_file_is_open(path):
        yield problem(
            KEY_FILE,
            f"other users may use it (mode {stat.S_IMODE(path.lstat().st_mode):04o}), and with it read the whole "
            f"backup: {shell_line('chmod', 400, path)}",
        )
    aside = _right_key_aside(directory, found, members)
    if aside is not None:
        yield warning(
            KEY_FILE,
            f"{path} is another backup's; the key of this one is in {aside}, and the node uses it from there. To have "
            f"it in its place again: {_keys(directory, settings, '--restore-key')}",
        )
    elif members and found.key.id != members[0].key_id:
        yield problem(
            KEY_FILE,
            f"{path} does not open this backup: it holds the key {found.key.id}, and the backup is encrypted with "
            f"{members[0].key_id}. The node does not start. Keep that file under another name, then get the right key "
            f"from a key slot: {_keys(directory, settings, '--restore-key')}",
        )
    elif found.pending and members:
        yield ok(KEY_FILE, "opens this backup; the next start of the node notes that the change to encryption is done")
    elif found.pending:
        yield problem(
            KEY_FILE,
            "the backup was to be encrypted, and that was not finished: it is still stored in the clear. Every change "
            f"is saved as before. Stop lightningd and repeat: {_resync(directory)}",
        )
    elif members and not key_file_is_open(path):
        yield ok(KEY_FILE, f"opens this backup, mode {stat.S_IMODE(path.lstat().st_mode):04o}")


def _right_key_aside(directory: Path, found: NodeKey, members: tuple[Encrypted, ...]) -> str | None:
    """Where the key of this backup is, in words, if `backup.key` is another backup's and the node finds it elsewhere.

    A crash leaves this, while the node changes to another backup.
    """
    if not members or found.key.id == members[0].key_id:
        return None
    used = key_in_use(directory)
    if used is None or used.key.id != members[0].key_id:
        return None
    names = [path for path in sorted(directory.glob(f"{KEY_FILE}.*")) if _holds(path, used)]
    return str(names[0]) if names else None


def _holds(path: Path, key: NodeKey) -> bool:
    with suppress(BackupError):
        return read_key_file(path) == key.key
    return False


def _check_slots(directory: Path, settings: Settings, members: tuple[Encrypted, ...]) -> Iterator[Finding]:
    add = _keys(directory, settings, "--add-passphrase")
    try:
        document = best_slots(members)
    except BackupError as error:
        yield problem(SLOTS, f"{error}. To do it now: {add}")
        return
    if document.lost:
        numbers = " and ".join(str(number) for number in document.damaged)
        yield warning(SLOTS, f"damaged: {numbers}. Make a new slot, then remove what is damaged: {add}")
    if document.slots:
        yield from _check_usable(directory, settings, document)
        return
    if not (directory / HSM_SECRET).exists() and not database_path(directory).exists():
        yield warning(
            SLOTS, f"none yet: the node's first start makes {HSM_SECRET}, and the plugin then makes a slot for it"
        )
        return
    yield problem(
        SLOTS,
        f"NONE that can be used: if {directory / KEY_FILE} is lost with this machine, nothing opens the backup. For "
        f"{HSM_SECRET}: {_keys(directory, settings, '--add-hsm-secret')}; for a passphrase: {add}",
    )


def _check_usable(directory: Path, settings: Settings, document: KeysDocument) -> Iterator[Finding]:
    """Whether what the operator has opens the slots, as far as that can be told without a passphrase."""
    passphrases = sum(isinstance(slot, PassphraseSlot) for slot in document.slots)
    also = f"; {passphrases} for a passphrase (to test one: {_keys(directory, settings, '--test')})"
    if not any(isinstance(slot, HsmSlot) for slot in document.slots):
        yield ok(SLOTS, f"none for {HSM_SECRET}{also}")
        return
    path = directory / HSM_SECRET
    try:
        open_with_seed(document, read_seed(path))
    except SeedNeedsPassphrase:
        test = _keys(directory, settings, "--test")
        yield ok(SLOTS, f"one for {HSM_SECRET}, which needs its passphrase (to test it: {test})")
    except (WrongSecret, DamagedSlot, KeyNeeded) as error:
        yield problem(
            SLOTS,
            f"{path} does not open this backup: {error}. To make a slot that it opens: "
            f"{_keys(directory, settings, '--add-hsm-secret')}",
        )
    except BackupError as error:
        yield warning(SLOTS, f"the one for {HSM_SECRET} could not be tried: {error}")
    else:
        yield ok(SLOTS, f"{HSM_SECRET} opens this backup{also if passphrases else ''}")


def _keys(directory: Path, settings: Settings, option: str) -> str:
    return shell_line("backup-cli", "keys", option, "--lightning-dir", directory, *settings.urls)


def _resync(directory: Path) -> str:
    return shell_line("backup-cli", "resync", "--encrypt", "--lightning-dir", directory)
