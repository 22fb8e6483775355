"""The secret in a node's `hsm_secret`, whatever its form, and the secrets that lightningd derives from it.

What lightningd does, by its sources since v25.12 (common/hsm_secret.c, hsmd/libhsmd.c); `hsm_secret` tells the forms
apart:

- 32 bytes are the secret itself.
- 73 bytes are a secret of 32 bytes, encrypted with a passphrase: see `hsm_passphrase`.
- A mnemonic's secret is its BIP-39 seed, all 64 bytes (`extract_mnemonic_secret`). The node's id comes from the first
  32 bytes only (`node_key`), but "derived secrets" from all of them (`hsmd_init` takes the length of the secret).
  `lightning-hsmtool makerune` takes the first 32 bytes for both, so its runes for a mnemonic are not the node's.
- With a passphrase, the 32 bytes before the words are the SHA-256 of these 64 bytes (`derive_seed_hash`), so that a
  wrong passphrase is recognized. The passphrase is not normalized (`seed_of_words`).

`makesecret` returns HKDF-SHA256 without a salt, of the key that HKDF-SHA256 without a salt makes of the secret with the
info "derived secrets" (`hsmd_init`, `handle_derive_secret`).

A secret never gets into a message. What is read from the file is wiped; what is returned, Python cannot wipe.
"""

import hashlib
import hmac
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from backends.errors import BackupError
from backends.keyring import derived
from backends.mounts.missing import is_it_mounted
from backends.node.hsm_passphrase import secret_in
from backends.node.hsm_secret import (
    SECRET_SIZE,
    Form,
    Malformed,
    content_of,
    form_of,
    seed_of_words,
    why_unreadable,
)
from backends.text import printable, shell_line


class SeedNeedsPassphrase(BackupError):
    """The secret cannot be read without its passphrase, and none was given."""

    kind = "key_needed"


class WrongSeedPassphrase(BackupError):
    """The passphrase is not that of the secret; or the file is damaged, which looks the same."""

    kind = "wrong_key"


def needs_passphrase(path: Path) -> bool:
    """Whether reading the secret at `path` takes a passphrase.

    Raises BackupError if the file is missing, unreadable, a link, or not in a form that lightningd accepts.
    """
    with _recognized(path) as (form, _):
        return form in (Form.ENCRYPTED, Form.MNEMONIC_WITH_PASSPHRASE)


def read_seed(path: Path, passphrase: bytes | None = None) -> bytes:
    """The secret in the file at `path` that lightningd derives others from: 32 bytes, or 64 if it is a mnemonic's.

    The passphrase is the bytes that were typed, without a line end. A secret that needs none ignores it.
    Raises SeedNeedsPassphrase, WrongSeedPassphrase, or BackupError for a file that `needs_passphrase` would refuse.
    Damage to a plain secret, or to the words of a mnemonic without a passphrase, goes unnoticed: the secret is then
    another one.
    """
    with _recognized(path) as (form, content):
        if form is Form.PLAIN:
            return bytes(content)
        if form is Form.MNEMONIC:
            return seed_of_words(content[SECRET_SIZE:])
        if passphrase is None:
            raise SeedNeedsPassphrase(
                f"{printable(path)} can be read only with its passphrase. The file is untouched. Run this at a "
                "terminal, where it is asked for, or name a file whose first line it is: --passphrase-file FILE"
            )
        seed = secret_in(content, passphrase) if form is Form.ENCRYPTED else _seed_with(content, passphrase)
    if seed is None:
        raise WrongSeedPassphrase(
            f"this passphrase does not open {printable(path)}: it is not the one that lightningd asks for when it "
            "starts, or the file is damaged. The file is untouched. Try again; this command needs the same passphrase, "
            f"and shows the node's id if it is right: {shell_line('lightning-hsmtool', 'getnodeid', path)}"
        )
    return seed


def derived_secret(seed: bytes, info: bytes) -> bytes:
    """The 32 bytes that `lightning-cli makesecret` returns for `info` on the node with this secret (of `read_seed`)."""
    return derived(derived(seed, b"", b"derived secrets"), b"", info)


def _seed_with(content: memoryview, passphrase: bytes) -> bytes | None:
    """The seed of a mnemonic with this passphrase; None if it is not the one whose hash precedes the words."""
    seed = seed_of_words(content[SECRET_SIZE:], passphrase)
    return seed if hmac.compare_digest(hashlib.sha256(seed).digest(), content[:SECRET_SIZE]) else None


@contextmanager
def _recognized(path: Path) -> Iterator[tuple[Form, memoryview]]:
    """The form and the content of the file, wiped at the end. Raises BackupError if there is no secret to read."""
    with ExitStack() as wiping:
        try:
            content = wiping.enter_context(content_of(path))
            form = form_of(content)
        except FileNotFoundError:
            raise BackupError(
                f"there is no {printable(path)}. Copy the node's hsm_secret there from where you keep it, or name the "
                f"file: --hsm-secret FILE{is_it_mounted(path)}"
            ) from None
        except (OSError, ImportError) as error:
            raise BackupError(
                f"the node's secret in {printable(path)} cannot be read: {why_unreadable(path, error)}. The file is "
                "untouched. Run this as the user that lightningd runs as, or name the file itself or another copy of "
                "it: --hsm-secret FILE"
            ) from None
        except Malformed as error:
            raise BackupError(
                f"{printable(path)} is no hsm_secret that lightningd accepts: {error}. The file is untouched. Keep it, "
                "and name another copy of the node's hsm_secret: --hsm-secret FILE"
            ) from None
        yield form, content
