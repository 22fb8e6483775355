"""A node's disk that is too full for a copy of its database: how much is needed, where, and how to
go on without it."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import apsw
import pytest

from backends.sqlite import copy as taking
from tests.cli.cli_asserts import assert_refused
from tests.end_to_end.test_space_prediction import KIB, leave_free
from tests.end_to_end.world import World, backup_cli, tree
from tests.fake_lightningd import History, Refused
from tests.small_disk import needs_small_disks, small_disk

NEEDED = r"takes (\d+) MiB in {place} for a while; only 0 MiB are free"


@pytest.fixture
def full(world: World, history: History) -> Iterator[World]:
    """A node whose directory is on a full disk of 8 MiB, and whose database is ahead of its backup."""
    with small_disk(world.directory, 8 << 20):
        world.init()
        world.run([history.first(), *history.notes(5)])
        world.run_without_plugin([history.note(os.urandom(1_000_000).hex())])
        leave_free(world.directory, 500 * KIB)
        yield world


def assert_names_needed_space(world: World, text: str) -> None:
    """The text says how much space the copy takes, and the number is right."""
    told = re.search(NEEDED.format(place=re.escape(str(world.directory))), text)
    assert told is not None, text
    size = world.database.stat().st_size
    assert size <= int(told[1]) << 20 <= size + (2 << 20)


@needs_small_disks
def test_start_without_space_for_the_database_copy_is_refused_with_a_working_command(
    full: World, tmp_path: Path
) -> None:
    before, history = tree(full.backup), History(full.version)
    with pytest.raises(Refused) as refused:
        full.run(history.notes(1))
    assert_names_needed_space(full, str(refused.value))
    assert tree(full.backup) == before
    line = re.search(r"backup-cli (resync .* --scratch) DIR", str(refused.value))
    assert line is not None
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    said = backup_cli(*shlex.split(line[1]), elsewhere)
    assert said.code == 0, said
    assert list(elsewhere.iterdir()) == []
    full.run(History(full.version).notes(1))
    full.assert_restored_equals_the_nodes()


@needs_small_disks
def test_check_config_predicts_the_lack_of_space_for_the_database_copy(full: World) -> None:
    said = backup_cli("check-config", "--lightning-dir", full.directory)
    assert "Free some space there first, or take the snapshot now, with the copy on another disk" in said.text
    assert f"backup-cli resync --lightning-dir {full.directory} --scratch DIR" in said.text


def use_wal(database: Path) -> None:
    """Put a stopped node's database into WAL mode: then its file is not the whole database, and it must be copied."""
    connection = apsw.Connection(str(database))
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.close()


def words_for(command: str, world: World) -> list[object]:
    words: list[object] = [command, "--lightning-dir", world.directory]
    return words if command == "resync" else [*words, (world.backup.parent / "new.bkp").as_uri()]


@needs_small_disks
@pytest.mark.parametrize("command", ["resync", "init"])
def test_resync_and_init_of_a_stopped_node_need_no_space_on_its_disk(full: World, command: str) -> None:
    said = backup_cli(*words_for(command, full))
    assert said.code == 0, said
    assert f"version {full.version}" in said.text
    if command == "resync":
        full.assert_restored_equals_the_nodes()


@needs_small_disks
@pytest.mark.parametrize("command", ["resync", "init"])
def test_resync_and_init_without_space_for_the_database_copy_are_refused(
    full: World, tmp_path: Path, command: str
) -> None:
    use_wal(full.database)
    words = words_for(command, full)
    before = full.everything_on_disk()
    said = backup_cli(*words)
    assert_refused(said, r"name a directory of yours on another disk, with --scratch DIR")
    assert_names_needed_space(full, said.text)
    assert full.everything_on_disk() == before
    said = backup_cli(*words, "--scratch", tmp_path)
    assert said.code == 0, said
    assert not list(tmp_path.glob(".lightningd-backup-*"))


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_space_for_the_database_copy_is_not_predicted_on_a_compressing_filesystem(
    old_node: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Needs no small disk, so it runs for every user."""
    use_wal(old_node.database)
    monkeypatch.setattr(taking, "mount_of", lambda path: SimpleNamespace(kind=kind))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    said = backup_cli("init", "--lightning-dir", old_node.directory, old_node.url)
    if kind == "btrfs":
        assert said.code == 0, said
        return
    assert_names_needed_space(old_node, said.text)
    assert_refused(said, "--scratch DIR")
    assert not old_node.backup.exists()
