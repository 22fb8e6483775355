"""Encryption: what the stored bytes of a record and the private fields of a text file look like under a data key.

No nonce is used twice under one key, because no key is used twice: each compression stream and each text file has its
own, derived from the data key and 32 random bytes, and within a stream the nonces count. A record that is written again
after a torn end, a restart or a compaction is part of another stream. docs/format.md says the same in words.
"""

import base64
import json
import secrets
import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from backends import keyring
from backends.errors import KeyNeeded
from backends.keyring import DataKey, derived
from backends.log.format.records import FileHeader, Flag, RecordHeader, header_fields

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SALT = 32
"""Bytes that begin a compression stream, and a text file's private part: random, and never used again."""

TAG = 16
"""Bytes by which a chunk grows when it is encrypted."""

CHUNK = 1 << 20
"""The most bytes that are encrypted in one piece: a large record must never be in memory as a whole to be checked."""

FINGERPRINT = 4
"""Bytes before the statements of an encrypted change: the fingerprint of the node's database (`backends.change`). In a
plain change it is in the header, where everybody could see it."""

_ABOUT_FILE = struct.Struct("<16sHQ")  # backup id, file kind, file number: then the fields of the record's header


class Tampered(Exception):
    """What was read is not what the holder of the key has written there, or belongs elsewhere."""


def known_key(key_id: str, what: str = "the backup") -> DataKey:
    """The key with this public name. Raises KeyNeeded if this process does not know it."""
    key = keyring.find(key_id)
    if key is None:
        raise KeyNeeded(
            f"{what} is encrypted, and its key ({key_id}) is not here. Nothing was changed, and nothing is lost as "
            "long as the node's hsm_secret or a passphrase of this backup is kept. Name what opens it: --hsm-secret "
            "FILE, --passphrase-file FILE or --key-file FILE (the node's backup.key)",
            clause="the backup is encrypted, and its key is not here",
        )
    return key


def stored_size(length: int, begins_stream: bool) -> int:
    """The stored bytes of a record's payload that has `length` bytes before it is encrypted."""
    if length <= CHUNK and not begins_stream:  # nearly every record
        return length + TAG
    chunks = 1 if length <= CHUNK else -(-length // CHUNK)
    return length + chunks * TAG + (SALT if begins_stream else 0)


def chunks_in(header: RecordHeader) -> int:
    """How many chunks the payload of this encrypted record has."""
    length = header.length - (SALT if header.flags & Flag.FRAME else 0)
    return max(1, -(-length // (CHUNK + TAG)))


class _Stream:
    """The keys and nonces of the compression streams in one file."""

    def __init__(self, key: DataKey, file: FileHeader) -> None:
        self._key = key
        self._about = _ABOUT_FILE.pack(file.backup_id, file.kind, file.number)
        self._aead: AESGCM | None = None
        self._chunk = 0

    def _begin(self, salt: bytes) -> None:
        self._aead = _aead(derived(self._key.secret, salt, b"lightningd-backup stream"))
        self._chunk = 0

    def _next_nonce(self) -> bytes:
        nonce = self._chunk.to_bytes(12, "little")
        self._chunk += 1
        return nonce

    def _associated(self, header: RecordHeader) -> bytes:
        return self._about + header_fields(header)


class Sealer(_Stream):
    """Encrypts what one file's records carry, in order."""

    def seal(self, fields: bytes, payload: bytes, begins_stream: bool) -> bytes:
        """The stored bytes of this payload. `fields` are the header's (see `header_fields`), with its final length."""
        aead = self._aead
        if not begins_stream and len(payload) <= CHUNK and aead is not None:  # nearly every record
            nonce = self._chunk.to_bytes(12, "little")
            self._chunk += 1
            return aead.encrypt(nonce, payload, self._about + fields)
        sealed: list[bytes] = []
        if begins_stream:
            salt = secrets.token_bytes(SALT)
            self._begin(salt)
            sealed.append(salt)
        aead, about = self._aead, self._about + fields
        assert aead is not None
        for start in range(0, len(payload) or 1, CHUNK):
            sealed.append(aead.encrypt(self._next_nonce(), payload[start : start + CHUNK], about))
        return b"".join(sealed)


class Opener(_Stream):
    """Decrypts the payloads of one file's records, which must all pass through it in order."""

    def open(self, header: RecordHeader, stored: bytes, *, begins_stream: bool) -> bytes:
        """The payload in these stored bytes. Raises Tampered."""
        aead = self._aead
        if not begins_stream and len(stored) <= CHUNK + TAG and aead is not None:
            # Nearly every record. A restore spends a tenth of its time here, so no method is called that need not be.
            nonce = self._chunk.to_bytes(12, "little")
            self._chunk += 1
            try:
                return aead.decrypt(nonce, stored, self._about + header_fields(header))
            except Exception as error:
                raise _as_tampered(error) from None
        return b"".join(self.pieces(header, (stored,), begins_stream=begins_stream))

    def pieces(self, header: RecordHeader, stored: Iterable[bytes], *, begins_stream: bool) -> Iterator[bytes]:
        """The payload in these stored bytes, piece by piece: each was checked before it is yielded. Raises Tampered."""
        blocks = _Blocks(stored)
        if begins_stream:
            self._begin(blocks.take(SALT))
        if self._aead is None:
            raise Tampered("the encrypted stream has no beginning")
        about = self._associated(header)
        while True:
            chunk = blocks.take(CHUNK + TAG)
            yield _decrypted(self._aead, self._next_nonce(), chunk, about)
            if blocks.at_end():
                return

    def chunk(self, header: RecordHeader, salt: bytes, number: int, stored: bytes) -> bytes:
        """What is in one chunk of a record: that with this number in the stream that begins with this salt.

        For a record by itself: the records before it need not be read. Raises Tampered.
        """
        self._begin(salt)
        self._chunk = number
        assert self._aead is not None
        return _decrypted(self._aead, self._next_nonce(), stored, self._associated(header))


class _Blocks:
    """Bytes that arrive in blocks of any size, taken out in pieces of another size."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks, self._rest = iter(blocks), bytearray()

    def _fill(self, length: int) -> None:
        while len(self._rest) < length and (block := next(self._blocks, None)) is not None:
            self._rest += block

    def take(self, length: int) -> bytes:
        """The next `length` bytes; fewer only at the end."""
        self._fill(length)
        taken = bytes(self._rest[:length])
        del self._rest[:length]
        return taken

    def at_end(self) -> bool:
        self._fill(1)
        return not self._rest


def _aead(key: bytes) -> "AESGCM":
    # Imported here and not above: without encryption it is not needed, and a start must be quick.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def _decrypted(aead: "AESGCM", nonce: bytes, chunk: bytes, about: bytes) -> bytes:
    try:
        return aead.decrypt(nonce, chunk, about)
    except Exception as error:
        raise _as_tampered(error) from None


def _as_tampered(error: Exception) -> Exception:
    """What an error while decrypting means."""
    from cryptography.exceptions import InvalidTag

    if isinstance(error, InvalidTag | ValueError):
        return Tampered("its bytes are not those that the holder of the key wrote there")
    return error


def seal_fields(key: DataKey, name: str, public: dict[str, Any], private: dict[str, Any]) -> str:
    """The private fields of the text file `name`, as a text that only the key's holder can read.

    The public fields are authenticated with them: whoever changes one of those makes the file unreadable.
    """
    salt = secrets.token_bytes(SALT)
    about = _about_document(key, name, public)
    sealed = _document_aead(key, salt).encrypt(bytes(12), json.dumps(private).encode(), about)
    return f"{key.id}:{base64.b64encode(salt + sealed).decode()}"


def sealed_with(text: str) -> str:
    """The public name of the key that opens this text."""
    return text.partition(":")[0]


def open_fields(key: DataKey, name: str, public: dict[str, Any], text: str) -> dict[str, Any]:
    """The inverse of `seal_fields`. Raises Tampered."""
    try:
        data = base64.b64decode(text.partition(":")[2], validate=True)
        opened = _decrypted(
            _document_aead(key, data[:SALT]), bytes(12), data[SALT:], _about_document(key, name, public)
        )
        private = json.loads(opened)
    except (ValueError, RecursionError) as error:
        raise Tampered(str(error)) from None
    if not isinstance(private, dict):
        raise Tampered("it holds no fields")
    return private


def _document_aead(key: DataKey, salt: bytes) -> "AESGCM":
    return _aead(derived(key.secret, salt, b"lightningd-backup text file"))


def _about_document(key: DataKey, name: str, public: dict[str, Any]) -> bytes:
    return key.backup_id + json.dumps([name, public], sort_keys=True).encode()
