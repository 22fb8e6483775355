"""A node whose backup is encrypted. The commands that make and restore one are tested elsewhere: here both are done in
this process, which knows the key."""

from contextlib import ExitStack
from pathlib import Path

from backends import backup_at, keyring
from backends.keyring import DataKey
from backends.log.backup import Backup
from backends.log.key_slots import MAKESECRET_INFO, new_keys, open_with_hsm, publish_keys, read_keys
from backends.node.hand_over import hand_over
from backends.node.hsm_seed import derived_secret
from backends.node.key_file import KEY_FILE, write_key
from backends.sqlite.copy import consistent_copy, nothing
from backends.sqlite.rebuild import rebuild
from tests.end_to_end.prepared import copy_into
from tests.end_to_end.world import World
from tests.fake_lightningd import History
from tests.known_secret import SECRET

HSM_DERIVED = derived_secret(SECRET, MAKESECRET_INFO)
"""What opens the hsm slot of the node in an `EncryptedWorld`."""

HSM_SECRET = "hsm_secret"


class EncryptedWorld(World):
    """One node and its encrypted backup."""

    key: DataKey

    @property
    def key_file(self) -> Path:
        return self.directory / KEY_FILE

    @property
    def key_options(self) -> tuple[object, ...]:
        """What a command that is given only the URL needs besides, once the backup is encrypted."""
        return ("--key-file", self.key_file) if self.log.look().manifest.key else ()

    @property
    def log(self) -> Backup:
        """The backup, not opened."""
        return backup_at(self.url)

    def init(self, *, slot: bool = True, pending: bool = False) -> "EncryptedWorld":
        """Make the backup. Without `slot` it has none yet, as before the node's first start."""
        backup = self.log
        if not (self.directory / HSM_SECRET).exists():
            (self.directory / HSM_SECRET).write_bytes(SECRET)

        def store(key: DataKey) -> None:
            self.key = key
            publish_keys(backup.storage, new_keys(key, hsm_derived=HSM_DERIVED if slot else None))
            write_key(self.directory, key, pending=pending)

        with ExitStack() as stack:
            source = nothing()
            if self.database.exists():
                source = stack.enter_context(consistent_copy(self.database, self.directory, writable=False))
            position = backup.create(source, encrypt=store)
        hand_over(self.directory, self.url, backup.id(), position)
        return self

    def restore(self) -> Path:
        """Restore to a new place, with the key from the key slot for hsm_secret."""
        keyring.forget()
        key = open_with_hsm(read_keys(self.log.storage), HSM_DERIVED)
        assert key == self.key
        keyring.add(key, demanded=True)
        self.restores += 1
        target = self.root / f"restored-{self.restores}.sqlite3"
        with self.log.read() as reader:
            rebuild(reader, target, durable=False)
        return target


def lived_as(once: EncryptedWorld, world: EncryptedWorld, history: History) -> EncryptedWorld:
    """Make `world` the node that has lived `once`, whose key this process knows then."""
    history.version, world.key = once.version, once.key
    keyring.add(world.key)
    copy_into(once, world)
    return world
