"""Who else may be writing to a backup: offline commands stay out of its way, and a restore says so."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.log.backup import Backup
from backends.places.file import FilePlace
from backup_cli import ownership
from tests.cli.cli_asserts import assert_refused, restore
from tests.end_to_end.corruption import edit_document
from tests.end_to_end.world import World, backup_cli, command, spawned, tree
from tests.fake_lightningd import History, SeparateDatabase
from tests.node.processes import running

HOLD = "f = open(a[0], 'r+'); fcntl.flock(f, fcntl.LOCK_EX); f.write(f'{os.getpid()} backup-cli compact\\n'); f.flush()"

WRITERS: dict[str, Callable[[World], list[object]]] = {
    "compact": lambda world: ["compact", world.url],
    "resync": lambda world: ["resync", "--lightning-dir", world.directory],
}


@pytest.fixture
def crashed(lived: World, history: History) -> World:
    """The node was killed: its session in the backup was never ended."""
    node = lived.node()
    node.start()
    node.play(history.notes(3))
    node.die()
    return lived


@pytest.fixture
def on_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backup is where another machine may write, too."""
    monkeypatch.setattr(FilePlace, "only_this_machine_writes", lambda place: False)


def of_another_machine(world: World, **fields: object) -> None:
    edit_document(world.backup / "session", host="another-machine", **fields)


# Offline writers


@pytest.mark.parametrize("act", WRITERS)
def test_session_left_open_by_a_crash_does_not_block_writers_on_a_local_disk(crashed: World, act: str) -> None:
    """The lock in the backup is free, and no other machine has that disk."""
    assert backup_cli(*WRITERS[act](crashed)).code == 0
    crashed.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("act", WRITERS)
@pytest.mark.usefixtures("on_a_share")
def test_open_session_of_another_machine_on_a_share_blocks_writers(crashed: World, act: str) -> None:
    of_another_machine(crashed)
    before = tree(crashed.root)
    said = backup_cli(*WRITERS[act](crashed))
    assert_refused(said, r"another-machine, process \d+\) that has not ended.*stop it cleanly.*--take-over")
    assert tree(crashed.root) == before
    said = backup_cli(*WRITERS[act](crashed), "--take-over")
    assert said.code == 0
    assert "what it saves until then is lost" in said.err
    crashed.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("act", WRITERS)
@pytest.mark.usefixtures("on_a_share")
def test_ended_session_of_another_machine_on_a_share_does_not_block_writers(lived: World, act: str) -> None:
    of_another_machine(lived)
    assert backup_cli(*WRITERS[act](lived)).code == 0


@pytest.mark.parametrize("act", WRITERS)
@pytest.mark.parametrize("options", [(), ("--take-over",)])
def test_command_beside_another_working_command_names_it(lived: World, act: str, options: tuple[str, ...]) -> None:
    """The message talks of no other node, and --take-over does not override it."""
    (lived.backup / "lock").touch()
    with running(HOLD, lived.backup / "lock") as holder:
        before = tree(lived.root)
        said = backup_cli(*WRITERS[act](lived), *options)
        assert_refused(said, rf"another process \(pid {holder.pid}, backup-cli compact\) is writing .*wait until")
        assert tree(lived.root) == before
    assert backup_cli(*WRITERS[act](lived)).code == 0, "and the lock is free again"


def in_another_namespace() -> list[str]:
    """What to put before a command so that it sees none of this machine's processes, as in a container."""
    prefix = ["unshare", "--pid", "--fork", "--mount-proc"]
    if os.geteuid() != 0:  # most kernels let everybody make one, as himself
        prefix[1:1] = ["--user", "--map-current-user"]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("needs root, or a kernel that lets users make namespaces")
    return prefix


@pytest.mark.parametrize("act", ["compact", "restore"])
def test_running_node_is_seen_from_another_pid_namespace(lived: World, place: Path, history: History, act: str) -> None:
    prefix = in_another_namespace()
    words = WRITERS["compact"](lived) if act == "compact" else ["restore", "--resume", lived.url, place]
    with lived.node(database=SeparateDatabase) as node:
        node.play(history.notes(3))
        said = spawned(*prefix, *command(*words))
        assert_refused(said, "lightningd-backup.* is writing to")
        node.play(history.notes(3))
    lived.assert_restored_equals_the_nodes()


# Restoring beside a writer


def test_resume_beside_a_running_node_is_refused(lived: World, place: Path, history: History) -> None:
    with lived.node(database=SeparateDatabase) as node:
        node.play(history.notes(3))
        said = restore(lived, place, "--resume")
        assert_refused(said, r"pid \d+, lightningd-backup\) is writing to this backup.*two nodes .*--take-over")
        assert list(place.iterdir()) == []
        node.play(history.notes(2))
        said = restore(lived, place, "--resume", "--take-over")
        assert said.code == 0
        assert "the other one must be off" in said.err


def test_restore_beside_a_running_node_warns_that_the_copy_will_be_old(
    lived: World, place: Path, history: History
) -> None:
    with lived.node(database=SeparateDatabase) as node:
        node.play(history.notes(3))
        said = restore(lived, place)
        assert said.code == 0
        assert re.search(r"warning: a node \(\S+, process \d+\) is writing to this .*never start a node", said.err)
    said = restore(lived, place / "again.sqlite3")
    assert "writing to this backup" not in said.err, "that node was stopped cleanly"


def test_resume_after_a_crash_needs_no_flag(crashed: World, place: Path) -> None:
    """The worst day: the machine is gone, its session was never ended, and its last change is seconds old."""
    said = restore(crashed, place, "--resume")
    assert said.code == 0
    assert "writing to this backup" not in said.err


@pytest.mark.usefixtures("on_a_share")
@pytest.mark.parametrize(("age", "warned"), [(5, True), (7200, False)])
def test_resume_warns_if_another_machines_last_change_is_recent(
    crashed: World, place: Path, monkeypatch: pytest.MonkeyPatch, age: float, warned: bool
) -> None:
    """Nothing proves that the other machine is alive, so this is only a warning."""
    of_another_machine(crashed)
    now = time.time()
    monkeypatch.setattr("backup_cli.ownership.time.time", lambda: now + age)
    said = restore(crashed, place, "--resume")
    assert said.code == 0
    assert ("may be writing to this backup" in said.err) is warned


def test_resume_while_another_machine_writes_is_refused(world: World, place: Path, history: History) -> None:
    """No lock tells, but the session marker moves while the backup is read."""
    world.init()
    node = world.node()
    node.start()
    node.play([history.first(), *(history.big() for _ in range(8))])
    node.die()
    before = (world.backup / "session").read_bytes()
    moved = iter(range(10**9, 2 * 10**9))
    look = ownership.look

    def seen(backup: Backup) -> ownership.Seen:
        edit_document(world.backup / "session", host="another-machine", started=next(moved))
        return look(backup)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ownership, "look", seen)
        said = restore(world, place, "--resume")
    assert_refused(said, "another-machine, process .* is writing to this backup: it has changed while it was read")
    assert not (place / "lightningd.sqlite3").exists()
    (world.backup / "session").write_bytes(before)
    assert restore(world, place, "--resume").code == 0
