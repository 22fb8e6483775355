"""`backup-cli init`: what it makes, and that it leaves nothing when it is interrupted."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

import backup_cli.commands.init as module
from backends.mounts import ephemeral
from tests.cli.cli_asserts import init
from tests.end_to_end.recordings import UPGRADES
from tests.end_to_end.world import PLUGIN, World, backup_cli, command, tree
from tests.fake_lightningd import Call, History, Moment, SeparateDatabase, contents


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


# What it makes


def test_init_before_the_nodes_first_start_prints_only_the_config_line(world: World) -> None:
    said = init(world)
    assert said.code == 0
    assert "holds no database yet" in said.err
    assert said.out.startswith("important-plugin=/"), "stdout is the line for the config, and nothing else"
    assert said.out.count("\n") == 1
    lock = json.loads((world.directory / "backup.lock").read_text())
    assert lock["backend_url"] == world.url
    assert lock["backup_id"] == world.status()["backup_id"]
    assert world.status()["data_version"] == 0


@pytest.mark.parametrize(("seconds", "warned"), [(0.0199, False), (0.0201, True), (0.1, True)])
def test_init_measures_a_commit_and_warns_above_20_ms(
    world: World, monkeypatch: pytest.MonkeyPatch, seconds: float, warned: bool
) -> None:
    monkeypatch.setattr("backends.log.backup.measured_latency", lambda storage: seconds)
    said = init(world)
    assert said.code == 0
    assert f"A commit takes {seconds * 1000:.1f} ms there." in said.err
    assert ("warning: a payment makes about 13 commits, so it waits about" in said.err) is warned
    if seconds == 0.1:
        assert "about 1.3 s for this destination" in said.err


def test_init_believes_an_explicit_new_directory_of_any_name(world: World, history: History) -> None:
    """A directory that the user names is believed; the message says what it may be confused with."""
    world.directory = world.root / "my node"
    world.directory.mkdir()
    said = init(world)
    assert said.code == 0
    assert f"if that is to be {world.directory}/bitcoin, create that directory" in said.err
    assert "shows that it is a node's" not in backup_cli("resync", "--lightning-dir", world.directory).err
    world.run([history.first(), *history.notes(3)])
    world.assert_restored_equals_the_nodes()


def test_backup_is_readable_by_its_owner_only_whatever_the_umask(old_node: World) -> None:
    before = os.umask(0)
    try:
        assert init(old_node).code == 0
    finally:
        os.umask(before)
    assert mode(old_node.backup) == 0o700
    assert {mode(path) for path in old_node.backup.iterdir()} == {0o600}
    assert {mode(path) for path in old_node.directory.glob("backup.*")} == {0o600}


def test_init_takes_a_snapshot_of_an_existing_database(old_node: World) -> None:
    said = init(old_node)
    assert "holds the database at version 6" in said.text
    assert "Writing the snapshot of version 6: 100 %" in said.text
    assert old_node.status()["data_version"] == 6
    old_node.assert_restored_equals_the_nodes()


def test_init_finds_the_network_directory_below_the_default_and_a_given_one(
    old_node: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = old_node.root / "home"
    home.mkdir()
    (home / ".lightning").symlink_to(old_node.directory.parent)
    monkeypatch.setenv("HOME", str(home))
    assert backup_cli("init", old_node.url).code == 0
    other = old_node.backup.with_name("other.bkp").as_uri()
    assert backup_cli("init", "--lightning-dir", old_node.directory.parent, other).code == 0
    assert json.loads((old_node.directory / "backup.lock").read_text())["backend_url"] == other


def test_init_rolls_back_a_hot_journal_before_it_copies(world: World, history: History) -> None:
    world.run_without_plugin([history.first(), history.big()])
    before = contents(world.database)
    node = world.node(database=partial(SeparateDatabase, cache_pages=10), command=PLUGIN)
    world.init()
    node.start()
    node.die_at(
        Moment.BEFORE_HOOK, history.transaction("UPDATE vars SET blobval = x'00' WHERE substr(name, 1, 3) = 'big'")
    )
    world.backup = world.backup.with_name("second.bkp")
    assert init(world).code == 0
    assert contents(world.restore()) == before


def test_init_includes_changes_that_are_only_in_the_wal(old_node: World) -> None:
    """The node was told to use a WAL: its last changes are not in the database file."""
    with closing(sqlite3.connect(old_node.database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("INSERT INTO vars (name, val) VALUES ('in the WAL', 'x')")
        connection.commit()
        for suffix in ("", "-wal"):
            shutil.copy(f"{old_node.database}{suffix}", old_node.root / f"kept{suffix}")
    for suffix in ("", "-wal"):
        shutil.move(old_node.root / f"kept{suffix}", f"{old_node.database}{suffix}")
    assert init(old_node).code == 0
    assert (b"'in the WAL'", b"'x'", b"NULL", b"NULL") in contents(old_node.restore())["vars"]


def test_init_accepts_a_database_without_a_version_column(world: World) -> None:
    UPGRADES[-1].prepare(world)
    assert world.status()["data_version"] == 0
    world.assert_restored_equals_the_nodes()


def test_init_keeps_an_earlier_backup_lock_aside(old_node: World) -> None:
    assert init(old_node).code == 0
    first = (old_node.directory / "backup.lock").read_bytes()
    old_node.backup = old_node.backup.with_name("second.bkp")
    said = init(old_node)
    [kept] = old_node.directory.glob("backup.lock.*")
    assert kept.read_bytes() == first
    assert mode(kept) == 0o600
    assert f"kept as {kept.name}" in said.err


def test_init_on_the_nodes_own_disk_warns(old_node: World) -> None:
    said = init(old_node)
    assert said.code == 0
    assert "warning: " in said.err
    assert "is on the same disk as the node's directory" in said.err


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no second filesystem at hand")
def test_init_on_another_disk_does_not_warn(old_node: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ephemeral, "_IN_MEMORY", frozenset())  # it is the nearest other one
    place = Path("/dev/shm") / f"init-test-{os.getpid()}"
    try:
        said = backup_cli("init", "--lightning-dir", old_node.directory, place.as_uri())
        assert said.code == 0
        assert "warning" not in said.err
    finally:
        shutil.rmtree(place)


# Interrupted


@pytest.mark.parametrize("broken", [KeyboardInterrupt(), OSError(28, "No space left on device"), MemoryError()])
@pytest.mark.parametrize("at", ["hand_over", "set_old_lock_aside"])
def test_init_that_fails_at_the_end_leaves_no_backup(
    old_node: World, monkeypatch: pytest.MonkeyPatch, at: str, broken: BaseException
) -> None:
    """The backup is whole by then, but the node does not know of it: a second try must not be blocked by it."""
    before = tree(old_node.root, locks=True)

    def fails(*_: object) -> None:
        raise broken

    monkeypatch.setattr(module, at, fails)
    if isinstance(broken, MemoryError):
        with pytest.raises(MemoryError):
            init(old_node)
    else:
        assert init(old_node).code == (130 if isinstance(broken, KeyboardInterrupt) else 1)
    assert tree(old_node.root, locks=True) == before
    monkeypatch.undo()
    assert init(old_node).code == 0


@pytest.mark.parametrize("after", [0.0, 0.05, 0.2])
def test_init_stopped_by_ctrl_c_leaves_nothing(world: World, history: History, after: float) -> None:
    """A database of 60 MiB, so that there is something to interrupt."""
    world.run_without_plugin([history.first(), *(incompressible(history, number) for number in range(20))])
    before = tree(world.root, locks=True)
    process = subprocess.Popen(
        command("init", "--lightning-dir", world.directory, world.url), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    assert "Writing the snapshot" in first
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    if process.returncode in (0, -signal.SIGINT):  # the key came after everything was done
        assert (world.directory / "backup.lock").exists()
        return
    assert process.returncode == 130
    assert "nothing that was there before has changed" in said
    assert tree(world.root, locks=True) == before


def incompressible(history: History, number: int) -> Call:
    blob = random.Random(number).randbytes(3 << 20).hex()
    return history.transaction(f"INSERT INTO vars (name, blobval) VALUES ('random {number}', x'{blob}')")
