"""`restore --resume` of an encrypted backup, killed (-9) around its writing of backup.key and backup.lock.

The node has another encrypted backup until then: with that, or after the command is repeated, it goes on.
"""

import shutil
from pathlib import Path

import pytest

from backends import keyring
from backends.node import hand_over as handing_over
from backends.node import key_file
from backends.node.key_file import KEY_FILE, read_key, read_key_file
from backends.node.lockfile import LOCK_FILE, read_settings
from backup_cli.commands import restore as restoring
from backup_cli.restore_members import Source
from backup_cli.restore_place import Unfinished
from tests.cli.encrypted import cli
from tests.cli.made_encrypted import init_encrypted, slots_of, with_secret
from tests.cli.several import dying, killed
from tests.end_to_end.db_compare import everything
from tests.end_to_end.world import World, said_at
from tests.fake_lightningd import History

STEPS = {
    "before the key": (restoring, "write_key", 1),
    "before the earlier key is kept": (key_file, "replace_file", 1),
    "before the key replaces the earlier one": (key_file, "replace_file", 2),
    "before the earlier database is moved": (restoring, "move_aside", 1),
    "before the database gets its name": (Unfinished, "publish", 1),
    "before the earlier lock is kept": (restoring, "set_old_lock_aside", 1),
    "before anything is recorded": (Source, "hand_over", 1),
    "before the lock": (handing_over, "write_settings", 1),
}


@pytest.fixture
def other(world: World, history: History) -> Path:
    """Another encrypted backup of the same node, which holds the same as the node's own one."""
    world.run_without_plugin([history.first(), *history.notes(3)])
    assert init_encrypted(with_secret(world)).code == 0
    own, world.backup = world.backup, world.backup.with_name("other.bkp")
    shutil.copytree(world.directory, world.root / "kept-node")
    keyring.forget()
    assert init_encrypted(world).code == 0
    shutil.rmtree(world.directory)
    (world.root / "kept-node").rename(world.directory)
    theirs, world.backup = world.backup, own
    return theirs


def key_id_here(directory: Path) -> str | None:
    found = read_key(directory)
    return None if found is None else found.key.id


def kill(monkeypatch: pytest.MonkeyPatch, step: str, *words: object) -> None:
    owner, name, at = STEPS[step]
    real = getattr(owner, name)
    monkeypatch.setattr(owner, name, dying(real, at))
    assert killed(lambda: cli("restore", "--resume", *words)), step
    monkeypatch.setattr(owner, name, real)
    keyring.forget()


def assert_goes_on(world: World) -> None:
    keyring.forget()
    node = world.run(History(world.version).notes(1))
    assert said_at(node, "broken") == []


@pytest.mark.parametrize("step", STEPS)
def test_killed_restore_leaves_the_earlier_backup_usable_and_finishes_when_repeated(
    world: World, other: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before, own_id = everything(world.database), slots_of(world.backup).key_id
    other_id = slots_of(other).key_id
    words = ["--replace", other.as_uri(), world.directory]
    kill(monkeypatch, step, *words)
    keys = [path for path in world.directory.glob(f"{KEY_FILE}*") if path.suffix != ".tmp"]
    assert own_id in [read_key_file(path).id for path in keys], "the earlier key is never lost"
    assert read_settings(world.directory).url == world.url, "backup.lock comes last"
    kept = world.root.with_name(world.root.name + "-kept")
    shutil.copytree(world.root, kept)
    if not world.database.exists():  # killed between the earlier file's move and the new one's
        said = cli("restore", "--resume", world.url, world.directory)
        assert said.code == 0, said
        assert everything(world.database) == before
    assert_goes_on(world)
    shutil.rmtree(world.root)
    kept.rename(world.root)
    said = cli("restore", "--resume", *words)
    assert said.code == 0, said
    assert everything(world.database) == before
    assert (key_id_here(world.directory), read_settings(world.directory).url) == (other_id, other.as_uri())
    assert (world.directory / KEY_FILE).stat().st_mode & 0o777 == 0o400


@pytest.mark.parametrize("step", [step for step in STEPS if "earlier" not in step])
def test_killed_restore_to_an_empty_place_finishes_when_repeated(
    world: World, other: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = everything(world.database)
    safe = shutil.copy(world.directory / "hsm_secret", world.root / "safe")
    world.directory.rename(world.root / "lost")
    place = world.root / "new" / "regtest"
    place.mkdir(parents=True)
    words = [other.as_uri(), place, "--hsm-secret", safe]
    kill(monkeypatch, step, *words)
    # Nobody could tell that a database without backup.lock was restored, and from which backup.
    assert (place / LOCK_FILE).exists() or not (place / "lightningd.sqlite3").exists()
    again = ["--replace"] if (place / "lightningd.sqlite3").exists() else []
    said = cli("restore", "--resume", *again, *words)
    assert said.code == 0, said
    assert everything(place / "lightningd.sqlite3") == before
    assert key_id_here(place) == slots_of(other).key_id
    assert [path.name for path in place.glob(f"{KEY_FILE}*")] == [KEY_FILE]
    world.directory = place
    assert_goes_on(world)
