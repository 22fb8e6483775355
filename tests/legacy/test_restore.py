"""`backup-cli restore` reads a file of the older plugin directly."""

import json
from pathlib import Path

import pytest

from tests.end_to_end.db_compare import differences
from tests.end_to_end.world import World, as_mortal, backup_cli, command, spawned, tree
from tests.fake_lightningd import Call, History, read_recording
from tests.legacy.written import Written, written


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return tmp_path / "file.bkp"


def lived(world: World) -> list[Call]:
    life = History()
    calls = [life.first(), *life.notes(30)]
    world.run_without_plugin(calls)
    return calls


def test_restore_of_legacy_backup_gives_an_equal_private_database(world: World, old: Path, tmp_path: Path) -> None:
    world.run_without_plugin(read_recording())
    written(read_recording()).save(old)
    new = tmp_path / "bitcoin"
    said = backup_cli("restore", old.as_uri(), new)
    assert said.code == 0, said
    assert "a file of the older plugin" in said.text
    assert "Restored version 1008" in said.text
    assert differences(new / "lightningd.sqlite3", world.database) == []
    assert (new / "lightningd.sqlite3").stat().st_mode & 0o777 == 0o600


def test_restore_of_legacy_backup_reports_what_it_left_out(world: World, old: Path) -> None:
    calls = lived(world)
    written(calls).starts_with(calls[-1]).save(old, tail=b"\0" * 99)
    said = backup_cli("restore", old.as_uri(), world.root / "restored.sqlite3")
    assert said.code == 0
    assert "sent again" in said.text
    assert "last 99 bytes" in said.text
    assert differences(world.root / "restored.sqlite3", world.database) == []


def test_restore_beyond_version_in_legacy_header_is_explained(world: World, old: Path) -> None:
    """The plan, shown before the file is read, names only the version in the header."""
    calls = lived(world)
    written(calls[:-2]).change(*calls[-2:], dies_before_header=True).save(old)
    said = backup_cli("restore", old.as_uri(), world.root / "restored.sqlite3")
    assert said.code == 0
    last = calls[-1].data_version
    assert (
        f"names version {last - 2}; the complete changes in the file reach version {last}, and all of them" in said.err
    )
    assert differences(world.root / "restored.sqlite3", world.database) == []


def test_damaged_legacy_backup_is_not_restored(world: World, old: Path) -> None:
    calls = lived(world)
    old.write_bytes(written(calls).data()[:-1])
    before = tree(world.root)
    said = backup_cli("restore", old.as_uri(), world.root / "restored.sqlite3")
    assert said.code == 3
    assert f"is {calls[-2].data_version}" in said.text
    assert tree(world.root) == before


def test_legacy_backup_this_user_may_not_read_is_not_called_damaged(world: World, old: Path) -> None:
    written(lived(world)).save(old)
    old.chmod(0)
    said = spawned(*as_mortal(), *command("restore", old.as_uri(), world.root / "restored.sqlite3"))
    assert said.code == 1, said
    assert f"{old} is a file that the user" in said.err
    assert "nobody else may read it. Nothing was changed" in said.err
    assert "damaged" not in said.err


def test_restore_of_old_version_from_damaged_legacy_backup_is_not_for_a_node(world: World, old: Path) -> None:
    calls = lived(world)
    old.write_bytes(written(calls).data()[:-1])
    said = backup_cli("restore", old.as_uri(), world.root / "x", "--to-version", 20, "--not-for-a-node")
    assert said.code == 0, said
    other = World(world.root / "other")
    other.run_without_plugin(calls[:20])
    assert differences(world.root / "x.version-20-NOT-FOR-A-NODE", other.database) == []


def test_restore_resume_from_legacy_backup_is_refused(world: World, old: Path) -> None:
    calls = lived(world)
    world.database.unlink()
    written(calls).save(old)
    said = backup_cli("restore", "--resume", old.as_uri(), world.directory)
    assert said.code == 1
    assert "backup-cli init" in said.text
    assert not world.database.exists()


def test_restore_of_empty_legacy_backup_is_refused(world: World, old: Path) -> None:
    Written().save(old)
    said = backup_cli("restore", old.as_uri(), world.directory)
    assert said.code == 1
    assert "never started" in said.text
    assert not world.database.exists()


def test_node_restored_from_legacy_backup_gets_a_backup_by_init(world: World, old: Path) -> None:
    calls = lived(world)
    world.database.unlink()
    written(calls).save(old)
    (world.directory / "backup.lock").write_text(json.dumps({"backend_url": old.as_uri()}))
    assert backup_cli("restore", old.as_uri(), world.directory).code == 0
    world.init()
    world.run(History(calls[-1].data_version).notes(3))
    world.assert_restored_equals_the_nodes()
