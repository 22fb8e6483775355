"""Whether the key in `backup.key` is that of the node's backup, at a start.

Nobody is there to type a passphrase, so the plugin has this file only. What is wrong with it is found before anything
is changed. Without the file, nothing that encrypts is imported: a start must be quick.
"""

from collections.abc import Iterable
from pathlib import Path

from backends import keyring
from backends.errors import KeyNeeded, NotEncrypted, WrongKey
from backends.log.format.documents import Manifest
from backends.node.hsm_secret import HSM_SECRET
from backends.node.key_file import KEY_FILE, read_key
from backends.node.lockfile import Settings
from backends.text import shell_line

KEY_ERRORS = (KeyNeeded, WrongKey, NotEncrypted)
"""What is wrong if the key and the backup do not fit."""


def check_key(directory: Path, settings: Settings, manifest: Manifest) -> None:
    """Raise KeyNeeded or WrongKey if `backup.key`, which was loaded, does not open the backup with this manifest."""
    if manifest.key is None or keyring.find(manifest.key) is not None:
        return
    path, place = directory / KEY_FILE, " and ".join(settings.urls)
    found = read_key(directory)
    if found is None:
        raise KeyNeeded(
            f"the backup at {place} is encrypted, and {path}, which holds its key, is missing. {_SAFE}. "
            f"{_restore_key(directory, settings)}",
            clause=f"the backup is encrypted, and {KEY_FILE} is missing",
        )
    if found.key.backup_id != manifest.backup_id:
        raise WrongKey(
            f"{path} is the key of another backup ({found.key.backup_id.hex()}), and does not open the one at {place} "
            f"({manifest.backup_id.hex()}). {_SAFE}; keep that file, it may be all that opens the other backup. "
            f"{_restore_key(directory, settings)}",
            clause=f"the backup is encrypted, and {KEY_FILE} is the key of another one",
        )
    raise WrongKey(
        f"{path} does not open the backup at {place}: it holds the key {found.key.id}, and the backup is encrypted "
        f"with the key {manifest.key}. {_SAFE}. Somebody has put another key here, or another backup there: keep both, "
        f"and find out who did that. {_restore_key(directory, settings)}",
        clause=f"the backup is encrypted with another key than the one in {KEY_FILE}",
    )


def raise_key_error(
    directory: Path, settings: Settings, manifests: Iterable[Manifest], failures: Iterable[BaseException | None]
) -> None:
    """For several members of which none could be read: raise what is wrong with the key, if that is the reason.

    `failures` are what reading the other members' manifests has raised.
    """
    for manifest in manifests:
        check_key(directory, settings, manifest)
    for failure in failures:
        if isinstance(failure, NotEncrypted):
            raise failure


_SAFE = "Nothing was changed; the backup and this node's database are untouched"


def _restore_key(directory: Path, settings: Settings) -> str:
    """How to get the key back."""
    at_hand = (directory / HSM_SECRET).exists()
    by = "this node's hsm_secret" if at_hand else "the node's hsm_secret (--hsm-secret FILE)"
    command = shell_line("backup-cli", "keys", "--restore-key", "--lightning-dir", directory, *settings.urls)
    return (
        f"If you have a copy of the right {KEY_FILE}, put it there; otherwise get it from the backup's key slots with "
        f"{by} or a passphrase (--passphrase-file FILE): stop lightningd and run: {command}"
    )
