"""A lock's file is removed with the lock, and still never admits two holders: tried by processes that take turns."""

import fcntl
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from backends.system.locks import FileLock, Locked

CAMPAIGN = os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN", "0") != "0"
PROCESSES, SECONDS = (12, 60.0) if CAMPAIGN else (6, 1.5)

TAKE_TURNS = """
import os, sys, time
from pathlib import Path
from backends.system.locks import FileLock, Locked
path, until = Path(sys.argv[1]), time.monotonic() + float(sys.argv[2])
turns = busy = 0
while time.monotonic() < until:
    lock = FileLock(path, "taking turns")
    try:
        lock.acquire()
    except Locked:
        busy += 1
        continue
    try:
        os.close(os.open(path.with_name("inside"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        print("TWO AT ONCE", flush=True)
        sys.exit(1)
    if turns % 3 == 0:
        time.sleep(0.0005)
    os.unlink(path.with_name("inside"))
    lock.release()
    turns += 1
print(turns, busy)
"""


def test_lock_that_removes_its_file_never_admits_two_processes(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    began = [
        subprocess.Popen([sys.executable, "-c", TAKE_TURNS, path, str(SECONDS)], stdout=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    told = [process.communicate()[0] for process in began]
    assert [process.returncode for process in began] == [0] * PROCESSES, told
    turns = Counter({number: int(line.split()[0]) for number, line in enumerate(told)})
    assert min(turns.values()) > 0
    assert turns.total() > 100
    assert list(tmp_path.iterdir()) == []


def test_lock_file_is_removed_on_release(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock", "test")
    lock.acquire()
    assert (tmp_path / "lock").exists()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    lock.acquire()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_lock_taken_on_file_just_removed_is_taken_again_on_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file was opened before its holder removed it, and locked afterwards: nobody else would find that lock."""
    first, second, third = (FileLock(tmp_path / "lock", name) for name in ("first", "second", "third"))
    first.acquire()
    real = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        first.release()
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    second.acquire()
    with pytest.raises(Locked, match=f"pid {os.getpid()}, second"):
        third.acquire()
    second.release()
    third.acquire()
    third.release()


def test_lock_file_of_another_holder_is_not_removed_on_release(tmp_path: Path) -> None:
    """Somebody deleted the lock's file by hand, and another process has created its own since."""
    first, second = FileLock(tmp_path / "lock", "first"), FileLock(tmp_path / "lock", "second")
    first.acquire()
    (tmp_path / "lock").unlink()
    second.acquire()
    first.release()
    assert (tmp_path / "lock").read_text() == f"{os.getpid()} second\n"
    with pytest.raises(Locked):
        first.acquire()


def test_lock_file_on_a_share_stays_after_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next holder, on another machine, may not see for seconds that the file was removed."""
    monkeypatch.setattr("backends.system.locks._REMOVABLE", frozenset())
    lock = FileLock(tmp_path / "lock", "test")
    lock.acquire()
    lock.release()
    assert (tmp_path / "lock").read_text() == ""
    lock.acquire()
    with pytest.raises(Locked):
        FileLock(tmp_path / "lock", "test").acquire()


def test_look_at_lock_creates_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    FileLock(path, "test").look()
    assert list(tmp_path.iterdir()) == []
    path.write_text("1 from a former life\n")
    before = path.stat()
    FileLock(path, "test").look()
    assert path.read_text() == "1 from a former life\n"
    assert path.stat() == before
    lock = FileLock(path, "the holder")
    lock.acquire()
    with pytest.raises(Locked, match="the holder"):
        FileLock(path, "test").look()
    with pytest.raises(Locked):
        FileLock(path, "test").look()
    lock.release()


def test_lock_leaks_no_descriptors(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        lock = FileLock(tmp_path / "lock", "test", directory)
        lock.acquire()
        with pytest.raises(Locked):
            FileLock(tmp_path / "lock", "test", directory).acquire()
        lock.release()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    os.close(directory)
