"""`backup-cli import`: the older plugin's file becomes a backup that a node goes on with."""

from pathlib import Path

import pytest

from backup_cli.commands.import_ import import_
from backup_cli.main import cli
from tests.end_to_end.db_compare import differences
from tests.end_to_end.world import Said, World, backup_cli, snapshots_taken, tree
from tests.fake_lightningd import Call, History, read_recording
from tests.legacy.written import Written, written

cli.add_command(import_)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Where the older plugin's file lies."""
    (tmp_path / "old disk").mkdir()
    return tmp_path / "old disk" / "file.bkp"


def lived(world: World, count: int = 30) -> tuple[History, list[Call]]:
    """A node that ran without this plugin."""
    life = History()
    calls = [life.first(), *life.notes(count)]
    world.run_without_plugin(calls)
    return life, calls


def refused(world: World, code: int, *arguments: object) -> Said:
    """Nothing at the destination, nothing changed at the node."""
    before = tree(world.root)
    said = backup_cli("import", *arguments)
    assert said.code == code, said
    assert tree(world.root) == before
    return said


@pytest.mark.parametrize("as_url", [False, True])
def test_a_new_backup_is_made_of_it(world: World, old: Path, as_url: bool) -> None:
    world.run_without_plugin(read_recording(limit=300))
    file = written(read_recording(limit=300)).save(old)
    before = file.read_bytes()
    said = backup_cli("import", old.as_uri() if as_url else old, world.url)
    assert said.code == 0, said
    assert f"version {world.version}, imported from {old}" in said.out
    assert "it is the better source: stop the node and run backup-cli init URL" in said.text
    assert differences(world.restore(), world.database) == []
    assert file.read_bytes() == before
    assert not (world.directory / "backup.lock").exists()


def test_a_lost_node_comes_back_and_goes_on(world: World, old: Path) -> None:
    life, calls = lived(world)
    own = world.root / "own.sqlite3"
    world.database.rename(own)
    written(calls).starts_with(calls[-1]).save(old)
    said = backup_cli("import", old, world.url)
    assert said.code == 0
    assert "sent again" in said.text
    assert backup_cli("restore", "--resume", world.url, world.directory).code == 0
    assert differences(world.database, own) == []
    node = world.run(life.notes(5))
    assert snapshots_taken(node) == []
    world.assert_restored_equals_the_nodes()


def test_a_living_node_goes_on_with_it(world: World, old: Path) -> None:
    life, calls = lived(world)
    written(calls).save(old)
    (world.directory / "backup.lock").write_text('{"backend_url": "file:///old.bkp"}')
    said = backup_cli("import", "--lightning-dir", world.directory, old, world.url)
    assert said.code == 0, said
    assert "important-plugin=" in said.out
    assert "backup.lock is kept as backup.lock." in said.text
    node = world.run(life.notes(5))
    assert snapshots_taken(node) == [], "its database holds the same, and that was seen"
    world.assert_restored_equals_the_nodes()


def test_a_node_that_never_started_goes_on_with_it(world: World, old: Path) -> None:
    Written().save(old)
    said = backup_cli("import", "--lightning-dir", world.directory, old, world.url)
    assert said.code == 0, said
    assert "no database yet" in said.out
    life = History()
    world.run([life.first(), *life.notes(3)])
    world.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("lost", [1, -1, -5])
def test_a_database_at_another_version(world: World, old: Path, lost: int) -> None:
    life, calls = lived(world)
    written(calls[:-1] if lost > 0 else [*calls, *life.notes(-lost)]).save(old)
    said = refused(world, 1, "--lightning-dir", world.directory, old, world.url)
    assert "backup-cli init" in said.text
    assert "never start it" in said.text


def test_a_database_with_other_content(world: World, old: Path) -> None:
    _, calls = lived(world)
    other = History(calls[-2].data_version).note("another life")
    written([*calls[:-1], other]).save(old)
    said = refused(world, 1, "--lightning-dir", world.directory, old, world.url)
    assert "differ: table vars" in said.text
    assert "another life" not in said.text


def test_no_database_that_could_go_on(world: World, old: Path) -> None:
    _, calls = lived(world)
    world.database.unlink()
    written(calls).save(old)
    said = refused(world, 1, "--lightning-dir", world.directory, old, world.url)
    assert "restore --resume" in said.text


def test_a_damaged_file(world: World, old: Path) -> None:
    _, calls = lived(world)
    old.write_bytes(written(calls).data()[:-1])
    said = refused(world, 3, old, world.url)
    assert f"is {calls[-2].data_version}" in said.text
    assert "not the newest" in said.text


def test_a_tail_is_told(world: World, old: Path) -> None:
    _, calls = lived(world)
    written(calls).save(old, tail=b"\0" * 77)
    said = backup_cli("import", old, world.url)
    assert said.code == 0
    assert "the file's last 77 bytes" in said.text
    assert differences(world.restore(), world.database) == []


def test_nothing_is_overwritten(world: World, old: Path) -> None:
    _, calls = lived(world)
    written(calls).save(old)
    world.init()
    assert "is there already" in refused(world, 1, old, world.url).text
    assert "is there already" in refused(world, 1, old, old.as_uri()).text


def test_what_is_no_older_backup(world: World, tmp_path: Path) -> None:
    lived(world)
    for path in (tmp_path, world.database, tmp_path / "missing"):
        assert "nothing was changed" in refused(world, 1, path, world.url).text
    assert "server" in refused(world, 1, "socket:127.0.0.1:8700", world.url).text


def test_a_database_of_something_else(world: World, old: Path) -> None:
    Written().change(Call(1, ("PRAGMA foreign_keys = ON;",))).save(old)
    refused(world, 3, old, world.url)
    bump = "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = 0"
    strange = ("CREATE TABLE vars (name, intval)", "INSERT INTO vars VALUES ('data_version', 0)", bump)
    Written().change(Call(1, strange)).save(old)
    assert "not lightningd's" in refused(world, 1, old, world.url).text


def test_the_scratch_place_is_left_clean(world: World, old: Path, tmp_path: Path) -> None:
    _, calls = lived(world)
    written(calls).save(old)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert backup_cli("import", "--scratch", scratch, old, world.url).code == 0
    assert list(scratch.iterdir()) == []
