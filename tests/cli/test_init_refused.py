"""`backup-cli init`: each thing that it refuses, with nothing changed."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from tests.cli.cli_asserts import PID_LOCK, assert_refused, init
from tests.end_to_end.world import World, as_mortal, backup_cli, command, spawned, tree
from tests.fake_lightningd import History, SeparateDatabase
from tests.node.processes import running


def no_directory(world: World) -> None:
    shutil.rmtree(world.directory)


def the_directory_above_without_a_network(world: World) -> None:
    shutil.rmtree(world.directory)
    world.directory = world.directory.parent
    (world.directory / "config").touch()


def several_nodes(world: World) -> None:
    for name in ("bitcoin", "testnet"):
        (world.directory.parent / name).mkdir()
        shutil.copy(world.database, world.directory.parent / name)
    world.directory = world.directory.parent


def a_file_for_a_directory(world: World) -> None:
    world.directory = world.database


def not_lightningds(world: World) -> None:
    world.database.unlink()
    with closing(sqlite3.connect(world.database)) as connection, connection:
        connection.execute("CREATE TABLE songs (title TEXT)")


def garbage(world: World) -> None:
    world.database.write_bytes(b"no database at all, but some text that is long enough " * 50)


def corrupt(world: World) -> None:
    """A page in the middle is overwritten."""
    data = bytearray(world.database.read_bytes())
    data[8192:12288] = b"\xa5" * 4096
    world.database.write_bytes(data)


def on_a_disk_that_is_not_mounted(world: World) -> None:
    """The database was moved to a larger disk, and a link leads there."""
    world.database.unlink()
    world.database.symlink_to("/mnt/large/lightningd.sqlite3")


def cut(world: World) -> None:
    world.database.write_bytes(world.database.read_bytes()[:-5000])


def occupied(world: World) -> None:
    world.backup.mkdir()


def occupied_by_a_backup(world: World) -> None:
    world.init()


def occupied_by_an_init_that_was_killed(world: World) -> None:
    world.init()
    (world.backup / "manifest").unlink()


def occupied_by_a_file(world: World) -> None:
    world.backup.write_bytes(b"x")


def no_parent(world: World) -> None:
    world.backup.parent.rmdir()


def parent_is_a_file(world: World) -> None:
    world.backup.parent.rmdir()
    world.backup.parent.write_bytes(b"x")


REFUSED: dict[str, tuple[Callable[[World], object], str]] = {
    "no node's directory": (no_directory, "does not exist; nothing was changed: .*mkdir -p -m 700 .*--lightning-dir"),
    "the directory above, without a network": (
        the_directory_above_without_a_network,
        "is not a node's directory.*--lightning-dir",
    ),
    "several nodes": (several_nodes, "holds several nodes.*repeat this with --lightning-dir"),
    "a file for a directory": (a_file_for_a_directory, "is not a directory"),
    "a database of something else": (not_lightningds, "is not a lightningd database.*Nothing was created"),
    "garbage for a database": (garbage, "is corrupt"),
    "a corrupt database": (corrupt, "is corrupt: .*nothing was written"),
    "a link to a database that is not there": (
        on_a_disk_that_is_not_mounted,
        "is a link to /mnt/large/lightningd.sqlite3, and nothing is there.*Nothing was created; mount it",
    ),
    "a database that was cut": (cut, "is corrupt"),
    "the destination exists": (occupied, "is there already, and nothing in it was touched; it is no backup"),
    "the destination is a backup": (
        occupied_by_a_backup,
        "is there already, and nothing in it was touched.*go on with that backup",
    ),
    "the destination is half a backup": (
        occupied_by_an_init_that_was_killed,
        "is there already, but is not a whole backup: it has no manifest.*Nothing was touched",
    ),
    "the destination is a file": (occupied_by_a_file, "is there already, and nothing in it was touched"),
    "the destination's parent does not exist": (no_parent, "does not exist. Nothing was made; is the disk .*mounted"),
    "the destination's parent is a file": (parent_is_a_file, "Not a directory"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_init_refuses_unusable_node_or_destination_and_changes_nothing(old_node: World, what: str) -> None:
    act, sentence = REFUSED[what]
    act(old_node)
    before = tree(old_node.root)
    assert_refused(init(old_node), sentence)
    assert tree(old_node.root) == before


def test_init_beside_a_running_lightningd_is_refused(old_node: World) -> None:
    before = tree(old_node.root)
    pid_file = old_node.directory.parent / f"lightningd-{old_node.directory.name}.pid"
    with running(PID_LOCK, pid_file) as lightningd:
        assert_refused(init(old_node), f"process {lightningd.pid} .*stop the node first, with lightning-cli stop")
    pid_file.unlink()
    assert tree(old_node.root) == before


def test_init_of_a_database_that_a_process_has_open_is_refused(old_node: World) -> None:
    before = tree(old_node.root)
    with running("import sqlite3; c = sqlite3.connect(a[0]); c.execute('SELECT * FROM vars')", old_node.database):
        assert_refused(init(old_node), r"has .*lightningd.sqlite3 open; nothing was changed")
    assert tree(old_node.root) == before


def test_init_beside_a_working_plugin_is_refused(old_node: World, history: History) -> None:
    assert init(old_node).code == 0
    with old_node.node(database=SeparateDatabase) as node:
        node.play(history.notes(1))
        old_node.backup = old_node.backup.with_name("second.bkp")
        assert_refused(init(old_node), "in use|another process")
        assert not old_node.backup.exists()


@pytest.mark.parametrize("where", ["disk", "lightning/regtest"])
def test_init_without_write_permission_is_refused_and_changes_nothing(old_node: World, where: str) -> None:
    place = old_node.root / where
    place.chmod(0o500)
    before = tree(old_node.root)
    try:
        said = spawned(*as_mortal(), *command("init", "--lightning-dir", old_node.directory, old_node.url))
        assert tree(old_node.root) == before
    finally:
        place.chmod(0o700)
    assert_refused(said, "may not write there|Permission denied")


def test_init_without_read_permission_on_the_database_is_refused(old_node: World) -> None:
    old_node.database.chmod(0)
    before = tree(old_node.backup.parent)
    said = spawned(*as_mortal(), *command("init", "--lightning-dir", old_node.directory, old_node.url))
    assert_refused(said, "lightningd.sqlite3")
    assert tree(old_node.backup.parent) == before


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("/mnt/backup/lightning.bkp", "no scheme; write it as a URL: file:///mnt/backup/lightning.bkp"),
        ("lightning.bkp", "no scheme; write it as a URL: file:///"),
        ("", "an empty URL names no destination"),
        ("ftp://server/x", "there is no kind of destination ftp://"),
        ("file://mnt/backup", "names the machine 'mnt'"),
        ("file:relative", "no absolute path"),
        ("file:///a#b", "write it as %23"),
        ("file:///a%00b", "no absolute path"),
        ("http://[::1", "is not a URL"),
    ],
)
def test_init_with_an_invalid_url_is_a_usage_error(old_node: World, url: str, sentence: str) -> None:
    before = tree(old_node.root)
    said = backup_cli("init", "--lightning-dir", old_node.directory, url)
    assert said.code == 2
    assert sentence in said.text
    assert tree(old_node.root) == before
