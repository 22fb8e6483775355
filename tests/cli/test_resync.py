"""`backup-cli resync`: the backup is made to hold the present database, and nothing less is ever put in its place."""

import shutil
import signal

import pytest

from tests.cli.cli_asserts import assert_refused
from tests.destinations.tools import freeze
from tests.end_to_end.corruption import DAMAGED, DAMAGED_OUT_OF_SIGHT, flip, from_a_later_release, in_file
from tests.end_to_end.db_compare import everything
from tests.end_to_end.world import Said, World, as_mortal, backup_cli, command, said_at, spawned, tree
from tests.fake_lightningd import History, SeparateDatabase
from tests.node.processes import running

HOLD = "f = open(a[0], 'r+'); fcntl.flock(f, fcntl.LOCK_EX); f.write(f'{os.getpid()} lightningd-backup\\n'); f.flush()"

LEFT_TO_INIT = ("the manifest has a flipped bit", "the manifest is empty")
"""Damage after which nothing says which backup it is."""


def resync(world: World, *options: object) -> Said:
    return backup_cli("resync", "--lightning-dir", world.directory, *options)


def assert_next_start_takes_no_snapshot(world: World) -> None:
    """The next start continues the backup without a new snapshot."""
    node = world.run(History(world.version).notes(2))
    assert said_at(node, "unusual") == []
    world.assert_restored_equals_the_nodes()


def test_resync_of_a_backup_that_is_behind_takes_a_snapshot(lived: World, history: History) -> None:
    lived.run_without_plugin(history.notes(3))
    said = resync(lived)
    assert said.code == 0
    assert "Writing the snapshot of version 9 (the backup was at 6)" in said.err
    assert lived.status()["generation_reason"] == "resync"
    lived.assert_restored_equals_the_nodes()
    assert_next_start_takes_no_snapshot(lived)


def test_resync_of_an_up_to_date_backup_keeps_one_earlier_generation(lived: World) -> None:
    for _ in range(2):
        assert resync(lived).code == 0
    assert_next_start_takes_no_snapshot(lived)
    assert len(list(lived.backup.glob("snapshot-*"))) == 2, "the one in use and the one that it replaced, and no more"


def test_resync_of_an_older_database_with_its_version_typed_out_is_done(lived: World, history: History) -> None:
    """The only way to set a backup back: an operator types the version out; the node never does it."""
    old = lived.database.read_bytes()
    lived.run(history.notes(4))
    lived.database.write_bytes(old)
    assert resync(lived, "--discard-newer", 10).code == 0
    assert lived.status()["data_version"] == 6
    assert_next_start_takes_no_snapshot(lived)


@pytest.mark.parametrize("what", [name for name in (*DAMAGED, *DAMAGED_OUT_OF_SIGHT) if name not in LEFT_TO_INIT])
def test_resync_of_a_damaged_backup_makes_it_whole(taken_over: World, what: str) -> None:
    (DAMAGED | DAMAGED_OUT_OF_SIGHT)[what](taken_over)
    said = resync(taken_over)
    assert said.code == 0, said
    taken_over.assert_restored_equals_the_nodes()
    assert_next_start_takes_no_snapshot(taken_over)


@pytest.mark.parametrize("what", LEFT_TO_INIT)
def test_resync_of_a_backup_that_lost_its_id_advises_init(taken_over: World, what: str) -> None:
    """Otherwise two commands would send each other around in circles."""
    DAMAGED[what](taken_over)
    before = tree(taken_over.root)
    assert_refused(resync(taken_over), "backup-cli init", code=3)
    assert tree(taken_over.root) == before


def test_resync_takes_a_backup_back_from_another_machine_only_with_consent(lived: World, history: History) -> None:
    """After another machine has written to it: only the operator knows which of the two is the right one."""
    other = World(lived.root / "other")
    other.directory.rmdir()
    shutil.copytree(lived.directory, other.directory)
    other.backup = lived.backup
    other.run(History(6).notes(3))
    lived.run_without_plugin(history.notes(9))
    before = tree(lived.root)
    said = resync(lived)
    assert_refused(said, "at version 15, and the backup .* at version 9, which another node .*--discard-newer 9 ")
    assert "the one with the higher version need not be the newer one" in said.err
    assert tree(lived.root) == before
    assert resync(lived, "--discard-newer", 9).code == 0
    assert_next_start_takes_no_snapshot(lived)


def test_resync_of_a_damaged_backup_and_a_newer_database_restores_exactly(lived: World, history: History) -> None:
    flip(min(lived.backup.glob("segment-*")), 100)
    lived.run_without_plugin(history.notes(1))
    before = everything(lived.database)
    assert resync(lived).code == 0
    assert everything(lived.restore()) == before


# Refusals


def test_resync_beside_a_running_lightningd_is_refused(lived: World, history: History) -> None:
    with lived.node(database=SeparateDatabase) as node:
        node.play(history.notes(1))
        freeze(node.wire.process)  # else it writes its own notes meanwhile
        try:
            before = tree(lived.root)
            assert_refused(resync(lived), "in use: process .*stop the node first")
            assert tree(lived.root) == before
        finally:
            node.wire.process.send_signal(signal.SIGCONT)
        node.play(history.notes(1))
    lived.assert_restored_equals_the_nodes()


def test_resync_beside_another_writer_is_refused_by_pid(lived: World) -> None:
    hold = (
        "f = open(a[0], 'r+'); fcntl.flock(f, fcntl.LOCK_EX); f.write(f'{os.getpid()} lightningd-backup\\n'); f.flush()"
    )
    (lived.directory / "backup.pid").touch()
    with running(hold, lived.directory / "backup.pid") as holder:
        before = tree(lived.root)
        assert_refused(resync(lived), rf"another process \(pid {holder.pid}, lightningd-backup\) is writing")
        assert tree(lived.root) == before


def test_resync_without_a_database_is_refused(lived: World) -> None:
    lived.database.unlink()
    (lived.directory / "hsm_secret").touch()
    before = tree(lived.root)
    assert_refused(resync(lived), "there is no database at .*restore")
    assert tree(lived.root) == before


def test_resync_of_a_corrupt_database_is_refused(lived: World) -> None:
    data = bytearray(lived.database.read_bytes())
    data[4096:8192] = b"\xa5" * 4096
    lived.database.write_bytes(data)
    before = tree(lived.backup)
    assert_refused(resync(lived), "is corrupt: ")
    assert tree(lived.backup) == before


def test_resync_of_another_nodes_database_is_refused(lived: World, history: History) -> None:
    set_id = "INSERT OR REPLACE INTO vars (name, blobval) VALUES ('node_id', x'{}')"
    lived.run([history.transaction(set_id.format("02" * 33))])
    lived.run_without_plugin([history.transaction(set_id.format("03" * 33))])
    before = tree(lived.backup)
    assert_refused(resync(lived), "belongs to the node 0202.*and the database to 0303.*backup-cli init")
    assert tree(lived.backup) == before


def test_resync_over_another_backup_in_its_place_is_refused(lived: World) -> None:
    """Disks were exchanged: the backup that is there may be another node's only one."""
    other = World(lived.root / "other").init()
    lived.backup.rename(lived.backup.with_name("right.bkp"))
    other.backup.rename(lived.backup)
    before = tree(lived.root)
    assert_refused(resync(lived), "backup.lock expects the backup .* put the right one back")
    assert tree(lived.root) == before


def test_resync_without_backup_lock_is_refused(lived: World) -> None:
    (lived.directory / "backup.lock").unlink()
    assert_refused(resync(lived), "no backup yet.*backup-cli init")


def test_resync_of_an_unreachable_backup_is_refused(lived: World) -> None:
    lived.backup.rename(lived.backup.with_name("away"))
    before = tree(lived.root)
    assert_refused(resync(lived), "there is no backup at .*mounted")
    assert tree(lived.root) == before


def test_resync_of_a_backup_of_a_later_release_is_refused(lived: World) -> None:
    in_file("manifest", from_a_later_release)(lived)
    before = tree(lived.root)
    assert_refused(resync(lived), "newer lightningd-backup")
    assert tree(lived.root) == before


def test_resync_without_write_permission_changes_nothing(lived: World) -> None:
    lived.backup.chmod(0o500)
    before = tree(lived.backup)
    try:
        said = spawned(*as_mortal(), *command("resync", "--lightning-dir", lived.directory))
        assert tree(lived.backup) == before
    finally:
        lived.backup.chmod(0o700)
    assert_refused(said, "Permission denied")
    lived.assert_restored_equals_the_nodes()
