"""Which node does an `hsm_secret` belong to? It makes the node's id, which is in the node's database and its backup.

A file from another node, or an older one of this node, looks right until the day it is needed.

The forms, as lightningd v26.06 tells them apart (`detect_hsm_secret_type` in its common/hsm_secret.c): 32 bytes are the
secret itself; 73 bytes are the secret encrypted with a passphrase; anything longer than 32 bytes is 32 bytes and then a
mnemonic. These 32 bytes are zero if the mnemonic has no passphrase, and not zero if it has one. The secret of a
mnemonic is its BIP-39 seed. The node's private key is HKDF-SHA256 of the secret's first 32 bytes, with the info
"nodeid" and a salt of four bytes that counts from 0 until the key is valid (`node_key` in its hsmd/libhsmd.c). The
tests check this against the ids that lightningd's own tests expect, and against databases of real nodes.

What is read stays in this module and in `hsm_seed`, is wiped as far as Python can, and never gets into a message. The
words of a mnemonic are not checked against BIP-39's list: wrong words lead to another node's id.
"""

import hashlib
import hmac
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

HSM_SECRET = "hsm_secret"
"""The file's name, beside the database."""

SECRET_SIZE = 32
"""Bytes of a plain secret, and of what precedes the words of a mnemonic."""

_ENCRYPTED = 73
_MAX_SIZE = 1024
"""Bytes of the file that are read; 24 words and the 32 bytes before them are at most 247."""

_WORDS = re.compile(rb"[a-z]{3,8}(?: [a-z]{3,8}){11}(?:(?: [a-z]{3,8}){3}){0,4}")
"""12, 15, 18, 21 or 24 words of BIP-39's English list, as lightningd expects them: single blanks, no line end."""

_SALTS = 256
"""Salts to try. A key is invalid once in 2^127 times."""


class Verdict(Enum):
    """What comparing a secret with a node's id has shown."""

    MATCHES = auto()
    DIFFERS = auto()
    """The secret is another node's."""
    NOT_COMPARED = auto()
    """The node's id is not known; the id that the secret makes is."""
    NEEDS_PASSPHRASE = auto()
    """Whose secret it is cannot be told without its passphrase, and nobody is asked for that."""
    MALFORMED = auto()
    """lightningd would not accept the file; `why` says what is wrong, as a clause."""
    MISSING = auto()
    UNREADABLE = auto()
    """The file cannot be read; `why` says why, as a clause."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Which node the secret in a file belongs to. Nothing in here is secret."""

    verdict: Verdict
    made: str | None = None
    """The id, in hex, of the node that the secret makes, if that is known."""
    expected: str | None = None
    """The id, in hex, of the node that it was compared with."""
    why: str = ""


class Form(Enum):
    """How a file holds the secret."""

    PLAIN = auto()
    """32 bytes, the secret itself."""
    ENCRYPTED = auto()
    """73 bytes, encrypted with a passphrase (`hsm_passphrase`)."""
    MNEMONIC = auto()
    """32 zero bytes, and the words."""
    MNEMONIC_WITH_PASSPHRASE = auto()
    """The SHA-256 of the BIP-39 seed, and the words; the passphrase is part of that seed."""


class Malformed(Exception):
    """lightningd would not accept the file. The text says what is wrong, as a clause."""


def check_secret(path: Path, node_id: str | None) -> Checked:
    """Which node the secret at `path` belongs to, compared with `node_id` (hex; None when unknown). Raises nothing."""
    try:
        with content_of(path) as content:
            made = _node_made_by(content, node_id)
    except FileNotFoundError:
        return Checked(Verdict.MISSING, expected=node_id)
    except (OSError, ImportError) as error:
        return Checked(Verdict.UNREADABLE, expected=node_id, why=why_unreadable(path, error))
    except Malformed as error:
        return Checked(Verdict.MALFORMED, expected=node_id, why=str(error))
    if made is None:
        return Checked(Verdict.NEEDS_PASSPHRASE, expected=node_id)
    if node_id is None:
        return Checked(Verdict.NOT_COMPARED, made)
    return Checked(Verdict.MATCHES if made == node_id else Verdict.DIFFERS, made, node_id)


def why_unreadable(path: Path, error: OSError | ImportError) -> str:
    """Why the secret at `path` could not be read or recognized, as a clause."""
    if isinstance(error, ImportError):
        return f"{error}: is the package coincurve installed?"
    with suppress(OSError):
        if path.is_symlink():
            return "it is a link, and links to a secret are not followed"
    return error.strerror or type(error).__name__


@contextmanager
def content_of(path: Path) -> Iterator[memoryview]:
    """What is in the file, wiped at the end. Raises OSError, or Malformed for anything but a file.

    Links are not followed, and no more is read than one byte over the largest valid size.
    """
    content = bytearray(_MAX_SIZE + 1)
    try:
        yield memoryview(content)[: _read(path, content)]
    finally:
        content[:] = bytes(len(content))


def _read(path: Path, content: bytearray) -> int:
    # Without O_NONBLOCK a FIFO of that name would hang this call.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Malformed("it is not a file")
        length = 0
        while length < len(content) and (read := os.preadv(descriptor, [memoryview(content)[length:]], length)):
            length += read
        return length
    finally:
        os.close(descriptor)


def is_hsm_secret(path: Path) -> bool:
    """Whether this file has one of the forms of hsm_secret; False if it cannot be read."""
    with suppress(OSError, Malformed, ImportError), content_of(path) as content:
        form_of(content)
        return True
    return False


def _node_made_by(content: memoryview, expected: str | None) -> str | None:
    """The id of the node that this secret makes; None when that takes a passphrase. Raises Malformed."""
    match form_of(content, expected):
        case Form.PLAIN:
            return _node_id(content)
        case Form.MNEMONIC:
            return _node_of_words(content[SECRET_SIZE:])
        case Form.ENCRYPTED | Form.MNEMONIC_WITH_PASSPHRASE:
            return None


def form_of(content: memoryview, expected: str | None = None) -> Form:
    """How this content holds the secret. Raises Malformed, or ImportError when coincurve is missing.

    `expected` is a node's id, and only helps to say what is wrong with a file that lightningd would not accept.
    """
    if len(content) > _MAX_SIZE:
        raise Malformed(f"it has more than {_MAX_SIZE} bytes, more than any valid hsm_secret")
    _refuse_other_forms(content, expected)
    if not content:
        raise Malformed("it is empty")
    if len(content) < SECRET_SIZE:
        raise Malformed(f"it has only {len(content)} bytes, and a valid hsm_secret has at least {SECRET_SIZE}")
    if len(content) == SECRET_SIZE:
        return Form.PLAIN
    if len(content) == _ENCRYPTED:
        return Form.ENCRYPTED
    has_passphrase, words = any(content[:SECRET_SIZE]), content[SECRET_SIZE:]
    if _WORDS.fullmatch(words) is None:
        raise Malformed(_what_is_wrong_with(words, has_passphrase, expected))
    return Form.MNEMONIC_WITH_PASSPHRASE if has_passphrase else Form.MNEMONIC


def _refuse_other_forms(content: memoryview, expected: str | None) -> None:
    """Raise Malformed for a secret that is written as people keep it on paper, and not as lightningd reads it.

    To lightningd, a file of hexadecimal digits looks like a mnemonic with a passphrase.
    """
    text = bytes(content).strip()
    if len(content) > SECRET_SIZE and re.fullmatch(rb"[0-9a-fA-F]{64}", text):
        whose = _whose(_node_id(bytes.fromhex(text.decode())), expected)
        raise Malformed(
            f"it holds the secret ({whose}) as text, in hexadecimal digits: xxd -r -p makes the file from it"
        )
    if re.fullmatch(rb"cl1[02-9ac-hj-np-z]{40,}", text):
        raise Malformed(
            "it holds the secret as a codex32 text, which lightningd accepts with --recover, not as this file"
        )
    if words := _as_words(content):
        whose = _whose(_node_of_words(words), expected)
        raise Malformed(
            f"it holds only the words ({whose}, if they have no passphrase): lightning-hsmtool "
            "generatehsm makes the file from them"
        )


def _what_is_wrong_with(words: memoryview, has_passphrase: bool, expected: str | None) -> str:
    sane = _as_words(words)
    if sane is None:
        return "it has none of lightningd's forms"
    whose = "" if has_passphrase else f" ({_whose(_node_of_words(sane), expected)})"
    return (
        f"its words{whose} are not written as lightningd expects them, in lower case, with single spaces and no "
        "line end: lightning-hsmtool generatehsm makes the file from them"
    )


def _as_words(text: memoryview) -> bytes | None:
    """The mnemonic as lightningd expects it; None if `text` is not a mnemonic."""
    sane = b" ".join(bytes(text).lower().split())
    return sane if _WORDS.fullmatch(sane) else None


def _whose(made: str, expected: str | None) -> str:
    if expected is None:
        return f"of the node {made}"
    return "of this node" if made == expected else f"of another node, {made}"


def _node_of_words(words: memoryview | bytes) -> str:
    return _node_id(seed_of_words(words)[:SECRET_SIZE])


def seed_of_words(words: memoryview | bytes, passphrase: bytes = b"") -> bytes:
    """The BIP-39 seed of a mnemonic, 64 bytes.

    Contrary to BIP-39, neither is normalized (NFKD): `bip39_mnemonic_to_seed` of libwally-core, which lightningd calls,
    takes the bytes as they were typed.
    """
    return hashlib.pbkdf2_hmac("sha512", words, b"mnemonic" + passphrase, 2048)


def node_of_seed(seed: bytes) -> str:
    """The id of the node with this secret, as `read_seed` gives it (hex). Raises ImportError without coincurve."""
    return _node_id(seed[:SECRET_SIZE])


def _node_id(secret: memoryview | bytes) -> str:
    from coincurve import PublicKey  # slow to import, and only needed here

    for salt in range(_SALTS):
        extracted = hmac.digest(salt.to_bytes(4, "little"), bytes(secret), "sha256")
        with suppress(ValueError):
            return PublicKey.from_valid_secret(hmac.digest(extracted, b"nodeid\x01", "sha256")).format().hex()
    raise AssertionError
