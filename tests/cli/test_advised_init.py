"""Where a new backup is advised in place of an encrypted one, it is an encrypted one."""

import shutil
from collections.abc import Callable

import pytest

from backends import backup_at
from backends.errors import Fenced
from backends.sqlite.copy import consistent_copy
from tests.cli.encrypted import cli, encrypt
from tests.end_to_end.world import World
from tests.fake_lightningd import Refused
from tests.fake_lightningd.calls import History
from tests.log.histories import silent


@pytest.fixture(params=[True, False], ids=["encrypted", "plain"])
def encrypted(request: pytest.FixtureRequest, world: World, history: History) -> bool:
    """Whether the node, which has a database and a backup, has an encrypted one."""
    if request.param:
        encrypt(world)
    else:
        world.init()
        world.run([history.first(), *history.notes(2)])
    return bool(request.param)


def assert_advises(said: str, encrypted: bool) -> None:
    assert "backup-cli init" in said
    assert ("backup-cli init --encrypt" in said) == encrypted, said


def replace_by_another(world: World) -> None:
    """Where the node's backup was, there is another one of the same database."""
    shutil.rmtree(world.backup)
    with consistent_copy(world.database, world.directory, writable=False) as source:
        backup_at(world.url).create(source)


def test_after_a_restore_without_resume(world: World, encrypted: bool) -> None:
    key = ("--key-file", world.directory / "backup.key") if encrypted else ()
    said = cli("restore", *key, world.url, world.root / "restored.sqlite3")
    assert said.code == 0, said
    assert_advises(said.err, encrypted)


def _resync(world: World) -> str:
    return cli("resync", "--lightning-dir", world.directory).err


def _check_config(world: World) -> str:
    said = cli("check-config", "--lightning-dir", world.directory)
    return next(line for line in said.out.splitlines() if "expects another one" in line)


def _start(world: World) -> str:
    node = world.node()
    node.start()
    with pytest.raises(Refused) as refused:
        node.ask(History(world.version).note())
    return str(refused.value)


@pytest.mark.parametrize("command", [_resync, _start, _check_config])
def test_when_another_backup_is_in_its_place(world: World, encrypted: bool, command: Callable[[World], str]) -> None:
    replace_by_another(world)
    assert_advises(command(world), encrypted)


def test_when_nothing_says_which_backup_it_is(world: World, encrypted: bool) -> None:
    (world.backup / "manifest").write_bytes(b"rubbish")
    said = _resync(world)
    assert_advises(said, encrypted)
    assert f"init --encrypt {world.url}" in said if encrypted else f"init {world.url}" in said


def test_when_the_running_node_finds_its_backup_gone(world: World, encrypted: bool) -> None:
    if encrypted:
        cli("status", "--lightning-dir", world.directory)  # which makes the key known
    writer = backup_at(world.url).open(silent, "one")
    (world.backup / "session").write_bytes(b"rubbish")
    with pytest.raises(Fenced) as fenced:
        writer.check_not_fenced()
    assert_advises(str(fenced.value), encrypted)
