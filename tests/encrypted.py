"""Backups that are encrypted although the test does not say so: what holds for plain ones holds for them."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from backends.base import Position, SnapshotSource
from backends.keyring import DataKey
from backends.log.backup import Backup, StoreSlots
from backends.log.key_slots import MAKESECRET_INFO, new_keys, publish_keys
from backends.node.hsm_seed import derived_secret
from backends.node.key_file import write_key
from tests.known_secret import SECRET

EVERYTHING = os.environ.get("LIGHTNINGD_BACKUP_ENCRYPTED", "0") != "0"
"""Whether every backup that a test makes in its own process is encrypted (`make encrypted`)."""


def no_slots(key: DataKey) -> None:
    """Leave no key slot in the backup: its key is in this process, and that is enough for a test."""


_Create = Callable[[Backup, SnapshotSource, StoreSlots | None], Position]
_create: _Create = Backup.create


@contextmanager
def _creating(create: _Create) -> Iterator[None]:
    """This is what `Backup.create` does, until the end of this context."""

    def created(self: Backup, source: SnapshotSource, encrypt: StoreSlots | None = None) -> Position:
        return create(self, source, encrypt)

    before, Backup.create = Backup.create, created  # type: ignore[method-assign]
    try:
        yield
    finally:
        Backup.create = before  # type: ignore[method-assign]


def _encrypting(store_in: Callable[[Backup], StoreSlots]) -> AbstractContextManager[None]:
    """`Backup.create` encrypts unless it is told how, and leaves the slots that the result of `store_in` stores."""
    create: _Create = Backup.create
    return _creating(lambda backup, source, encrypt: create(backup, source, encrypt or store_in(backup)))


def plain_unless_told() -> AbstractContextManager[None]:
    """`Backup.create` does as it is told, until the end of this context: for a test that says itself what it wants."""
    return _creating(_create)


def encrypted_by_default() -> AbstractContextManager[None]:
    """`Backup.create` encrypts unless it is told how, until the end of this context."""
    return _encrypting(lambda backup: no_slots)


def encrypted_for_node(directory: Path) -> AbstractContextManager[None]:
    """`Backup.create` encrypts unless it is told how, until the end of this context, and the node in `directory` has
    all that its plugin needs: the key, in `backup.key`, and the `hsm_secret` that the backup has a key slot for."""
    (directory / "hsm_secret").write_bytes(SECRET)

    def store_in(backup: Backup) -> StoreSlots:
        def store(key: DataKey) -> None:
            publish_keys(backup.storage, new_keys(key, hsm_derived=derived_secret(SECRET, MAKESECRET_INFO)))
            write_key(directory, key)

        return store

    return _encrypting(store_in)
