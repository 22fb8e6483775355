"""Two commands at once, or a command beside a running plugin: the second says who is busy, and spoils nothing."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backends.errors import InUse
from backends.log.backend import LogBackend
from backends.storage.local import LocalStorage
from backup_cli.ownership import alone
from tests.cli.outcome import assert_refused
from tests.end_to_end.world import World, backup_cli, command, spawned, tree
from tests.log.histories import silent
from tests.standin import History, Refused

Command = Callable[[World], list[str]]

WRITING: dict[str, Command] = {
    "compact": lambda world: command("compact", world.url),
    "resync": lambda world: command("resync", "--lightning-dir", world.directory),
    "restore --resume": lambda world: command("restore", "--resume", "--replace", world.url, world.directory),
    "restore --replace": lambda world: command("restore", "--replace", world.url, world.directory),
    "init": lambda world: command("init", "--lightning-dir", world.directory, _beside(world)),
}
"""What writes to a backup, to a node's directory, or to both."""

READING: dict[str, Command] = {
    "status": lambda world: command("status", world.url),
    "verify": lambda world: command("verify", world.url),
    "versions": lambda world: command("versions", world.url),
    "restore": lambda world: command("restore", world.url, world.root / "read.sqlite3"),
}

APART = {("compact", "restore --replace"), ("restore --replace", "compact"), ("init", "compact"), ("compact", "init")}
"""One of these writes to the backup, the other to the node's directory only."""

BUSY = r"another process \(pid {pid}, [^)]*\) is writ.*Nothing was|another process \(pid {pid}, .*nothing was changed"


def _beside(world: World) -> str:
    return (world.backup.parent / "another.bkp").as_uri()


@pytest.fixture
def grown(world: World, history: History) -> World:
    """A backup that a compaction makes smaller, and a node that is stopped."""
    world.init().run([history.first(), *history.notes(60)])
    world.run(history.notes(30))
    return world


@contextmanager
def stopped_at_work(words: list[str], *locks: Path) -> Iterator["subprocess.Popen[str]"]:
    """A command that is held still as soon as it has one of these locks; it goes on, and must succeed, afterwards."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 30
        while not any(_names(lock, process.pid) for lock in locks):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
        process.send_signal(signal.SIGSTOP)
        yield process
    except BaseException:
        process.kill()
        raise
    finally:
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


def _names(lock: Path, pid: int) -> bool:
    try:
        return lock.read_text().startswith(f"{pid} ")
    except FileNotFoundError:
        return False


def locks(world: World) -> tuple[Path, Path]:
    """The lock on the node's side, and the one in the backup."""
    return world.directory / "backup.pid", world.backup / "lock"


@pytest.mark.parametrize("second", WRITING)
@pytest.mark.parametrize("first", WRITING)
def test_second_writing_command_names_the_first(grown: World, first: str, second: str) -> None:
    with stopped_at_work(WRITING[first](grown), *locks(grown)) as process:
        said = spawned(*WRITING[second](grown))
        if (first, second) in APART:
            assert said.code == 0, said
        else:
            assert_refused(said, BUSY.format(pid=process.pid))
            assert "two nodes" not in said.text
    assert backup_cli("verify", grown.url).code == 0
    grown.run(History(grown.version).notes(2))
    grown.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("first", ["compact", "resync"])
@pytest.mark.parametrize("second", READING)
def test_reading_command_is_not_disturbed_by_a_writing_one(grown: World, first: str, second: str) -> None:
    with stopped_at_work(WRITING[first](grown), *locks(grown)):
        said = spawned(*READING[second](grown))
        assert said.code == 0, said


@pytest.mark.parametrize("second", [*WRITING, "compact --take-over", "resync --take-over"])
def test_command_beside_a_running_plugin_names_it(grown: World, second: str) -> None:
    name, _, option = second.partition(" --take")
    with grown.node() as node:
        node.play(History(grown.version).notes(2))
        before = tree(grown.backup)
        said = spawned(*WRITING[name](grown), *(["--take-over"] if option else []))
        assert_refused(said, r"process (\(pid )?\d+.*[Nn]othing was changed")
        assert tree(grown.backup) == before
        node.play(History(grown.version).notes(2))
    grown.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("first", WRITING)
def test_plugin_that_starts_beside_a_command_names_it(grown: World, first: str) -> None:
    stands = grown.version
    if first == "restore --replace":
        first = "restore --resume"  # the same to a plugin
    with stopped_at_work(WRITING[first](grown), *locks(grown)) as process:
        with pytest.raises(Refused, match=rf"process \(pid {process.pid}, "), grown.node() as node:
            node.play(History(stands).notes(1))
        assert grown.version == stands, "nothing was committed"


@pytest.mark.parametrize("second", ["init", *READING])
def test_backup_that_is_being_made_is_not_called_left_over(grown: World, tmp_path: Path, second: str) -> None:
    """To delete it, as one that a killed `init` had left, would pull it from under the one that makes it."""
    other = World(tmp_path / "other")
    other.backup = grown.backup.parent / "another.bkp"
    with stopped_at_work(WRITING["init"](grown), other.backup / "lock") as process:
        before = tree(other.backup)
        assert "manifest" not in {Path(name).name for name in before}
        words = READING | {"init": lambda world: command("init", "--lightning-dir", world.directory, world.url)}
        said = spawned(*words[second](other))
        if len(before) > 2:  # not in the first moment, when nothing of a backup's is there
            assert_refused(said, rf"another process \(pid {process.pid}, .*is making .*wait until it has ended")
            assert "delete" not in said.text
        else:
            assert_refused(said, "no backup")
        assert tree(other.backup) == before
    assert backup_cli("verify", other.url).code == 0


@pytest.mark.parametrize("ended", [False, True])
def test_command_that_is_overtaken_where_there_are_no_locks_says_so(
    grown: World, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """As over nfs://: it is not another node that has to be switched off, but a command that began in the moment."""
    monkeypatch.setattr(LocalStorage, "lock", lambda self, what: None)
    first, second = (LogBackend(LocalStorage(grown.backup)) for _ in range(2))
    with pytest.raises(InUse) as refused, alone("nfs://nas/export/x.bkp", first, "compact", False):
        first.open(silent)
        second.open(silent)
        if ended:
            second.close()
        first.forget_folding()
    said = str(refused.value)
    assert re.match(rf"another process \(.*process {os.getpid()}\b.*\) has begun to write", said)
    assert ("has ended by now" in said) is ended
    assert "Wait until that one has ended" in said


def test_file_that_another_process_removes_is_told_as_that(grown: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as "No such file or directory", which is no sentence for anybody."""
    space = LocalStorage.space

    def removed(self: LocalStorage) -> object:
        raise FileNotFoundError(2, "No such file or directory", "segment-00000007")

    monkeypatch.setattr(LocalStorage, "space", removed)
    assert_refused(backup_cli("status", grown.url), r"segment-00000007.*removed while it was in use.*wait until")
    monkeypatch.setattr(LocalStorage, "space", space)
    assert backup_cli("status", grown.url).code == 0
