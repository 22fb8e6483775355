"""Encryption that encrypts nothing, for records or for text files: what shows that a search for leaks finds any."""

from collections.abc import Callable

from backends.keyring import DataKey
from backends.log.format import encryption


class Bare:
    """In place of the cipher."""

    def encrypt(self, nonce: bytes, data: bytes, about: bytes) -> bytes:
        return data + bytes(encryption.TAG)

    def decrypt(self, nonce: bytes, data: bytes, about: bytes) -> bytes:
        return data[: -encryption.TAG]


def _begin(self: encryption._Stream, salt: bytes) -> None:
    self._aead, self._chunk = Bare(), 0  # type: ignore[assignment]


def _document_aead(key: DataKey, salt: bytes) -> Bare:
    return Bare()


STUBS: dict[str, tuple[object, str, Callable[..., object]]] = {
    "records": (encryption._Stream, "_begin", _begin),
    "text files": (encryption, "_document_aead", _document_aead),
}
"""For each, what is replaced by what."""


def stub(which: str) -> None:
    """Encrypt nothing of this kind in this process from now on."""
    setattr(*STUBS[which])
