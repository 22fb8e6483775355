"""`backup-cli import`: the older plugin's file becomes a backup that a node continues."""

from pathlib import Path

import pytest

from backends.log.attachments import read_attachment
from backends.log.format.attachments import Attachment
from backends.storage.local import LocalStorage
from backup_cli.commands.import_ import import_
from backup_cli.main import cli
from tests.end_to_end.db_compare import differences
from tests.end_to_end.world import Said, World, backup_cli, snapshots_taken, tree
from tests.fake_lightningd import Call, History, read_recording
from tests.legacy.written import Written, written

cli.add_command(import_)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The path of the older plugin's file, which is not there yet."""
    (tmp_path / "old disk").mkdir()
    return tmp_path / "old disk" / "file.bkp"


def lived(world: World, count: int = 30) -> tuple[History, list[Call]]:
    """A node that ran without this plugin."""
    life = History()
    calls = [life.first(), *life.notes(count)]
    world.run_without_plugin(calls)
    return life, calls


def refused(world: World, code: int, *arguments: object) -> Said:
    """Run an import that must be refused: it writes nothing at the destination, and changes nothing of the node."""
    before = tree(world.root)
    said = backup_cli("import", *arguments)
    assert said.code == code, said
    assert tree(world.root) == before
    return said


@pytest.mark.parametrize("as_url", [False, True])
def test_import_makes_a_new_backup_equal_to_the_database(world: World, old: Path, as_url: bool) -> None:
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


def test_lost_node_is_restored_from_import_and_continues(world: World, old: Path) -> None:
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


def test_node_continues_with_imported_backup_without_new_snapshot(world: World, old: Path) -> None:
    life, calls = lived(world)
    written(calls).save(old)
    (world.directory / "backup.lock").write_text('{"backend_url": "file:///old.bkp"}')
    (world.directory / "emergency.recover").write_bytes(b"one channel")
    said = backup_cli("import", "--lightning-dir", world.directory, old, world.url)
    assert said.code == 0, said
    assert "important-plugin=" in said.out
    assert read_attachment(LocalStorage(world.backup), Attachment.EMERGENCY) == b"one channel"
    assert "backup.lock is kept as backup.lock." in said.text
    node = world.run(life.notes(5))
    assert snapshots_taken(node) == [], "its database holds the same, and that was seen"
    world.assert_restored_equals_the_nodes()


def test_import_of_empty_legacy_backup_serves_a_new_node(world: World, old: Path) -> None:
    Written().save(old)
    said = backup_cli("import", "--lightning-dir", world.directory, old, world.url)
    assert said.code == 0, said
    assert "no database yet" in said.out
    life = History()
    world.run([life.first(), *life.notes(3)])
    world.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("lost", [1, -1, -5])
def test_import_for_database_at_another_version_is_refused(world: World, old: Path, lost: int) -> None:
    life, calls = lived(world)
    written(calls[:-1] if lost > 0 else [*calls, *life.notes(-lost)]).save(old)
    said = refused(world, 1, "--lightning-dir", world.directory, old, world.url)
    assert "backup-cli init" in said.text
    assert "never start it" in said.text


def test_import_for_database_with_other_content_is_refused_and_shows_no_value(world: World, old: Path) -> None:
    _, calls = lived(world)
    other = History(calls[-2].data_version).note("another life")
    written([*calls[:-1], other]).save(old)
    said = refused(world, 1, "--lightning-dir", world.directory, old, world.url)
    assert "differ: table vars" in said.text
    assert "another life" not in said.text


def test_import_for_missing_database_is_refused_and_names_restore(world: World, old: Path) -> None:
    _, calls = lived(world)
    world.database.unlink()
    written(calls).save(old)
    said = refused(world, 1, "--lightning-dir", world.directory, old, world.url)
    assert "restore --resume" in said.text


def test_import_of_damaged_legacy_backup_is_refused_with_last_good_version(world: World, old: Path) -> None:
    _, calls = lived(world)
    old.write_bytes(written(calls).data()[:-1])
    said = refused(world, 3, old, world.url)
    assert f"is {calls[-2].data_version}" in said.text
    assert "not the newest" in said.text


def test_import_of_legacy_backup_with_tail_reports_it(world: World, old: Path) -> None:
    _, calls = lived(world)
    written(calls).save(old, tail=b"\0" * 77)
    said = backup_cli("import", old, world.url)
    assert said.code == 0
    assert "the last 77 bytes of the file" in said.text
    assert differences(world.restore(), world.database) == []


def test_import_does_not_overwrite_an_existing_backup(world: World, old: Path) -> None:
    _, calls = lived(world)
    written(calls).save(old)
    world.init()
    assert "is there already" in refused(world, 1, old, world.url).text
    assert "is there already" in refused(world, 1, old, old.as_uri()).text


def test_import_of_something_else_is_refused(world: World, tmp_path: Path) -> None:
    lived(world)
    for path in (tmp_path, world.database, tmp_path / "missing"):
        assert "nothing was changed" in refused(world, 1, path, world.url).text
    assert "server" in refused(world, 1, "socket:127.0.0.1:8700", world.url).text


def test_import_of_legacy_backup_of_another_program_is_refused(world: World, old: Path) -> None:
    Written().change(Call(1, ("PRAGMA foreign_keys = ON;",))).save(old)
    refused(world, 3, old, world.url)
    bump = "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = 0"
    strange = ("CREATE TABLE vars (name, intval)", "INSERT INTO vars VALUES ('data_version', 0)", bump)
    Written().change(Call(1, strange)).save(old)
    assert "not lightningd's" in refused(world, 1, old, world.url).text


def test_import_leaves_nothing_in_its_scratch_directory(world: World, old: Path, tmp_path: Path) -> None:
    _, calls = lived(world)
    written(calls).save(old)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert backup_cli("import", "--scratch", scratch, old, world.url).code == 0
    assert list(scratch.iterdir()) == []
