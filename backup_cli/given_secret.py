"""An hsm_secret that a person names: whose it is, and reading it with its passphrase, if it has one."""

from contextlib import suppress
from functools import partial
from pathlib import Path

from backends.errors import BackupError
from backends.node.hsm_secret import Verdict, check_secret, node_of_seed
from backends.node.hsm_seed import WrongSeedPassphrase, needs_passphrase, read_seed
from backends.text import printable
from backup_cli.console import say
from backup_cli.key_options import at_terminal, opened_by_typing


def refuse_anothers_secret(path: Path | None, node_id: str | None) -> None:
    """Raise BackupError if this hsm_secret is known to be another node's: it would be looked for in vain one day."""
    if path is None or node_id is None:
        return
    checked = check_secret(path, node_id)
    if checked.verdict is Verdict.DIFFERS:
        raise _anothers(path, checked.made, checked.expected)


def refuse_anothers_seed(path: Path, seed: bytes, node_id: str | None) -> None:
    """The same for a secret that was read with its passphrase: only then can it be told whose it is."""
    with suppress(ImportError):
        if node_id is not None and node_of_seed(seed) != node_id:
            raise _anothers(path, node_of_seed(seed), node_id)


def _anothers(path: Path, made: str | None, expected: str | None) -> BackupError:
    return BackupError(
        f"{printable(path)} is another node's: it belongs to the node {made}, and the database to the node {expected}. "
        "So it must not be what opens this node's backup. Nothing was changed; name the right one with --hsm-secret "
        "FILE"
    )


def seed_of(path: Path, passphrase: bytes | None) -> bytes:
    """The secret at `path`, with this passphrase if it needs one, or else one that is asked for. Raises BackupError."""
    if not needs_passphrase(path):
        return read_seed(path)
    if passphrase is not None:
        try:
            return read_seed(path, passphrase)
        except WrongSeedPassphrase:
            if not at_terminal():
                raise
            say(f"The passphrase in the file is not that of {printable(path)}")
    return asked_seed(path)


def asked_seed(path: Path) -> bytes:
    """The secret at `path`, with its passphrase, which is asked for at the terminal. Raises BackupError."""
    if not at_terminal():
        return read_seed(path)
    return opened_by_typing(f"Passphrase of {printable(path)}", partial(read_seed, path), WrongSeedPassphrase)
