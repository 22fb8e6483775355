"""`backup-cli restore`: which backup is meant, what is wrong with it, and places that it cannot go to."""

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from backup_cli import restore_rebuilt as module
from tests.cli.cli_asserts import PID_LOCK, assert_refused, restore
from tests.end_to_end.corruption import DAMAGED, DAMAGED_OUT_OF_SIGHT, from_a_later_release, in_file, segment
from tests.end_to_end.db_compare import everything
from tests.end_to_end.world import World, as_mortal, backup_cli, command, spawned, tree
from tests.fake_lightningd import History, SeparateDatabase
from tests.node.processes import running

# Which backup


def test_restore_from_a_directory_with_one_backup_finds_it(lived: World, place: Path) -> None:
    said = backup_cli("restore", "--resume", lived.backup.parent.as_uri() + "/", place)
    assert said.code == 0
    assert lived.url in (place / "backup.lock").read_text()


def test_restore_from_a_directory_with_an_oddly_named_backup_writes_a_working_url(
    lived: World, place: Path, history: History
) -> None:
    odd = lived.backup.with_name("my node's 100% #1?.bkp")
    lived.backup.rename(odd)
    said = backup_cli("restore", "--resume", lived.backup.parent.as_uri(), place)
    assert said.code == 0, said
    new = World(lived.root / "elsewhere")
    new.directory, new.backup = place, odd
    new.run(history.notes(1))
    new.assert_restored_equals_the_nodes()


def test_restore_from_a_directory_with_several_backups_lists_them(lived: World, place: Path) -> None:
    for name in ("b", "a"):
        shutil.copytree(lived.backup, lived.backup.with_name(name))
    parent = lived.backup.parent.as_uri()
    said = backup_cli("restore", parent, place)
    assert_refused(said, rf"holds 3 backups; say which one:\s+{parent}/a\s+{parent}/b\s+{parent}/lightning.bkp")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("manifest", [None, b"torn", b'{"lightningd-backup": 99}'])
def test_restore_into_another_backup_is_refused(lived: World, manifest: bytes | None) -> None:
    other = lived.backup.with_name("other.bkp")
    shutil.copytree(lived.backup, other)
    if manifest is not None:
        (other / "manifest").write_bytes(manifest)
    before = tree(lived.root)
    assert_refused(backup_cli("restore", lived.url, other), "is itself a backup, so nothing was restored there")
    assert tree(lived.root) == before


def test_restore_into_the_backup_itself_is_refused(lived: World) -> None:
    before = tree(lived.backup)
    for dest in (lived.backup, lived.backup / "restored.sqlite3"):
        assert_refused(backup_cli("restore", lived.url, dest), "is itself a backup, so nothing was restored there")
    assert tree(lived.backup) == before


@pytest.mark.parametrize("make", [False, True])
def test_restore_from_a_place_without_a_backup_is_refused(lived: World, place: Path, make: bool) -> None:
    nowhere = lived.root / "nowhere"
    if make:
        nowhere.mkdir()
    said = backup_cli("restore", nowhere.as_uri(), place)
    assert_refused(said, "there is no backup in .*no manifest.*mounted" if make else "there is no backup at .*mounted")
    assert list(place.iterdir()) == []


def test_restore_from_a_directory_with_other_files_only_is_refused(lived: World, place: Path) -> None:
    """For example a mount point that somebody has put a note into: it never held a backup, so it holds no half of
    one."""
    (lived.root / "nowhere").mkdir()
    (lived.root / "nowhere" / "README").touch()
    assert_refused(backup_cli("restore", (lived.root / "nowhere").as_uri(), place), "there is no backup in .*mounted")


@pytest.mark.parametrize("gone", [("manifest",), ("manifest", "session"), ("manifest", "session", "segment-00000001")])
def test_restore_from_an_incomplete_copy_of_a_backup_is_refused(
    lived: World, place: Path, gone: tuple[str, ...]
) -> None:
    for name in gone:
        (lived.backup / name).unlink()
    assert_refused(restore(lived, place), "is not a whole backup.*copy the whole directory again")
    assert list(place.iterdir()) == []


def test_restore_from_an_empty_backup_is_refused(world: World, place: Path) -> None:
    world.init()
    assert_refused(restore(world, place), "holds no database yet.*Nothing was restored")
    assert list(place.glob("*.sqlite3*")) == []


def test_restore_from_a_file_is_refused(lived: World, place: Path) -> None:
    """The database itself, or a legacy backup whose first bytes have been changed."""
    for scheme in ("file", "nfs"):
        said = backup_cli("restore", f"{scheme}://{lived.database}", place)
        assert_refused(said, "lightningd.sqlite3 is a file, and a backup is a directory. Nothing was changed")
    assert list(place.iterdir()) == []


# Damage


@pytest.mark.parametrize("what", [*DAMAGED, *DAMAGED_OUT_OF_SIGHT])
def test_restore_from_a_damaged_backup_names_the_damage_and_leaves_nothing(
    taken_over: World, place: Path, what: str
) -> None:
    (DAMAGED | DAMAGED_OUT_OF_SIGHT)[what](taken_over)
    backup = tree(taken_over.backup)
    assert_refused(restore(taken_over, place / "bitcoin"), "the backup is damaged: .* at byte .*Do not start", code=3)
    assert list(place.iterdir()) == [], "a directory that was made for nothing is gone again"
    assert tree(taken_over.backup) == backup


@pytest.mark.parametrize("name", ["manifest", "segment", "snapshot", "session"])
def test_restore_from_a_backup_of_a_later_release_is_refused(taken_over: World, place: Path, name: str) -> None:
    in_file(name, from_a_later_release)(taken_over)
    assert_refused(restore(taken_over, place), "newer lightningd-backup.*install that release")


def test_restore_leaves_a_torn_end_out_and_says_so(lived: World, place: Path, history: History) -> None:
    node = lived.node()
    node.start()
    node.play(history.notes(2))
    before = everything(lived.database)
    node.db_write(history.big(1 << 16))
    node.die()
    data = segment(lived).read_bytes().rstrip(b"\0")
    cut = data.rindex(b"\xb5R") + 45  # in the last record, just behind its header
    segment(lived).write_bytes(data[:cut])
    said = restore(lived, place)
    assert said.code == 0, said
    assert "warning: the end of the backup was torn" in said.err
    assert everything(place / "lightningd.sqlite3") == before


# Places that it cannot go to


def test_restore_into_a_running_nodes_directory_is_refused(lived: World, place: Path) -> None:
    directory = place / "regtest"
    directory.mkdir()
    pid_file = place / "lightningd-regtest.pid"
    with running(PID_LOCK, pid_file):
        assert_refused(restore(lived, directory), "is in use: process .*stop the node first")
    assert list(directory.iterdir()) == []


def test_restore_is_refused_if_a_lightningd_was_started_meanwhile(
    lived: World, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs without the plugin, which would have refused: its database must not be moved away under it."""
    directory = place / "regtest"
    directory.mkdir()
    shutil.copy(lived.database, directory / "lightningd.sqlite3")
    rebuild, node = module._rebuild, ExitStack()

    def slow(*arguments: Any, **options: Any) -> Any:
        node.enter_context(running(PID_LOCK, place / "lightningd-regtest.pid"))
        return rebuild(*arguments, **options)

    monkeypatch.setattr(module, "_rebuild", slow)
    with node:
        assert_refused(restore(lived, directory, "--replace"), "is in use: process .*stop the node first")
    assert [path.name for path in directory.iterdir()] == ["lightningd.sqlite3"]
    assert everything(directory / "lightningd.sqlite3") == everything(lived.database)


def test_restore_over_a_running_node_with_the_plugin_is_refused(lived: World, history: History) -> None:
    with lived.node(database=SeparateDatabase) as node:
        node.play(history.notes(1))
        assert_refused(restore(lived, lived.directory, "--replace"), "in use")
        node.play(history.notes(1))
    lived.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("networks", [["bitcoin"], ["bitcoin", "testnet"]])
def test_restore_into_the_directory_above_a_nodes_is_refused(lived: World, place: Path, networks: list[str]) -> None:
    """lightningd would not find the database there, and begin an empty one in the network directory."""
    for network in networks:
        (place / network).mkdir()
    (place / networks[0] / "hsm_secret").touch()
    before = tree(place)
    choices = " or ".join(str(place / network) for network in networks)
    said = restore(lived, place, "--resume")
    assert_refused(said, f"does not look .*nothing was restored. Repeat this with {choices} as DEST")
    assert tree(place) == before


def test_restore_into_the_directory_above_a_new_nodes_is_refused(lived: World, place: Path) -> None:
    (place / "config").touch()
    assert_refused(restore(lived, place), f"does not look .*nothing was restored. Repeat this with {place}/bitcoin as")
    assert restore(lived, place / "bitcoin", "--resume").code == 0


def test_restore_to_a_missing_directory_with_a_slash_makes_no_file(lived: World, place: Path) -> None:
    """A path that ends with a slash is meant as a directory."""
    said = backup_cli("restore", lived.url, f"{place}/new-node/")
    assert_refused(said, "new-node does not exist, so nothing can be restored there; create it")
    assert list(place.iterdir()) == []


def test_restore_below_a_missing_directory_is_refused(lived: World, place: Path) -> None:
    assert_refused(restore(lived, place / "a" / "b"), "does not exist, so nothing can be restored there; create it")
    assert_refused(restore(lived, lived.database / "x"), "does not exist|not a directory|Not a directory")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("dest", [".", "x.sqlite3"])
def test_restore_without_write_permission_is_refused(lived: World, place: Path, dest: str) -> None:
    place.chmod(0o500)
    try:
        said = spawned(*as_mortal(), *command("restore", lived.url, place / dest))
    finally:
        place.chmod(0o700)
    assert_refused(said, "Permission denied.*(run this as|repeat)")
    assert list(place.iterdir()) == []


def test_restore_without_read_permission_on_the_backup_is_refused(lived: World, place: Path) -> None:
    lived.backup.chmod(0)
    try:
        said = spawned(*as_mortal(), *command("restore", lived.url, place))
    finally:
        lived.backup.chmod(0o700)
    assert_refused(said, "cannot be used: Permission denied")
    assert list(place.iterdir()) == []
