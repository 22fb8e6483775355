"""What the commands that make an encrypted backup share: the options, and what is to open the new backup.

A new backup gets a key slot for the node's hsm_secret, which an operator must keep anyway, and one for a passphrase if
one is given. What opens it is asked for before anything is made.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from backends.errors import BackupError, KeyNeeded
from backends.keyring import DataKey
from backends.log.attachments import publish_attachment
from backends.log.format.attachments import Attachment, why_unfit
from backends.log.format.keys import KeysDocument
from backends.log.key_slots import (
    DEFAULT_COST,
    open_with_passphrase,
    with_hsm_slot,
    with_passphrase,
)
from backends.node.hsm_secret import HSM_SECRET, Malformed, content_of
from backends.node.hsm_seed import needs_passphrase
from backends.node.hsm_slots import slot_secret
from backends.node.key_file import KEY_FILE
from backends.storage.base import Storage
from backends.storage.unreachable import reaching
from backends.text import printable
from backup_cli.console import say, warn
from backup_cli.given_secret import refuse_anothers_secret, refuse_anothers_seed, seed_of
from backup_cli.key_options import KeyOptions, at_terminal, confirm, passphrase_from, typed
from backup_cli.options import A_PATH

COST = DEFAULT_COST
"""What one guess at the passphrase of a new key slot costs."""


@dataclass(frozen=True, slots=True)
class Encrypt:
    """That a new backup is to be encrypted, and what the user has named for it."""

    key: KeyOptions
    with_secret: bool = False
    """Store hsm_secret itself in the backup."""


_Command = TypeVar("_Command", bound=Callable[..., Any])


def encrypt_option(command: _Command) -> _Command:
    """Add --encrypt, --passphrase-file and --hsm-secret; the command gets them as `encrypt`: an Encrypt, or None."""

    @click.option("--encrypt", "wanted", is_flag=True, help="Encrypt the backup; hsm_secret or a passphrase opens it.")
    @click.option(
        "--passphrase-file",
        type=A_PATH,
        metavar="FILE",
        help="With --encrypt: the first line of this file is a passphrase that opens the backup (and hsm_secret, if "
        "that has the same one).",
    )
    @click.option(
        "--hsm-secret",
        type=A_PATH,
        metavar="FILE",
        help="With --encrypt: the hsm_secret that opens the backup.  [default: the one in the node's directory]",
    )
    @wraps(command)
    def given(
        *arguments: Any, wanted: bool, passphrase_file: Path | None, hsm_secret: Path | None, **named: Any
    ) -> Any:
        key = KeyOptions(hsm_secret=hsm_secret, passphrase_file=passphrase_file)
        if key.named and not wanted:
            raise click.UsageError(f"{' and '.join(key.named)} is for an encrypted backup: add --encrypt")
        return command(*arguments, **named, encrypt=Encrypt(key) if wanted else None)

    return cast(_Command, given)


def with_secret_option(command: _Command) -> _Command:
    """Add the flag --with-hsm-secret, which belongs to the options of `encrypt_option`."""

    @click.option(
        "--with-hsm-secret",
        is_flag=True,
        help="With --encrypt: store hsm_secret in the backup, too; then only a passphrase opens it.",
    )
    @wraps(command)
    def given(*arguments: Any, encrypt: Encrypt | None, with_hsm_secret: bool, **named: Any) -> Any:
        if with_hsm_secret and encrypt is None:
            raise click.UsageError("--with-hsm-secret is for an encrypted backup: add --encrypt")
        if with_hsm_secret and encrypt is not None:
            encrypt = replace(encrypt, with_secret=True)
        return command(*arguments, **named, encrypt=encrypt)

    return cast(_Command, given)


@dataclass(frozen=True, slots=True)
class NewSlots:
    """What is to open a backup, beside backup.key."""

    hsm_derived: bytes | None = field(default=None, repr=False)
    """What lightningd derives from hsm_secret for this."""
    passphrase: bytes | None = field(default=None, repr=False)
    secret: bytes | None = field(default=None, repr=False)
    """The content of hsm_secret, if that is to be stored in the backup."""
    later: bool = False
    """There is no hsm_secret yet: the plugin makes its slot at the node's first start."""

    def added_to(self, document: KeysDocument, key: DataKey) -> KeysDocument:
        """The document with a slot for each of these, unless it has one that works. Raises BackupError."""
        if self.hsm_derived is not None:
            document = with_hsm_slot(document, key, self.hsm_derived)
        if self.passphrase is not None and not opens(document, self.passphrase):
            document = with_passphrase(document, key, self.passphrase, COST)
        return document

    def attach_secret(self, storage: Storage) -> None:
        """Store hsm_secret in this encrypted backup, if that is wanted. Raises BackupError."""
        if self.secret is not None:
            with reaching(storage):
                publish_attachment(storage, Attachment.SECRET, self.secret)


def opens(document: KeysDocument, passphrase: bytes) -> bool:
    """Whether the passphrase opens one of these slots."""
    try:
        open_with_passphrase(document, passphrase)
    except BackupError:
        return False
    return True


def new_slots(
    directory: Path | None, encrypt: Encrypt, node_id: str | None = None, *, may_wait: bool = False
) -> NewSlots:
    """What is to open the backup of the node in `directory`: read from the files named, else asked for at a terminal.

    `node_id` is that of the database (hex), if it is known. `may_wait`: without an hsm_secret the backup may be left
    without a slot, because the plugin makes it at the node's first start. Raises BackupError; KeyNeeded if nothing but
    backup.key would open the backup.
    """
    path = _secret_of(directory, encrypt)
    refuse_anothers_secret(path, node_id)
    if encrypt.with_secret:
        return _with_secret(path, encrypt)
    named = encrypt.key.passphrase_file is not None
    passphrase = passphrase_from(encrypt.key, new=True) if named else None
    if path is not None:
        return NewSlots(_derived(path, passphrase, encrypt, node_id), passphrase)
    if passphrase is None and at_terminal():
        passphrase = _offered(directory, may_wait)
    if passphrase is None and not may_wait:
        raise _nothing_opens()
    return NewSlots(passphrase=passphrase, later=may_wait)


def would_open(
    directory: Path | None, encrypt: Encrypt, node_id: str | None = None, *, may_wait: bool = False
) -> list[str]:
    """The steps that a dry run lists for the key. Nothing is asked for. Raises BackupError as `new_slots`."""
    path, file = _secret_of(directory, encrypt), encrypt.key.passphrase_file
    refuse_anothers_secret(path, node_id)
    steps = ["encrypt it with a new key"]
    if encrypt.with_secret:
        _content(path)
        steps.append(f"store {path} in it, encrypted")
    elif path is not None:
        asked = ", which needs its passphrase" if needs_passphrase(path) else ""
        steps.append(f"make a key slot for {path}{asked}")
    elif file is None and not may_wait and not at_terminal():
        raise _nothing_opens()
    if file is not None or (encrypt.with_secret and not at_terminal()):
        passphrase_from(encrypt.key, new=True)  # raises
        steps.append(f"make a key slot for the passphrase in {file}")
    elif encrypt.with_secret:
        steps.append("make a key slot for a passphrase, which is asked for")
    return steps if directory is None else [*steps, f"write the key to {directory / KEY_FILE}"]


def _secret_of(directory: Path | None, encrypt: Encrypt) -> Path | None:
    """The hsm_secret that was named, or that of the node; None if there is none."""
    if encrypt.key.hsm_secret is not None or directory is None:
        return encrypt.key.hsm_secret
    path = directory / HSM_SECRET
    return path if os.path.lexists(path) else None


def _nothing_opens() -> KeyNeeded:
    return KeyNeeded(
        f"there is no {HSM_SECRET} and no passphrase, so nothing but {KEY_FILE} would open the encrypted backup. "
        "Nothing was changed; name what is to open it: --hsm-secret FILE, --passphrase-file FILE, or both"
    )


# hsm_secret itself in the backup


def _with_secret(path: Path | None, encrypt: Encrypt) -> NewSlots:
    secret = _content(path)
    if encrypt.key.passphrase_file is None and at_terminal():
        say(
            f"The backup will hold {HSM_SECRET}, so only a passphrase can open it after a disaster: write it on paper, "
            "and keep that in another place than this machine"
        )
    return NewSlots(passphrase=passphrase_from(encrypt.key, new=True), secret=secret)


def _content(path: Path | None) -> bytes:
    """The content of hsm_secret, to be stored. Raises BackupError."""
    if path is None:
        raise BackupError(
            f"there is no {HSM_SECRET} that could be stored in the backup: lightningd makes it when the node first "
            "starts. Nothing was made; leave --with-hsm-secret out, or name the file with --hsm-secret FILE"
        )
    needs_passphrase(path)  # raises unless lightningd would accept the file
    try:
        with content_of(path) as content:
            secret = bytes(content)
    except (OSError, Malformed) as error:
        raise BackupError(
            f"{printable(path)} cannot be read: {error}. Nothing was made; name another copy of it: --hsm-secret FILE"
        ) from None
    unfit = why_unfit(Attachment.SECRET, len(secret))
    if unfit is not None:
        raise BackupError(f"{printable(path)} cannot be stored in the backup: {unfit}. Nothing was made")
    return secret


# A slot for hsm_secret


def _derived(path: Path, passphrase: bytes | None, encrypt: Encrypt, node_id: str | None) -> bytes | None:
    """What lightningd derives from the hsm_secret at `path`. None if it cannot be read, unless it is needed: it was
    named, or there is no passphrase. Raises BackupError."""
    try:
        seed = seed_of(path, passphrase)
    except BackupError as error:
        if passphrase is None or encrypt.key.hsm_secret is not None:
            raise
        warn(
            f"{error}. The backup gets no key slot for {HSM_SECRET} now, and only the passphrase opens it; to add one "
            "later, run: backup-cli keys --add-hsm-secret"
        )
        return None
    refuse_anothers_seed(path, seed, node_id)
    return slot_secret(seed)


def _offered(directory: Path | None, may_wait: bool) -> bytes | None:
    """A passphrase that a person may type, or not, because there is no hsm_secret."""
    where = "" if directory is None else f" in {directory}"
    if may_wait:
        say(
            f"There is no {HSM_SECRET}{where} yet: the plugin makes its key slot when the node first starts. A "
            "passphrase can open the backup, too; an empty line goes on without one"
        )
    else:
        say(f"There is no {HSM_SECRET}{where}: the backup will be opened with a passphrase. Write it on paper")
    passphrase = typed("New passphrase of this backup")
    if not passphrase and may_wait:
        return None
    confirm(passphrase)
    return passphrase
