"""The data keys that this process knows. Whatever is encrypted names its key, so no key has to be passed along with it.

A key is found by its public name, which is stored beside everything that the key encrypts. Keys come from the node's
`backup.key` or from a key slot of the backup (`backends/log/key_slots.py`), and reach a child process through a pipe.
They are never written to a command line, the environment, a log or a message.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

KEY_SIZE = 32
"""Bytes of a data key."""

NAME_SIZE = 8
"""Bytes of a key's public name."""


@dataclass(frozen=True, slots=True)
class DataKey:
    """The key with which a backup is encrypted."""

    backup_id: bytes
    secret: bytes = field(repr=False)
    id: str = field(init=False)
    """The key's public name, in hex: it tells keys apart and says nothing about the secret."""

    def __post_init__(self) -> None:
        name = derived(self.secret, self.backup_id, b"lightningd-backup key id", NAME_SIZE)
        object.__setattr__(self, "id", name.hex())

    @classmethod
    def new(cls, backup_id: bytes) -> "DataKey":
        """A random key for the backup with this id."""
        return cls(backup_id, secrets.token_bytes(KEY_SIZE))


def derived(secret: bytes, salt: bytes, purpose: bytes, size: int = KEY_SIZE) -> bytes:
    """HKDF-SHA256 (RFC 5869) of a secret: `size` bytes for this purpose (the "info")."""
    # Imported here and not above: without encryption nothing of it is needed, and a start must be quick.
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), size, salt, purpose).derive(secret)


_known: dict[str, DataKey] = {}
_demanded: set[bytes] = set()


def add(key: DataKey, *, demanded: bool = False) -> None:
    """Make this key known. `demanded`: the node's own side says that this backup is encrypted, so that a manifest that
    says otherwise was put there by somebody else."""
    _known[key.id] = key
    if demanded:
        _demanded.add(key.backup_id)


def find(key_id: str) -> DataKey | None:
    """The key with this public name; None if it is not known."""
    return _known.get(key_id)


def demanded(backup_id: bytes) -> bool:
    """Whether the backup with this id must be encrypted."""
    return backup_id in _demanded


def init_command() -> str:
    """The command that makes a new backup in place of the one at hand: an encrypted one if that is encrypted, which
    this process has a key of then."""
    return "backup-cli init --encrypt" if _known else "backup-cli init"


def forget() -> None:
    """Forget every key."""
    _known.clear()
    _demanded.clear()


def export() -> list[list[str]]:
    """All that is known, as JSON can hold it: for the pipe to a child process, and for nothing else."""
    return [
        [key.backup_id.hex(), key.secret.hex(), "demanded" if key.backup_id in _demanded else ""]
        for key in _known.values()
    ]


def take(exported: Iterable[Iterable[str]]) -> None:
    """Make known what another process has exported."""
    for backup_id, secret, wanted in exported:
        add(DataKey(bytes.fromhex(backup_id), bytes.fromhex(secret)), demanded=bool(wanted))
