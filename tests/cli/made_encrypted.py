"""A node with a known hsm_secret and an encrypted backup, and what must not be readable in it."""

from collections.abc import Iterator
from pathlib import Path

from backends.log.format.keys import KEYS, KeysDocument, ScryptCost
from backends.node.key_file import KEY_FILE
from tests.end_to_end.world import Said, World, backup_cli
from tests.known_secret import SECRET

CHEAP = ScryptCost(n=1 << 14)
"""The cheapest passphrase slot that a reader accepts."""

PASSPHRASE = "correct horse battery staple"

_BLOCK = 64
"""Bytes of a block that is looked for. Shorter ones (zeros, ASCII digits) could be there by chance."""


def with_secret(world: World) -> World:
    """The node has its hsm_secret."""
    secret = world.directory / "hsm_secret"
    if not secret.exists():
        secret.write_bytes(SECRET)
        secret.chmod(0o400)
    return world


def passphrase_file(world: World, text: str = PASSPHRASE) -> Path:
    """A file with a passphrase, outside the node's directory."""
    path = world.root / "passphrase.txt"
    path.write_text(f"{text}\n")
    return path


def init_encrypted(world: World, *options: object) -> Said:
    """Run `backup-cli init --encrypt` for this node and its destination."""
    return backup_cli("init", "--encrypt", *options, "--lightning-dir", world.directory, world.url)


def slots_of(place: Path) -> KeysDocument:
    """The key slots in a backup's directory."""
    return KeysDocument.decode((place / KEYS).read_bytes())


def kinds(place: Path) -> list[str]:
    """The kinds of the key slots in a backup's directory, in order."""
    return [slot.kind for slot in slots_of(place).slots]


def lose_key(world: World) -> None:
    """The file backup.key is gone."""
    (world.directory / KEY_FILE).unlink()


def blocks(database: Path) -> Iterator[bytes]:
    """Blocks of a database file that tell something: those that are not nearly all one byte."""
    data = database.read_bytes()
    for start in range(0, len(data) - _BLOCK, _BLOCK):
        block = data[start : start + _BLOCK]
        if len(set(block)) > 12:
            yield block


def assert_nothing_readable(place: Path, world: World, *words: bytes) -> None:
    """No block of the node's database, and none of these words, is in any file at the destination, nor a plain frame
    of zstd."""
    wanted = set(blocks(world.database))
    assert wanted
    for path in sorted(place.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        for word in (b"SQLite format", b"UPDATE vars", b"\x28\xb5\x2f\xfd", world.directory.name.encode(), *words):
            assert word not in data, (path.name, word)
        assert not any(block in data for block in wanted), path.name
