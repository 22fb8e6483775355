"""Other users' processes may end while they are read, and may have any name: the code must always give an answer."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.node import processes as module
from backends.node.processes import Process, family, opened, other_pids, process, superblock_of, works_in
from backends.node.running import lightningd_has_started, running_lightningd, used_by_another

STATUS = b"Name:\tlightningd\nState:\tS (sleeping)\nPid:\t4711\nPPid:\t1\nUid:\t%s\nGid:\t%s\n"
SCENES = 4000 if os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN") else 200


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "lightning" / "regtest"
    path.mkdir(parents=True)
    (path / "lightningd.sqlite3").write_bytes(b"")
    return path


@pytest.fixture
def lightningd(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up /proc with one lightningd of this user that works in the directory; returns its entry."""
    proc = tmp_path / "proc"
    monkeypatch.setattr(module, "PROC", proc)
    made = proc / "4711"
    for name in ("fd", "fdinfo"):
        (made / name).mkdir(parents=True)
    (made / "cwd").symlink_to(directory)
    (made / "fd" / "7").symlink_to(directory / "lightningd.sqlite3")
    (made / "fdinfo" / "7").write_text("pos:\t0\nflags:\t0100002\nmnt_id:\t31\n")
    (made / "mountinfo").write_text("31 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    mine, ours = b"%d " % os.getuid() * 4, b"%d " % os.getgid() * 4
    (made / "status").write_bytes(STATUS % (mine, ours))
    (made / "cmdline").write_bytes(f"lightningd\0--lightning-dir={directory.parent}\0".encode())
    return made


def test_lightningd_in_proc_is_found_with_its_command_line(lightningd: Path, directory: Path) -> None:
    assert running_lightningd(directory) == 4711
    found = process(4711)
    assert found is not None
    assert found.words == ["lightningd", f"--lightning-dir={directory.parent}"]


ODD = [b"", b"\0", b"\0\0\0", b"\xff\xfe\0\x80", b"lightningd", b"lightningd\0", b"/\0--lightning-dir\0", b"a" * 70000,
       b"\n:\n", b"Uid:\nGid:\nName:\nState:\nPPid:\n", STATUS % (b"x", b"y"), STATUS % (b"-1", b"9" * 30),
       b"flags:\tzz\nmnt_id:\t31"]  # fmt: skip


@pytest.mark.parametrize("denied", [False, True])
def test_process_that_ends_while_read_or_has_odd_entries_never_raises(
    lightningd: Path, directory: Path, monkeypatch: pytest.MonkeyPatch, denied: bool
) -> None:
    """From a real failure: root's lightningd was just ending, and still had its name but no command line any more."""
    if denied:
        monkeypatch.setattr("backends.node.running.works_in", lambda pid, directory: None)
    whole = {name: (lightningd / name).read_bytes() for name in ("status", "cmdline", "mountinfo", "fdinfo/7")}
    for name, content in whole.items():
        path = lightningd / name
        for odd in [*ODD, content[: len(content) // 2], content[:-1] + b"\xff"]:
            path.write_bytes(odd)
            ask(directory)
        path.unlink()
        ask(directory)
        path.mkdir()  # gives another kind of error
        ask(directory)
        path.rmdir()
        path.write_bytes(content)
    assert running_lightningd(directory) == 4711
    for link in ("cwd", "fd/7"):
        (lightningd / link).unlink()
        ask(directory)
        (lightningd / link).symlink_to(link.rpartition("/")[2])  # a circular link
        ask(directory)


def test_random_command_line_of_a_process_never_raises(
    lightningd: Path, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.node.running.works_in", lambda pid, directory: None)
    chance = random.Random(1)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    words = [b"lightningd", b"--lightning-dir", b"--lightning-dir=%s" % bytes(loop), b"--network=\xff", b"", b"~",
             b"\0", b"--lightning-dir=/" + b"x/" * 3000, b"--main", b"=", b"--lightning-dir=" + b"y" * 99]  # fmt: skip
    for _ in range(SCENES):
        (lightningd / "cmdline").write_bytes(b"\0".join(chance.choices(words, k=chance.randrange(6))))
        ask(directory)


def ask(directory: Path) -> None:
    """Call everything that examines other processes."""
    running_lightningd(directory)
    used_by_another(directory)
    lightningd_has_started(directory)


def test_lightning_dir_option_that_is_a_circular_link_finds_no_node(
    lightningd: Path, directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (lightningd / "cmdline").write_bytes(b"lightningd\0--lightning-dir=%s\0" % bytes(tmp_path / "loop"))
    (lightningd / "cwd").unlink()
    (lightningd / "fd" / "7").unlink()
    assert running_lightningd(directory) is None


@pytest.mark.parametrize("look", [process, lambda pid: works_in(pid, Path("/"))])
def test_real_processes_that_end_while_read_never_raise(look: Callable[[int], object]) -> None:
    """Hundreds of real processes that start and end."""
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            subprocess.run(["lightningd"], executable="/bin/true", check=True)

    coming = threading.Thread(target=come_and_go)
    coming.start()
    try:
        for _ in range(60):
            for pid in other_pids():
                look(pid)
    finally:
        stop.set()
        coming.join()


@pytest.mark.parametrize(
    ("users", "groups", "counts"),
    [
        ([1000], [1000], True),
        ([0], [0], True),
        ([0], [65534], False),  # a setuid program that has become root entirely
        ([65534, 0], [65534], False),  # a setuid program
        ([65534], [65534], False),
        ([1000, 65534], [1000], False),
        ([1000], [65534], True),
    ],
)
def test_process_counts_as_ours_by_user_and_group(users: list[int], groups: list[int], counts: bool) -> None:
    made = Process(1, 1, "lightningd", [], frozenset(users), frozenset(groups), False)
    assert made.belongs_to({0, 1000}) is counts


def test_family_of_this_process_holds_it_and_its_parent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert {os.getpid(), os.getppid()} <= family()
    monkeypatch.setattr(module, "PROC", tmp_path)
    assert family() == {os.getpid(), os.getppid()}


def test_zombie_process_has_ended_and_dead_pid_is_none() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    zombie = process(child.pid)
    assert zombie is not None
    assert zombie.ended
    child.communicate()
    assert process(child.pid) is None


def test_file_open_for_writing_is_distinguished_from_open_for_reading(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    facts = (file.stat(), file.name, superblock_of(file))
    assert facts[2] is not None
    assert opened(os.getpid(), *facts) is None
    with file.open("rb"):
        assert opened(os.getpid(), *facts) is False
        with file.open("ab"):
            assert opened(os.getpid(), *facts) is True
        assert opened(os.getpid(), facts[0], facts[1], "0:0") is None  # not examined: it may hang
