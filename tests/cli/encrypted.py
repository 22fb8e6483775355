"""A node whose backup is encrypted, with a key slot for its hsm_secret and one for a passphrase."""

from pathlib import Path

from backends import backup_at, keyring
from backends.keyring import DataKey
from backends.log.format.keys import ScryptCost
from backends.log.key_slots import MAKESECRET_INFO, new_keys, publish_keys
from backends.node.hand_over import hand_over
from backends.node.hsm_seed import derived_secret
from backends.node.key_file import KEY_FILE, write_key
from backends.sqlite.copy import consistent_copy
from tests.end_to_end.world import Said, World, backup_cli
from tests.known_secret import SECRET, known_database

PASSPHRASE = b"correct horse battery"

COST = ScryptCost(n=1 << 14)
"""The cheapest that a reader accepts: a hundredth of a second."""

OTHER_SECRET = bytes(range(1, 33))
"""Another node's."""


class Safe:
    """What an operator keeps apart from the node: copies of the files that open the backup."""

    def __init__(self, world: World, key: DataKey) -> None:
        self.directory = world.root / "safe"
        self.directory.mkdir()
        self.key = key
        self.hsm_secret = self._file("hsm_secret", SECRET)
        self.other_secret = self._file("other_secret", OTHER_SECRET)
        self.passphrase = self._file("passphrase", PASSPHRASE + b"\n")
        self.wrong_passphrase = self._file("wrong", b"wrong horse battery\n")
        self.key_file = self._file(KEY_FILE, (world.directory / KEY_FILE).read_bytes())

    def _file(self, name: str, data: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(data)
        return path


def encrypt(world: World, *, hsm: bool = True, passphrase: bool = True) -> Safe:
    """Make an encrypted backup of this node, whose hsm_secret is SECRET as it is."""
    world.database.write_bytes(known_database())
    (world.directory / "hsm_secret").write_bytes(SECRET)
    (world.directory / "hsm_secret").chmod(0o400)
    backup = backup_at(world.url)
    made: list[DataKey] = []

    def store(key: DataKey) -> None:
        made.append(key)
        derived = derived_secret(SECRET, MAKESECRET_INFO) if hsm else None
        slots = new_keys(key, hsm_derived=derived, passphrase=PASSPHRASE if passphrase else None, cost=COST)
        publish_keys(backup.storage, slots)
        write_key(world.directory, key)

    with consistent_copy(world.database, world.directory, writable=False) as source:
        position = backup.create(source, encrypt=store)
    hand_over(world.directory, world.url, backup.id(), position)
    keyring.forget()
    return Safe(world, made[0])


def lost(world: World) -> Path:
    """The node's machine is gone; an empty place to restore to."""
    world.directory.rename(world.root / "lost")
    place = world.root / "new" / "regtest"
    place.mkdir(parents=True)
    return place


def cli(*arguments: object) -> Said:
    """Run a command, which knows no key from before."""
    keyring.forget()
    return backup_cli(*arguments)
