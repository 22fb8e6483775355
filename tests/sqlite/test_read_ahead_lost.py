"""The process that reads a log ahead is killed, is silent, leaves something out, or is not wanted any more."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backends.log.reader.passes import StoredChange
from backends.sqlite import read_ahead
from backends.sqlite.read_ahead import reading
from tests.sqlite.ahead import helped, many, plain, stored

pytestmark = [
    pytest.mark.usefixtures("free_processor", "quick_disk"),
    pytest.mark.skipif(read_ahead._processors() < 2, reason="with one processor, nothing is read ahead"),
]


def processes() -> list[int]:
    """The numbers of this process's children."""
    return [int(number) for number in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


needs_proc = pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="the reading process is found through /proc"
)


@pytest.fixture
def ahead_by_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reading process is in the middle of the log when this one has got its first changes."""
    monkeypatch.setattr(read_ahead, "_PIPE", 4096)
    monkeypatch.setattr(read_ahead, "_AT_ONCE", 4)


@needs_proc
@pytest.mark.usefixtures("ahead_by_little")
@pytest.mark.parametrize("hit", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "silent"])
def test_lost_reading_process_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_reading: list[int], hit: signal.Signals
) -> None:
    monkeypatch.setattr(read_ahead, "SILENCE", 0.2)
    backup = stored(tmp_path / "backup", many())
    expected, before = plain(backup), set(processes())

    def lose(number: int) -> None:
        if number == 20:
            (reading_process,) = set(processes()) - before
            os.kill(reading_process, hit)

    assert helped(backup, lose) == expected
    assert len(own_reading) == 1 and 20 <= own_reading[0] < 400
    assert set(processes()) <= before


@pytest.mark.usefixtures("ahead_by_little")
def test_change_that_does_not_follow_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_reading: list[int]
) -> None:
    backup = stored(tmp_path / "backup", many())
    send = read_ahead._send

    def leaving_out(pipe: int, changes: object, segment: int, batch: list[StoredChange], end: object) -> None:
        if not batch or batch[0][1] != 101:  # the sequence
            send(pipe, changes, segment, batch, end)  # type: ignore[arg-type]

    monkeypatch.setattr(read_ahead, "_AT_ONCE", 1)
    monkeypatch.setattr(read_ahead, "_send", leaving_out)
    assert helped(backup) == plain(backup)
    assert own_reading == [100]


def test_without_a_second_process_this_one_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_reading: list[int]
) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    backup = stored(tmp_path / "backup", many(20))
    monkeypatch.setattr(os, "fork", fork)
    assert helped(backup) == plain(backup)
    assert own_reading == [0]


@needs_proc
@pytest.mark.usefixtures("ahead_by_little")
def test_reading_process_ends_when_the_rest_is_not_wanted(tmp_path: Path) -> None:
    backup, before = stored(tmp_path / "backup", many()), set(processes())
    with backup.read() as reader, reading(reader, 0) as changes:
        assert next(iter(changes)).sequence == 1
        assert len(set(processes()) - before) == 1
        with pytest.raises(RuntimeError):
            changes.end()
    assert set(processes()) <= before


def runs(number: int) -> bool:
    """Whether there is such a process, and not only what nobody has asked for since it died."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


ALONE = """
import os, signal, sys
from pathlib import Path
from backends import backup_at
from backends.sqlite import read_ahead
read_ahead._PIPE, read_ahead._AT_ONCE, read_ahead._load = 4096, 1, float
with backup_at(sys.argv[1]).read() as reader, read_ahead.reading(reader, 0) as changes:
    next(iter(changes))
    print(Path(f"/proc/self/task/{os.getpid()}/children").read_text(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@needs_proc
def test_reading_process_dies_with_the_one_that_it_reads_for(tmp_path: Path) -> None:
    stored(tmp_path / "backup", many())
    command = [sys.executable, "-c", ALONE, (tmp_path / "backup").as_uri()]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout
    until = time.monotonic() + 10
    while runs(int(printed)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not runs(int(printed))
