"""Whether a lightningd is running in a directory, tried with real processes."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from backends.errors import BackupError
from backends.node import running as module
from backends.node.running import refuse_if_running, running_lightningd
from tests.node.processes import running

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of other users")

LOCK = "f = open(a[0], 'w'); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB); f.write(f'{os.getpid()}\\n'); f.flush()"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A network directory with everything that a crash leaves behind."""
    path = tmp_path / "lightning" / "regtest"
    path.mkdir(parents=True)
    with closing(sqlite3.connect(path / "lightningd.sqlite3")) as database, database:
        database.execute("CREATE TABLE vars (name TEXT)")
    (path.parent / "lightningd-regtest.pid").write_text(f"{os.getppid()}\n")
    os.mknod(path / "lightning-rpc", stat.S_IFSOCK | 0o600)
    return path


def test_leftovers_of_a_crash_are_no_running_node(directory: Path) -> None:
    assert running_lightningd(directory) is None
    refuse_if_running(directory)


def test_empty_or_missing_directory_has_no_running_node(tmp_path: Path) -> None:
    assert running_lightningd(tmp_path) is None
    assert running_lightningd(tmp_path / "missing") is None


def test_lock_on_pid_file_shows_a_running_node(directory: Path) -> None:
    with running(LOCK, directory.parent / "lightningd-regtest.pid") as node:
        assert running_lightningd(directory) == node.pid
        with pytest.raises(BackupError, match=f"process {node.pid} holds the lock on .*lightning-cli stop"):
            refuse_if_running(directory)
        node.send_signal(signal.SIGKILL)
        node.wait()
        assert running_lightningd(directory) is None


def test_lock_on_pid_file_of_another_network_does_not_count(directory: Path) -> None:
    with running(LOCK, directory.parent / "lightningd-bitcoin.pid"):
        assert running_lightningd(directory) is None


def test_lock_on_pid_file_beside_a_link_to_the_directory_counts(directory: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk"
    directory.rename(elsewhere)
    directory.symlink_to(elsewhere)
    with running(LOCK, directory.parent / "lightningd-regtest.pid") as node:
        assert running_lightningd(directory) == node.pid


def test_query_for_running_node_never_takes_the_pid_file_lock(directory: Path) -> None:
    """A lightningd that starts during the query must not find its pid file locked."""
    program = "f = open(a[0], 'r+')\nfor i in range(20000):\n"
    program += "    fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n    fcntl.lockf(f, fcntl.LOCK_UN)"
    pid_file = directory.parent / "lightningd-regtest.pid"
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            module._lock_holder(pid_file, [os.getuid()])

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with running(program, pid_file):  # it would end at the first lock that it cannot get
            pass
    finally:
        stop.set()
        asking.join()


def test_pid_file_lock_held_without_a_local_pid_counts(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_lock_holder", lambda path, users: 0)
    assert running_lightningd(directory) == 0
    with pytest.raises(BackupError, match="another machine or in another container"):
        refuse_if_running(directory)


def test_process_named_lightningd_by_command_line_in_directory_counts(directory: Path) -> None:
    with running("", directory=directory, name=["/usr/bin/lightningd", "--regtest"]) as node:
        assert running_lightningd(directory) == node.pid
        with pytest.raises(BackupError, match=f"process {node.pid} is a lightningd that works there"):
            refuse_if_running(directory)


def test_process_named_lightningd_by_executable_in_directory_counts(directory: Path, tmp_path: Path) -> None:
    program = tmp_path / "lightningd"
    program.symlink_to(sys.executable)
    with running("", directory=directory, executable=program) as node:
        assert running_lightningd(directory) == node.pid


def test_lightningd_elsewhere_or_other_program_in_directory_does_not_count(directory: Path, tmp_path: Path) -> None:
    with running("", directory=tmp_path, name=["lightningd"]), running("", directory=directory):
        assert running_lightningd(directory) is None


def _hide_directory_of(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the directory of this process only: another lightningd may be running on this machine."""
    monkeypatch.setattr(module, "works_in", lambda other, directory: None if other == pid else False)


@pytest.mark.parametrize(
    ("options", "holds"),
    [
        (["--lightning-dir={base}", "--network=regtest"], True),
        (["--lightning-dir", "{base}", "--regtest"], True),
        (["--lightning-dir={base}"], True),  # the configuration file may name the network
        (["--lightning-dir={base}", "--network", "bitcoin"], False),
        (["--lightning-dir={base}", "--mainnet"], False),
        (["--lightning-dir={base}/other", "--network=regtest"], False),
        (["--lightning-dir=relative", "--network=regtest"], False),
        (["--network=regtest"], False),  # the user's own ~/.lightning
    ],
)
def test_lightningd_of_root_is_recognised_by_its_command_line_alone(
    directory: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], holds: bool
) -> None:
    words = [option.format(base=directory.parent) for option in options]
    with running("", name=["lightningd", *words]) as node:
        _hide_directory_of(node.pid, monkeypatch)
        assert running_lightningd(directory) == (node.pid if holds else None)


def test_lightningd_of_root_without_options_counts_for_its_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / ".lightning" / "bitcoin"
    directory.mkdir(parents=True)

    with running("", name=["lightningd", "--daemon"]) as node:
        _hide_directory_of(node.pid, monkeypatch)
        monkeypatch.setattr(module, "_home_of", lambda process: str(tmp_path / ".lightning"))
        assert running_lightningd(directory) == node.pid


def test_process_with_database_open_counts(directory: Path) -> None:
    with running("f = open(a[0], 'rb')", directory / "lightningd.sqlite3") as reader:
        assert running_lightningd(directory) == reader.pid
        with pytest.raises(BackupError, match=f"process {reader.pid} \\(.*\\) has .*lightningd.sqlite3 open"):
            refuse_if_running(directory)
    assert running_lightningd(directory) is None


def test_process_with_database_open_by_another_path_counts(directory: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(directory)
    with running("f = open(a[0], 'rb')", link / "lightningd.sqlite3") as reader:
        assert running_lightningd(directory) == reader.pid


def test_own_process_with_database_open_does_not_count(directory: Path) -> None:
    with (directory / "lightningd.sqlite3").open("rb"):
        assert running_lightningd(directory) is None


def test_zombie_lightningd_does_not_count(directory: Path) -> None:
    with running("", directory=directory, name=["lightningd"]) as node:
        node.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, node.pid, os.WEXITED | os.WNOWAIT)
        assert running_lightningd(directory) is None


def test_read_lock_on_pid_file_does_not_count(directory: Path) -> None:
    """Whoever can read the pid file can hold a read lock on it; lightningd takes a write lock."""
    program = "f = open(a[0]); fcntl.lockf(f, fcntl.LOCK_SH | fcntl.LOCK_NB)"
    with running(program, directory.parent / "lightningd-regtest.pid"):
        assert running_lightningd(directory) is None


@only_root
def test_other_user_with_database_open_counts_only_for_writing(directory: Path) -> None:
    database = directory / "lightningd.sqlite3"
    with running("f = open(a[0], 'r+b'); os.setuid(65534)", database) as writer:
        assert running_lightningd(directory) == writer.pid
    with running("f = open(a[0], 'rb'); os.setuid(65534)", database):
        assert running_lightningd(directory) is None


@only_root
def test_lock_held_by_other_user_counts_while_pid_file_is_the_owners_alone(directory: Path) -> None:
    """Only the owner or root could open it for writing, and gave it away. If others may write, it may be anybody's."""
    pid_file = directory.parent / "lightningd-regtest.pid"
    pid_file.chmod(0o644)
    with running(f"{LOCK}; os.setuid(65534)", pid_file) as node:
        assert running_lightningd(directory) == node.pid
        pid_file.chmod(0o666)
        assert running_lightningd(directory) is None


@only_root
def test_node_run_by_its_own_user_counts_for_root(directory: Path) -> None:
    for path in (directory, directory / "lightningd.sqlite3", directory.parent / "lightningd-regtest.pid"):
        os.chown(path, 65533, 65533)
    with running("os.setgid(65533); os.setuid(65533)", directory=directory, name=["lightningd"]) as node:
        assert running_lightningd(directory) == node.pid


@only_root
def test_lock_held_in_another_pid_namespace_counts(directory: Path) -> None:
    """As beside a container: the holder has no PID here, but a node is running."""
    program = "import sys; from pathlib import Path; from backends.node.running import running_lightningd as f\n"
    program += "print(f(Path(sys.argv[1])))"
    inside = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", program, str(directory)]
    if subprocess.run([*inside[:4], "true"], capture_output=True).returncode:
        pytest.skip("PID namespaces are not allowed here")
    with running(LOCK, directory.parent / "lightningd-regtest.pid"):
        assert subprocess.check_output(inside, text=True) == "0\n"
    assert subprocess.check_output(inside, text=True) == "None\n"
