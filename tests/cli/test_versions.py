"""`backup-cli versions` lists what can be restored, and `restore --kept` restores a generation that was replaced."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.cli_asserts import assert_refused, restore
from tests.end_to_end.corruption import flip, segment
from tests.end_to_end.db_compare import everything
from tests.end_to_end.world import World, backup_cli, tree
from tests.fake_lightningd import History


@pytest.fixture
def replaced(lived: World, history: History) -> World:
    """Version 10 was given up for version 6, and the node has gone on to 8."""
    old = lived.database.read_bytes()
    lived.run(history.notes(4))
    shutil.copy(lived.database, lived.root / "ten.sqlite3")
    lived.database.write_bytes(old)
    assert backup_cli("resync", "--lightning-dir", lived.directory, "--discard-newer", 10).code == 0
    lived.run(History(6).notes(2))
    return lived


def test_versions_of_one_generation_shows_its_range(taken_over: World) -> None:
    before = tree(taken_over.root)
    [only] = json.loads(backup_cli("versions", "--json", taken_over.url).out)
    assert (only["first_version"], only["last_version"], only["reason"]) == (4, 12, "init")
    assert only["kept_until"] is None and only["damage"] is None
    assert "versions       4 to 12" in backup_cli("versions", taken_over.url).out
    assert tree(taken_over.root) == before


def test_versions_lists_a_replaced_generation_and_how_to_restore_it(replaced: World) -> None:
    kept, current = json.loads(backup_cli("versions", "--json", replaced.url).out)
    assert (kept["last_version"], current["last_version"], current["reason"]) == (10, 8, "resync")
    assert kept["kept_until"] > current["first_time"] + 6 * 86400
    said = backup_cli("versions", replaced.url)
    assert f"backup-cli restore --kept --replace {replaced.url} DEST" in said.out


def test_restore_kept_brings_back_the_replaced_generation(replaced: World, place: Path) -> None:
    said = restore(replaced, place / "ten.sqlite3", "--kept")
    assert said.code == 0
    assert "which was replaced and is kept" in said.err
    assert everything(place / "ten.sqlite3") == everything(replaced.root / "ten.sqlite3")


def test_restore_kept_resume_lets_a_new_machine_go_on_from_the_replaced_generation(
    replaced: World, place: Path
) -> None:
    """The next start finds the database ahead of what the backup holds now."""
    assert restore(replaced, place, "--kept", "--resume").code == 0
    new = World(replaced.root / "elsewhere")
    new.directory, new.backup = place, replaced.backup
    new.run(History(new.version).notes(1))
    assert new.version == 11
    new.assert_restored_equals_the_nodes()


def test_restore_kept_is_refused_once_the_backup_has_passed_its_version(replaced: World, place: Path) -> None:
    replaced.run(History(8).notes(5))
    for options in (("--kept",), ("--kept", "--resume"), ("--kept", "--resume", "--not-for-a-node")):
        said = restore(replaced, place, *options)
        assert_refused(said, "ends at version 10, and the backup has reached version 13 since")
    assert list(place.iterdir()) == []
    assert restore(replaced, place, "--kept", "--not-for-a-node").code == 0
    assert [path.name for path in place.glob("light*")] == ["lightningd.sqlite3.kept-NOT-FOR-A-NODE"]
    assert "if it was replaced by mistake" not in backup_cli("versions", replaced.url).out


def test_restore_kept_to_version_gets_a_name_not_for_a_node(replaced: World, place: Path) -> None:
    assert restore(replaced, place, "--kept", "--to-version", "9", "--not-for-a-node").code == 0
    assert [path.name for path in place.glob("light*")] == ["lightningd.sqlite3.version-9-NOT-FOR-A-NODE"]


def test_restore_kept_without_a_kept_generation_is_refused(lived: World, place: Path) -> None:
    assert_refused(restore(lived, place, "--kept"), "no earlier generation is kept .*Nothing was restored")
    assert backup_cli("restore", "--kept", "--resume", "socket:nas:1", place).code != 0


def test_versions_of_a_damaged_backup_exits_3(lived: World) -> None:
    flip(segment(lived), 100)
    said = backup_cli("versions", lived.url)
    assert said.code == 3
    assert "the backup is damaged" in said.out


def test_versions_without_a_url_lists_the_nodes_own_backup(lived: World) -> None:
    own = json.loads(backup_cli("versions", "--lightning-dir", lived.directory, "--json").out)
    assert own == json.loads(backup_cli("versions", lived.url, "--json").out)
    assert [each["state"] for each in own] == ["in use"]


def test_versions_of_several_urls_lists_each_and_fails_for_one_that_is_not_there(lived: World) -> None:
    copy = lived.root / "copy.bkp"
    shutil.copytree(lived.backup, copy)
    two = json.loads(backup_cli("versions", lived.url, copy.as_uri(), "--json").out)
    assert [each["url"] for each in two] == [lived.url, copy.as_uri()]
    said = backup_cli("versions", lived.url, (lived.root / "none.bkp").as_uri())
    assert said.code == 1
    assert "generation 1 " in said.out
    assert "error: " in said.err


def test_damage_in_a_replaced_generation_is_named_and_the_backup_is_not_damaged(replaced: World) -> None:
    flip(replaced.backup / "segment-00000001", 100)
    said = backup_cli("versions", replaced.url)
    assert said.code == 0
    assert "! this generation is damaged: " in said.out
