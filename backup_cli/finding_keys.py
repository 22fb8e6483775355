"""Finding the key of an encrypted backup, for a command that an operator runs.

In this order: what was named; `backup.key` in the directories that the command works with and in ~/.lightning, if it
is for this backup; `hsm_secret` in those directories; a passphrase, which is asked for at a terminal. What was named
must be right: it is never silently replaced by something else that is found.

Nothing is written here. When root acts for another user (`as_owner`), it is that user by now, so only what that user
may read is found.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from backends import keyring
from backends.errors import (
    BackupError,
    DamagedSlot,
    KeyNeeded,
    NotEncrypted,
    WrongKey,
    WrongPassphrase,
    WrongSecret,
)
from backends.keyring import DataKey
from backends.log.backup import Backup
from backends.log.format.keys import HsmSlot, KeysDocument, PassphraseSlot
from backends.log.key_slots import open_with_passphrase, slots_in_words
from backends.node.directory import network_directory
from backends.node.hsm_secret import HSM_SECRET, is_hsm_secret
from backends.node.hsm_seed import SeedNeedsPassphrase, WrongSeedPassphrase, read_seed
from backends.node.hsm_slots import open_with_seed
from backends.node.key_file import KEY_FILE, read_key, read_key_file
from backends.text import printable, shell_line
from backup_cli import as_owner
from backup_cli.console import say, warn
from backup_cli.key_options import KeyOptions, at_terminal, opened_by_typing, passphrase_from
from backup_cli.seen_encryption import Encrypted, Look, Where, best_slots, look_for_encryption

_ASKING = "This backup is encrypted, and its key was not found. An empty line goes on without this passphrase"


def find_key(
    where: Where | Look,
    options: KeyOptions,
    directories: Iterable[Path] = (),
    *,
    needed: bool = True,
    ask: bool | None = None,
) -> DataKey | None:
    """Make the key of the backup at these URLs (of one, or of its members) known to this process; also returns it.

    None for a backup that is not encrypted, for members of which none can be read (the command itself will say why),
    and, unless the key is `needed`, if it is not found. `ask`: whether a passphrase is asked for at a terminal, by
    default if the key is needed.

    Raises what keeps the only URL from being read; KeyNeeded; WrongSecret, WrongPassphrase, DamagedSlot or WrongKey if
    what was named or typed does not open the backup; NotEncrypted if it is not encrypted, although an option or a
    backup.key says that it is.
    """
    own = [directory.absolute() for directory in directories]
    places = _with_home(own)
    seen = look_for_encryption(where, patient=False)
    if not seen.members:
        if seen.plain is not None:
            _refuse_unexpectedly_plain(seen.plain, options, places, frozenset(own))
        return None
    strangers = frozenset(places) - frozenset(own)
    return _Search(seen.members, options, places, strangers, needed=needed, ask=needed if ask is None else ask).key()


def _with_home(directories: Iterable[Path]) -> list[Path]:
    """The directories, each once, and that of the node in ~/.lightning, if there is one."""
    found = list(dict.fromkeys(directories))
    with suppress(BackupError, OSError):
        home = network_directory()
        if home not in found:
            found.append(home)
    return found


def _refuse_unexpectedly_plain(
    backup: Backup, options: KeyOptions, directories: Sequence[Path], own: frozenset[Path]
) -> None:
    """Raise NotEncrypted if an option or the node's backup.key says that this plain backup is an encrypted one.

    Warn if nobody can tell, because the backup.key in one of the command's `own` directories cannot be read.
    """
    for directory in directories:
        try:
            found = read_key(directory)
        except BackupError as error:
            if directory in own:
                warn(f"{error}. This backup is not encrypted; if it should be, do not go on with it")
            continue
        if found is not None and not found.pending and found.key.backup_id.hex() == backup.id():
            keyring.add(found.key, demanded=True)
            backup.id()  # raises NotEncrypted now
    if options.named:
        raise NotEncrypted(
            f"{backup.describe()} is not encrypted, although {' and '.join(options.named)} says that it is: somebody "
            "else may have put it there in place of yours. Nothing was changed. If you know that your backup is not "
            f"encrypted, leave {' and '.join(options.named)} out"
        )


# Finding the key


class _Search:
    """One search for the key of a backup. All `members` are of the same backup; each has a copy of the key slots.

    `strangers` are those of the directories that may be any other node's: it is no failure that a secret there is not
    the right one.
    """

    def __init__(
        self,
        members: Sequence[Encrypted],
        options: KeyOptions,
        directories: Sequence[Path],
        strangers: frozenset[Path],
        *,
        needed: bool,
        ask: bool,
    ) -> None:
        self._members, self._options = members, options
        self._directories, self._strangers = directories, strangers
        self._backup = members[0]
        self._needed, self._ask = needed, ask and at_terminal()
        self._failures: list[BackupError] = []
        self._read: KeysDocument | None = None

    def key(self) -> DataKey | None:
        """The key, which is in the keyring then; None if it is not found and not needed."""
        known = keyring.find(self._backup.key_id)
        key = self._named() if self._options.named else known or self._found()
        if key is None and self._needed:
            raise self._not_found()
        for error in self._failures:  # it is found nevertheless, or not needed
            warn(str(error))
        return key

    def _found(self) -> DataKey | None:
        for directory in self._directories:
            if (key := self._in_key_file(directory)) is not None:
                return key
        for directory in self._directories:
            if (key := self._by_secret_in(directory)) is not None:
                return key
        return self._by_typed_passphrase()

    # What was named

    def _named(self) -> DataKey:
        options = self._options
        if options.key_file is not None:
            return self._in_named_key_file(options.key_file)
        if options.hsm_secret is None:
            return self._by_named_passphrase()
        try:
            return self._by_secret(options.hsm_secret)
        except (KeyNeeded, DamagedSlot) as error:  # no slot for hsm_secret that can be used
            if options.passphrase_file is None or isinstance(error, SeedNeedsPassphrase):
                raise
        return self._by_named_passphrase()

    def _in_named_key_file(self, path: Path) -> DataKey:
        try:
            key = read_key_file(path)
        except KeyNeeded:
            if is_hsm_secret(path):
                raise KeyNeeded(
                    f"{printable(path)} is an hsm_secret, and no backup.key. Nothing was changed; name it with "
                    f"{shell_line('--hsm-secret', path)} instead"
                ) from None
            raise
        if key.backup_id != self._backup.backup_id:
            raise WrongKey(
                f"{printable(path)} is the key of another backup ({key.backup_id.hex()}); this one is "
                f"{self._backup.backup_id.hex()}. Nothing was changed; name the backup.key of the node that this "
                "backup is of, or use --hsm-secret FILE or --passphrase-file FILE instead"
            )
        if key.id != self._backup.key_id:
            raise WrongKey(
                f"{printable(path)} is an earlier key of this backup ({key.id}); it is encrypted with another one "
                f"({self._backup.key_id}) now. Nothing was changed; name the backup.key that the node has now, or use "
                "--hsm-secret FILE or --passphrase-file FILE instead"
            )
        return self._take(key)

    def _by_named_passphrase(self) -> DataKey:
        """By a slot's passphrase; else it is that of an hsm_secret beside the database."""
        passphrase = passphrase_from(self._options, new=False)
        try:
            return self._take(open_with_passphrase(self._document(), passphrase))
        except (WrongPassphrase, KeyNeeded, DamagedSlot):
            for directory in self._directories:
                if (key := self._by_secret_in(directory, passphrase)) is not None:
                    return key
            raise

    # What is found

    def _in_key_file(self, directory: Path) -> DataKey | None:
        try:
            found = read_key(directory)
        except BackupError as error:
            if directory not in self._strangers:
                self._failures.append(error)
            return None
        if found is None or found.key.id != self._backup.key_id:
            return None
        return self._take(found.key, demanded=not found.pending)

    def _by_secret_in(self, directory: Path, passphrase: bytes | None = None) -> DataKey | None:
        """By the hsm_secret in this directory. With a passphrase, only by one that needs it."""
        path = directory / HSM_SECRET
        if not os.path.lexists(path) or not self._has(HsmSlot):
            return None
        try:
            return self._by_secret(path, passphrase)
        except BackupError as error:
            if directory not in self._strangers:
                self._failures.append(error)
            return None

    def _by_secret(self, path: Path, passphrase: bytes | None = None) -> DataKey:
        """By the hsm_secret at `path`. Raises WrongSecret, DamagedSlot, KeyNeeded and the errors of read_seed."""
        try:
            seed = read_seed(path, passphrase)
        except SeedNeedsPassphrase:
            seed = self._seed_with_passphrase(path)
        try:
            return self._take(open_with_seed(self._document(), seed))
        except WrongSecret as error:
            error.listed = (f"the file that was tried is {printable(path)}",)
            raise

    def _seed_with_passphrase(self, path: Path) -> bytes:
        """The secret at `path`, with its passphrase from the file that was named, or as it is typed. Raises
        WrongSeedPassphrase; SeedNeedsPassphrase if there is neither, or nothing was typed."""
        if self._options.passphrase_file is not None:
            return read_seed(path, passphrase_from(self._options, new=False))
        if not self._ask:
            return read_seed(path)
        say(_ASKING)
        return opened_by_typing(
            f"Passphrase of {printable(path)}", lambda typed: read_seed(path, typed or None), WrongSeedPassphrase
        )

    def _by_typed_passphrase(self) -> DataKey | None:
        if not self._ask or not self._has(PassphraseSlot):
            return None
        say(_ASKING)
        return opened_by_typing("Passphrase of this backup", self._by_passphrase_or_not, WrongPassphrase)

    def _by_passphrase_or_not(self, passphrase: bytes) -> DataKey | None:
        return self._take(open_with_passphrase(self._document(), passphrase)) if passphrase else None

    def _has(self, kind: type[HsmSlot] | type[PassphraseSlot]) -> bool:
        """Whether the backup has such a slot, damaged or not. What is wrong with its slots is said at the end."""
        try:
            return any(name.kind == kind.kind for name in self._document().names)
        except BackupError as error:
            if error not in self._failures:
                self._failures.append(error)
            return False

    def _take(self, key: DataKey, *, demanded: bool = True) -> DataKey:
        if (key.backup_id, key.id) != (self._backup.backup_id, self._backup.key_id):
            raise WrongKey(
                f"the key slots of {self._backup.url} hold another key ({key.id}) than the one that the backup is "
                f"encrypted with ({self._backup.key_id}): somebody has changed the file `keys`, or it belongs to "
                "another backup. Nothing was changed; use the node's backup.key, or a copy of it: --key-file FILE"
            )
        keyring.add(key, demanded=demanded)
        return key

    def _document(self) -> KeysDocument:
        """The key slots, from a member where none is damaged, if there is one. Raises BackupError."""
        if self._read is None:
            self._read = best_slots(self._members)
        return self._read

    def _not_found(self) -> BackupError:
        """The error to end with: what is wrong with what was found, else that nothing was found."""
        telling = [error for error in self._failures if not isinstance(error, KeyNeeded)] or self._failures
        for error in self._failures:
            if error is not telling[0]:
                warn(str(error))
        if telling:
            return telling[0]
        slots = slots_in_words(self._document())
        error = KeyNeeded(
            f"{self._backup.url} is encrypted, and its key is not here: no {KEY_FILE} and no {HSM_SECRET} that opens "
            "it was found"
            + ("" if self._ask else ", and nobody can be asked for a passphrase (this is not run at a terminal)")
            + ". Nothing was changed, and nothing is lost as long as one of these is kept; repeat the command with "
            f"what opens one of its {'key slots' if slots else 'copies of backup.key'}:"
        )
        error.listed = (*slots, *_commands(self._document()))
        return error


def _commands(document: KeysDocument) -> list[str]:
    """What to type, for each kind of slot that the backup has."""
    kinds = {slot.kind for slot in document.slots}
    ways = [("--hsm-secret", HsmSlot.kind), ("--passphrase-file", PassphraseSlot.kind)]
    options = [option for option, kind in ways if kind in kinds] or ["--key-file"]
    return [as_owner.again(option, "FILE") for option in options]
