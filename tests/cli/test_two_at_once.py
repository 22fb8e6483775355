"""Two commands at once, or a command beside a running plugin: the second says who is busy, and changes nothing."""

import itertools
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backends.errors import InUse
from backends.storage.local import LocalStorage
from backup_cli.ownership import alone
from tests.cli.cli_asserts import assert_refused
from tests.end_to_end.world import World, backup_cli, command, spawned, tree
from tests.fake_lightningd import History, Refused
from tests.log.histories import backup_in, silent

Command = Callable[[World], list[str]]

WRITING: dict[str, Command] = {
    "compact": lambda world: command("compact", world.url),
    "resync": lambda world: command("resync", "--lightning-dir", world.directory),
    "restore --resume": lambda world: command("restore", "--resume", "--replace", world.url, world.directory),
    "restore --replace": lambda world: command("restore", "--replace", world.url, world.directory),
    "init": lambda world: command("init", "--lightning-dir", world.directory, _beside(world)),
}
"""Commands that write to a backup, to a node's directory, or to both."""

READING: dict[str, Command] = {
    "status": lambda world: command("status", world.url),
    "verify": lambda world: command("verify", world.url),
    "versions": lambda world: command("versions", world.url),
    "restore": lambda world: command("restore", world.url, world.root / "read.sqlite3"),
}

APART = {("compact", "restore --replace"), ("restore --replace", "compact"), ("init", "compact"), ("compact", "init")}
"""Pairs of which one writes to the backup, and the other to the node's directory only."""

BUSY = r"another process \(pid {pid}, [^)]*\) is (writing|making).*[Nn]othing"

_FEW = [
    ("compact", "resync"),
    ("resync", "compact"),
    ("compact", "restore --replace"),
    ("restore --resume", "compact"),
    ("init", "init"),
]

PAIRS = list(itertools.product(WRITING, WRITING)) if "LIGHTNINGD_BACKUP_CAMPAIGN" in os.environ else _FEW
"""All of them take a minute."""


def _beside(world: World) -> str:
    return (world.backup.parent / "another.bkp").as_uri()


@pytest.fixture
def grown(world: World, history: History) -> World:
    """A stopped node, and a backup that a compaction would make smaller."""
    world.init().run([history.first(), *history.notes(30)])
    for _ in range(2):
        world.run(history.notes(20))
    return world


@contextmanager
def stopped_at_work(words: list[str], *locks: Path) -> Iterator["subprocess.Popen[str]"]:
    """A command that is stopped by SIGSTOP as soon as it has one of these locks; afterwards it goes on, and must
    succeed."""
    process = _started(words, locks)
    try:
        yield process
    except BaseException:
        process.kill()
        raise
    finally:
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


def _started(words: list[str], locks: tuple[Path, ...]) -> "subprocess.Popen[str]":
    """The command, stopped by SIGSTOP; if it was done before we looked, it is started again."""
    for _ in range(20):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None:
            if any(_names(lock, process.pid) for lock in locks):
                process.send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
                if any(_holds(lock, process.pid) for lock in locks):
                    return process
                process.send_signal(signal.SIGCONT)  # it had let the lock go again before it stopped
                process.wait(60)
        assert process.returncode == 0, process.communicate()
    raise AssertionError("it was always too fast")


def _holds(lock: Path, pid: int) -> bool:
    """Whether the kernel knows this file as locked by that process."""
    try:
        inode = lock.stat().st_ino
    except FileNotFoundError:
        return False
    held = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" not in line]
    return any((words[4], words[5].rpartition(":")[2]) == (str(pid), str(inode)) for words in held)


def _names(lock: Path, pid: int) -> bool:
    try:
        return lock.read_text().startswith(f"{pid} ")
    except FileNotFoundError:
        return False


def locks(world: World) -> tuple[Path, Path]:
    """The lock on the node's side, and the one in the backup."""
    return world.directory / "backup.pid", world.backup / "lock"


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_second_writing_command_is_refused_and_names_the_first(grown: World, first: str, second: str) -> None:
    wanted = locks(grown)[1:] if second == "compact" and first in ("resync", "restore --resume") else locks(grown)
    with stopped_at_work(WRITING[first](grown), *wanted) as process:
        said = spawned(*WRITING[second](grown))
        if (first, second) in APART:
            assert said.code == 0, said
        else:
            assert_refused(said, BUSY.format(pid=process.pid))
            assert "two nodes" not in said.text
    assert backup_cli("verify", grown.url).code == 0
    if "init" not in (first, second):
        grown.run(History(grown.version).notes(2))
    grown.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("first", ["compact", "resync"])
def test_reading_commands_succeed_beside_a_writing_one(grown: World, first: str) -> None:
    with stopped_at_work(WRITING[first](grown), *locks(grown)):
        for reading in READING.values():
            said = backup_cli(*reading(grown)[3:])
            assert said.code == 0, said


def test_writing_commands_beside_a_running_plugin_name_it(grown: World) -> None:
    with grown.node() as node:
        node.play(History(grown.version).notes(2))
        for name, words in WRITING.items():
            before = tree(grown.backup)
            for option in [[], ["--take-over"]] if name in ("compact", "resync") else [[]]:
                said = backup_cli(*words(grown)[3:], *option)
                assert_refused(said, r"process (\(pid )?\d+.*[Nn]othing was changed")
            assert tree(grown.backup) == before
        node.play(History(grown.version).notes(2))
    grown.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("first", ["compact", "resync"])
def test_plugin_that_starts_beside_a_command_refuses_and_names_it(grown: World, first: str) -> None:
    stands = grown.version
    with stopped_at_work(WRITING[first](grown), *locks(grown)) as process:
        with pytest.raises(Refused, match=rf"process \(pid {process.pid}, "), grown.node() as node:
            node.play(History(stands).notes(1))
        assert grown.version == stands, "nothing was committed"


def test_backup_being_made_by_init_is_not_called_a_leftover(grown: World, tmp_path: Path) -> None:
    """Whoever deleted it as the leftover of a killed `init` would pull it from under the running one."""
    other = World(tmp_path / "other")
    other.backup = grown.backup.parent / "another.bkp"
    with stopped_at_work(WRITING["init"](grown), other.backup / "lock") as process:
        before = tree(other.backup)
        assert "manifest" not in {Path(name).name for name in before}
        words = READING | {"init": lambda world: command("init", "--lightning-dir", world.directory, world.url)}
        for command_ in words.values():
            said = backup_cli(*command_(other)[3:])
            if other.backup.joinpath("snapshot-00000001").exists():
                expected = rf"another process \(pid {process.pid}, .*is making .*wait until that process has ended"
                assert_refused(said, expected)
            assert said.code == 1
            assert "delete" not in said.text
        assert tree(other.backup) == before
    assert backup_cli("verify", other.url).code == 0


@pytest.mark.parametrize("ended", [False, True])
def test_overtaken_command_without_locks_names_the_other_command(
    grown: World, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """As over nfs://: no other node has to be switched off; another command began at the same moment."""
    monkeypatch.setattr(LocalStorage, "lock", lambda self, what: None)
    first, second = (backup_in(LocalStorage(grown.backup)) for _ in range(2))
    with pytest.raises(InUse) as refused, alone("nfs://nas/export/x.bkp", first, "compact", False):
        overtaken = first.open(silent)
        overtaking = second.open(silent)
        if ended:
            overtaking.close()
        overtaken.discard_compaction()
    said = str(refused.value)
    assert re.match(rf"another process \(.*process {os.getpid()}\b.*\) has begun to write", said)
    assert ("has ended since" in said) is ended
    assert "Wait until that process has ended" in said


def test_file_removed_by_another_process_is_reported_as_removed(grown: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as "No such file or directory", which helps nobody."""
    space = LocalStorage.space

    def removed(self: LocalStorage) -> object:
        raise FileNotFoundError(2, "No such file or directory", "segment-00000007")

    monkeypatch.setattr(LocalStorage, "space", removed)
    assert_refused(backup_cli("status", grown.url), r"removed while it was in use \(segment-00000007\).*wait until")
    monkeypatch.setattr(LocalStorage, "space", space)
    assert backup_cli("status", grown.url).code == 0
