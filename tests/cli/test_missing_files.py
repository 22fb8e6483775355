"""A backup, or a file of one, that is not where it should be: the message names what is near it, and a safe command."""

import shutil
from pathlib import Path

import pytest

from tests.end_to_end.prepared import copy_into
from tests.end_to_end.world import World, backup_cli
from tests.fake_lightningd import History


@pytest.fixture(scope="module")
def grown_once(tmp_path_factory: pytest.TempPathFactory) -> World:
    """What `grown` copies; it is never changed."""
    world, history = World(tmp_path_factory.mktemp("grown")), History()
    world.init().run([history.first(), *history.notes(5)])
    world.run(history.notes(3))
    return world


@pytest.fixture
def grown(grown_once: World, world: World, history: History) -> World:
    """A backup of three sessions."""
    history.version = grown_once.version
    return copy_into(grown_once, world)


@pytest.mark.parametrize(
    ("wanted", "other"),
    [
        ("segment-00000001", "segment-00000001 (1)"),
        ("segment-00000001", "SEGMENT-00000001"),
        ("segment-00000001", "segment-00000001.tmp"),
        ("snapshot-00000001", "snapshot-00000001.part"),
        ("snapshot-00000001", "snapshot-00000001 (conflicted copy 2026-11-26)"),
        ("manifest", "manifest (1)"),
        ("manifest", "MANIFEST"),
        ("manifest", "manifest.sync-conflict-20261126-101112"),
        ("session", "session (1)"),
    ],
)
@pytest.mark.parametrize("command", ["verify", "status", "restore"])
def test_missing_file_that_a_sync_client_renamed_is_pointed_out(
    grown: World, wanted: str, other: str, command: str, tmp_path: Path
) -> None:
    held = (grown.backup / wanted).read_bytes()
    (grown.backup / wanted).rename(grown.backup / other)
    if wanted == "segment-00000001":  # so that it is not the last one
        shutil.copy(grown.backup / other, grown.backup / "segment-00000002")
    said = backup_cli(command, grown.url, *([tmp_path / "back.sqlite3"] if command == "restore" else []))
    if wanted == "session":
        assert said.code == 0, "nothing needs it, but that its absence is told"
        return
    assert said.code in (1, 3)
    assert repr(other) in said.text, said
    assert "copy the whole directory" in said.text
    assert f"the name {wanted}" in said.text
    # And what it says helps.
    copy = tmp_path / "copy.bkp"
    shutil.copytree(grown.backup, copy)
    (copy / "segment-00000002").unlink(missing_ok=True)
    (copy / other).rename(copy / wanted)
    assert (copy / wanted).read_bytes() == held
    assert backup_cli("verify", copy.as_uri()).code == 0


def test_last_segment_under_another_name_is_pointed_out(grown: World) -> None:
    last = max(grown.backup.glob("segment-*"))
    last.rename(last.with_name(f"{last.name} (1)"))
    shutil.copy(grown.backup / "manifest", grown.backup / "manifest~")
    said = backup_cli("verify", grown.url)
    assert said.code == 3
    assert f"{last.name} (1)" in said.text, said


def test_stray_files_in_a_whole_backup_are_not_mentioned(grown: World) -> None:
    (grown.backup / "segment-00000009 (1)").write_bytes(b"x")
    said = backup_cli("verify", grown.url)
    assert said.code == 0
    assert "(1)" not in said.text


def test_misspelt_backup_name_lists_the_nearest_backups_first(grown: World) -> None:
    for name in ("worst", "node-b", "node-c", "node-d", "node-e", "node-f"):
        shutil.copytree(grown.backup, grown.backup.with_name(name))
    for command in ("verify", "status"):
        said = backup_cli(command, grown.backup.with_name("wrost").as_uri())
        assert said.code == 1
        assert said.err.index(grown.backup.with_name("worst").as_uri()) < said.err.index("node-"), "the nearest first"
        assert "and 2 more" in said.text
        assert "init" not in said.text, "nobody makes a new backup on the worst day because one was not found"


def test_restore_from_an_empty_directory_names_the_backup_beside_it(grown: World) -> None:
    empty = grown.backup.with_name("lightning.bpk")
    empty.mkdir()
    said = backup_cli("restore", empty.as_uri(), grown.root / "x.sqlite3")
    assert said.code == 1
    assert grown.url in said.text
    assert "is in. Next to it is this backup:" in said.err


def test_missing_backup_without_neighbours_mentions_none(world: World) -> None:
    said = backup_cli("status", world.url)
    assert said.code == 1
    assert "Next to it" not in said.text
