"""The lock that admits one writer at a time, tried with real processes that die."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backends.errors import BackupError
from backends.node.writer_lock import WRITER_LOCK_FILE, WriterLock
from tests.node.processes import running

HOLD = "f = open(a[0], 'w'); fcntl.flock(f, fcntl.LOCK_EX); f.write(f'{os.getpid()} a holder\\n'); f.flush()"


def is_free(directory: Path) -> bool:
    try:
        with WriterLock(directory, "a question"):
            return True
    except BackupError:
        return False


def test_writer_lock_is_held_and_released(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path, "a test")
    assert list(tmp_path.iterdir()) == []  # nothing before `acquire`
    lock.acquire()
    lock.acquire()
    assert not is_free(tmp_path)
    lock.release()
    lock.release()
    assert is_free(tmp_path)
    lock.acquire()
    assert not is_free(tmp_path)
    lock.release()


def test_writer_lock_file_names_its_holder_and_is_private(tmp_path: Path) -> None:
    with WriterLock(tmp_path, "a test"):
        path = tmp_path / "backup.pid"
        assert path.read_text() == f"{os.getpid()} a test\n"
        assert path.stat().st_mode & 0o777 == 0o600


def test_writer_lock_file_that_others_could_read_is_made_private(tmp_path: Path) -> None:
    """A copied or restored node directory may have such a file."""
    path = tmp_path / WRITER_LOCK_FILE
    path.write_text("")
    path.chmod(0o644)
    with WriterLock(tmp_path, "a test"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_writer_lock_is_named_after_the_program_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/bin/backup-cli", "init"])
    with WriterLock(tmp_path):
        assert (tmp_path / WRITER_LOCK_FILE).read_text() == f"{os.getpid()} backup-cli\n"


def test_refusal_of_writer_lock_names_its_holder(tmp_path: Path) -> None:
    with running(HOLD, tmp_path / WRITER_LOCK_FILE) as holder:
        with pytest.raises(BackupError, match=f"pid {holder.pid}, a holder.*nothing was changed.*lightning-cli stop"):
            WriterLock(tmp_path).acquire()
        assert (tmp_path / WRITER_LOCK_FILE).read_text() == f"{holder.pid} a holder\n"


@pytest.mark.parametrize("text", ["", "\n", "x y\n", "12 \x1b[31m\n"])
def test_refusal_of_writer_lock_without_a_readable_holder_says_so(tmp_path: Path, text: str) -> None:
    with WriterLock(tmp_path):
        (tmp_path / WRITER_LOCK_FILE).write_text(text)
        holder = r"(one that is just starting or ending|pid 12, \\x1b\[31m)"
        with pytest.raises(BackupError, match=rf"another process \({holder}\)"):
            WriterLock(tmp_path).acquire()


def test_leftover_writer_lock_file_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / WRITER_LOCK_FILE).write_text(f"{os.getppid()} a very long name from a former life of this file\n")
    with WriterLock(tmp_path, "a test"):
        assert (tmp_path / WRITER_LOCK_FILE).read_text() == f"{os.getpid()} a test\n"


def test_writer_lock_is_released_when_its_process_is_killed(tmp_path: Path) -> None:
    program = "from pathlib import Path; from backends.node.writer_lock import WriterLock\n"
    program += "lock = WriterLock(Path(a[0]), 'a node'); lock.acquire()"
    with running(program, tmp_path) as holder:
        with pytest.raises(BackupError, match=f"pid {holder.pid}, a node"):
            WriterLock(tmp_path).acquire()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert is_free(tmp_path)


def test_writer_lock_is_not_inherited_by_a_started_program(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    lock.acquire()
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        lock.release()
        assert is_free(tmp_path)
        child.kill()


def test_writer_lock_is_not_kept_by_a_forked_child(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    lock.acquire()
    go, waiting = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(waiting)
        os.read(go, 1)  # waits until the parent is done
        os._exit(0)
    try:
        assert not is_free(tmp_path)  # the child closed its descriptor, but did not release the lock
        lock._lock.forget()  # as if the parent had died
        deadline = time.monotonic() + 10
        while not is_free(tmp_path):  # the child closes its descriptor right after the fork
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.close(waiting)
        os.close(go)
        os.waitpid(child, 0)


@pytest.mark.parametrize("what", ["missing", "directory", "link"])
def test_writer_lock_that_cannot_be_taken_is_refused(tmp_path: Path, what: str) -> None:
    if what == "directory":
        (tmp_path / WRITER_LOCK_FILE).mkdir()
    elif what == "link":
        (tmp_path / WRITER_LOCK_FILE).symlink_to("/dev/null")
    directory = tmp_path / "missing" if what == "missing" else tmp_path
    with pytest.raises(BackupError, match=r"cannot be locked .*nothing was changed"):
        WriterLock(directory).acquire()
