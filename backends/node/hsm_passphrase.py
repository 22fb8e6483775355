"""The secret in an `hsm_secret` of 73 bytes, which lightningd encrypted with a passphrase.

How the file is made: `encrypt_legacy_hsm_secret` and `get_encryption_key` in lightningd's common/hsm_secret.c
(common/hsm_encryption.c before v25.12). The key is argon2id of the passphrase, by libsodium's `crypto_pwhash` with the
salt "c-lightning" and five zero bytes and the limits MODERATE: version 1.3, 3 passes, 256 MiB, one lane. The passphrase
is the bytes that were typed, without the line end; nothing is normalized. The 73 bytes are one message of libsodium's
`crypto_secretstream_xchacha20poly1305` without associated data: a random header of 24 bytes, a tag of 1 byte, the
32 bytes of the secret, and a Poly1305 of 16 bytes.

The package `cryptography` has ChaCha20, Poly1305 and argon2id, but neither HChaCha20 nor the secretstream. They are
written here from their descriptions: draft-irtf-cfrg-xchacha-03, section 2.2, and "Encrypted streams" in libsodium's
documentation. The tests check them against files that libsodium made.

Everything of `cryptography` is imported where it is used: a start must be quick.
"""

import struct

from backends.errors import BackupError

_SALT = b"c-lightning".ljust(16, b"\0")
_PASSES = 3
_MEMORY = 256 * 1024
"""Of argon2id, in KiB."""

_KEY = 32
_HEADER = 24
_TAG = 1
_MAC = 16
_BLOCK = 64
"""Of ChaCha20, in bytes."""

_CONSTANTS = b"expand 32-byte k"
"""The first 16 bytes of ChaCha20's state."""


def secret_in(content: memoryview | bytes, passphrase: bytes) -> bytes | None:
    """The secret in the 73 bytes of an encrypted `hsm_secret`.

    None if the passphrase does not open them. Whether it is wrong or the file is damaged cannot be told then.
    Takes 256 MiB of memory and a second or more. Raises BackupError if this machine cannot do it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return _message_in(content, _key_of(passphrase))
    except ImportError:
        raise BackupError(
            "this hsm_secret is encrypted with a passphrase, by argon2id. The Python package cryptography has that "
            f"from release 44 on, and an older one is installed. {_UPGRADE}"
        ) from None
    except UnsupportedAlgorithm:
        raise BackupError(
            "this hsm_secret is encrypted with a passphrase, by argon2id. The OpenSSL that the Python package "
            "cryptography uses here has no argon2id, or does not allow it. OpenSSL has it from 3.2 on, and the package "
            f"from PyPI brings its own OpenSSL. {_UPGRADE}"
        ) from None
    except MemoryError:
        raise BackupError(
            f"opening an hsm_secret with its passphrase takes {_MEMORY >> 10} MiB of memory, and that is not free "
            "here. The file is untouched. Stop something else on this machine, or do this on a larger one"
        ) from None


_UPGRADE = (
    "The file is untouched. Upgrade in this Python environment: pip install --upgrade pyln-client 'cryptography>=44'"
)


def _key_of(passphrase: bytes) -> bytes:
    """The key that lightningd makes from a passphrase."""
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    kdf = Argon2id(salt=_SALT, length=_KEY, iterations=_PASSES, lanes=1, memory_cost=_MEMORY)
    return kdf.derive(passphrase)


def _message_in(content: memoryview | bytes, key: bytes) -> bytes | None:
    """The first message of a secretstream that begins with its header; None if it is not authentic.

    The key is HChaCha20 of `key` and the header's first 16 bytes, the nonce a counter that begins with 1 and the
    header's last 8 bytes. Of the key stream, block 0 gives the key of the Poly1305, block 1 encrypts the tag, and
    block 2 and what follows the message. The Poly1305 is that of the encrypted tag in a whole block, the rest of which
    is encrypted zeros, the encrypted message, and the lengths of the associated data and of the block and the message.
    The padding between them is empty for a message of 32 bytes. lightningd ignores the tag.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.poly1305 import Poly1305

    header, tag = bytes(content[:_HEADER]), bytes(content[_HEADER : _HEADER + _TAG])
    message, mac = bytes(content[_HEADER + _TAG : -_MAC]), bytes(content[-_MAC:])
    stream = _key_stream(
        _hchacha20(key, header[:16]), struct.pack("<II", 0, 1) + header[16:], 2 * _BLOCK + len(message)
    )
    block = tag + stream[_BLOCK + _TAG : 2 * _BLOCK]
    try:
        lengths = struct.pack("<QQ", 0, len(block) + len(message))
        Poly1305.verify_tag(stream[:_KEY], block + message + lengths, mac)
    except InvalidSignature:
        return None
    return bytes(a ^ b for a, b in zip(message, stream[2 * _BLOCK :], strict=True))


def _hchacha20(key: bytes, nonce: bytes) -> bytes:
    """HChaCha20 of a key of 32 and a nonce of 16 bytes: words 0 to 3 and 12 to 15 of ChaCha20's state after its rounds.

    A block of ChaCha20's key stream is that state plus the state before the rounds, which is known.
    """
    block = _key_stream(key, nonce, _BLOCK)
    return _minus(block[:16], _CONSTANTS) + _minus(block[-16:], nonce)


def _minus(a: bytes, b: bytes) -> bytes:
    """The differences of four little-endian words each, modulo 2^32."""
    pairs = zip(struct.unpack("<4I", a), struct.unpack("<4I", b), strict=True)
    return struct.pack("<4I", *((one - other) & 0xFFFFFFFF for one, other in pairs))


def _key_stream(key: bytes, nonce: bytes, size: int) -> bytes:
    """ChaCha20's key stream. The nonce of 16 bytes begins with the number of the first block (4 bytes)."""
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    return Cipher(ChaCha20(key, nonce), mode=None).encryptor().update(bytes(size))
