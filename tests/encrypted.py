"""Backups that are encrypted although the test does not say so: what holds for plain ones holds for them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
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


_create = Backup.create


@contextmanager
def plain_unless_told() -> Iterator[None]:
    """`Backup.create` does as it is told, until the end of this context: for a test that says itself what it wants."""
    before, Backup.create = Backup.create, _create  # type: ignore[method-assign]
    try:
        yield
    finally:
        Backup.create = before  # type: ignore[method-assign]


@contextmanager
def encrypted_by_default() -> Iterator[None]:
    """`Backup.create` encrypts unless it is told how, until the end of this context."""
    create = Backup.create

    def encrypting(self: Backup, source: SnapshotSource, encrypt: StoreSlots | None = None) -> Position:
        return create(self, source, encrypt or no_slots)

    Backup.create = encrypting  # type: ignore[method-assign]
    try:
        yield
    finally:
        Backup.create = create  # type: ignore[method-assign]


@contextmanager
def encrypted_for_node(directory: Path) -> Iterator[None]:
    """`Backup.create` encrypts unless it is told how, until the end of this context, and the node in `directory` has
    all that its plugin needs: the key, in `backup.key`, and the `hsm_secret` that the backup has a key slot for."""
    (directory / "hsm_secret").write_bytes(SECRET)
    create = Backup.create

    def encrypting(self: Backup, source: SnapshotSource, encrypt: StoreSlots | None = None) -> Position:
        def store(key: DataKey) -> None:
            publish_keys(self.storage, new_keys(key, hsm_derived=derived_secret(SECRET, MAKESECRET_INFO)))
            write_key(directory, key)

        return create(self, source, encrypt or store)

    Backup.create = encrypting  # type: ignore[method-assign]
    try:
        yield
    finally:
        Backup.create = create  # type: ignore[method-assign]
