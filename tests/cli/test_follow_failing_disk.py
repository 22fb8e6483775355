"""`backup-cli follow` whose own disk fails, is full or goes away: the copy stays a whole state, and the backup is not
blamed."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext, suppress
from pathlib import Path

import pytest

from backends import backup_at
from backends.change import Change
from backends.node.following import COPY, NOTE
from tests.cli.cli_asserts import assert_refused
from tests.cli.following import once, promote
from tests.end_to_end.db_compare import compared, everything
from tests.end_to_end.following import Follower
from tests.end_to_end.world import Said, World, command, spawned, tree
from tests.fake_lightningd import History
from tests.log.histories import silent
from tests.small_disk import needs_small_disks, small_disk


class FailingDisk:
    """`backup-cli follow` for a copy in `warm`, with a disk that fails when it is told so."""

    def __init__(self, directory: Path, world: World, warm: Path) -> None:
        self._world, self._warm, self._control = world, warm, directory / "failing"
        self._library = directory / "failing_disk.so"
        source = Path(__file__).with_name("failing_disk.c")
        words = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]
        subprocess.run([*words, self._library, source, "-ldl"], check=True)

    def follow(self, mode: str, operations: str, name: str) -> Said:
        """Run the command while these operations fail on the file `name`."""
        self._control.write_text(f"{operations} {name}")
        environment = {"LD_PRELOAD": str(self._library), "FAILING": str(self._control)}
        words = command("follow", mode, *self._world.key_options, self._world.url, self._warm)
        return spawned(*words, environment=environment)


@pytest.fixture
def failing(tmp_path: Path, lived: World, warm: Path) -> FailingDisk:
    """The copy lacks no change."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc, for a library that lets calls fail")
    assert once(lived, warm).code == 0
    return FailingDisk(tmp_path, lived, warm)


FAILURES = [
    ("write", COPY, "could not be read or written: disk I/O error"),
    ("sync", COPY, "could not be read or written: disk I/O error"),
    ("write", f"{COPY}-journal", "could not be read or written: disk I/O error"),
    ("pread", COPY, "cannot be read: Input/output error. The backup is not at fault"),
    ("sync", f"{NOTE}.tmp", f"{NOTE} cannot be used: Input/output error"),
]


def test_failing_disk_leaves_a_whole_copy_which_goes_on_and_does_not_blame_the_backup(
    failing: FailingDisk, lived: World, history: History, warm: Path
) -> None:
    before = everything(warm / COPY)
    lived.run(history.notes(2))
    for operations, name, why in FAILURES:
        if name.startswith(NOTE):
            assert compared(everything(warm / COPY), before) == []
        said = failing.follow("--once", operations, name)
        assert said.code == 1 and why in said.err, (operations, name, said)
        assert str(warm) in said.err and "Traceback" not in said.err
    assert not (lived.backup / "damage").exists()
    assert once(lived, warm).code == 0
    assert compared(everything(warm / COPY), everything(lived.database)) == []


def test_promotion_whose_disk_fails_after_the_fence_says_what_to_do_and_is_repeated(
    failing: FailingDisk, lived: World, warm: Path
) -> None:
    """It said no more than that the file cannot be used, and the old node was fenced already."""
    said = failing.follow("--promote", "sync", COPY)
    assert said.code == 1 and "the backup may have been taken over already" in said.err, said
    assert (warm / COPY).exists() and not (warm / "lightningd.sqlite3").exists()
    assert promote(lived, warm).code == 0
    assert compared(everything(warm / "lightningd.sqlite3"), everything(lived.database)) == []


# A full disk


@pytest.fixture
def small(lived: World, warm: Path) -> Iterator[Path]:
    """A small disk, on which the copy is, in step."""
    with small_disk(warm, 6 << 20):
        assert once(lived, warm).code == 0
        yield warm


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    filler = disk / "filler"
    with filler.open("wb") as file, suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(1024))
    return filler


@needs_small_disks
def test_running_follower_waits_for_space_says_so_once_and_goes_on(small: Path, lived: World, history: History) -> None:
    """It could not even begin: the file of its lock has no space for the name of its holder."""
    filler = fill(small)
    follower = Follower(lived, destination=small).start()
    try:
        _wait(lambda: "In step" in follower.said)
        lived.run([history.note(os.urandom(50_000).hex())])
        _wait(lambda: "NOT in step" in follower.said)
        assert follower.said.count(f"the disk with {small / COPY} is full") == 1
        filler.unlink()
        follower.wait_for(lived.version)
        _wait(lambda: follower.said.count("In step") == 2)
    finally:
        follower.kill()
    assert compared(everything(small / COPY), everything(lived.database)) == []


@needs_small_disks
def test_full_disk_ends_a_promotion_before_the_old_node_is_fenced(small: Path, lived: World, history: History) -> None:
    lived.run([history.note(os.urandom(50_000).hex())])
    before, filler = tree(lived.backup), fill(small)
    assert_refused(promote(lived, small), "is full")
    assert tree(lived.backup) == before
    filler.unlink()
    assert promote(lived, small).code == 0


def _wait(until: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.05)


# DEST goes away


@pytest.mark.parametrize("how", ["moved away", "replaced by another directory", "unmounted"])
def test_follower_whose_directory_goes_away_ends_and_writes_nothing_where_it_was(
    how: str, lived: World, history: History, warm: Path
) -> None:
    away = warm.with_name("away")
    follower = Follower(lived, destination=warm)
    with small_disk(warm, 6 << 20) if how == "unmounted" and os.geteuid() == 0 else nullcontext():
        follower.start()
        try:
            _wait(lambda: "In step" in follower.said)
            if how == "unmounted":
                if not warm.is_mount():
                    pytest.skip("needs root, to mount a disk")
                subprocess.run(["umount", "--lazy", warm], check=True)
            else:
                warm.rename(away)
            if how.startswith("replaced"):
                warm.mkdir()
            lived.run(history.notes(1))
            assert follower.process is not None and follower.process.wait(20) == 1
            follower.process = None
            assert "was moved away or replaced while it followed the backup" in follower.said
            assert "NOT in step" not in follower.said
        finally:
            follower.kill()
    assert not warm.exists() or list(warm.iterdir()) == []


# The writer is frozen


def test_frozen_writer_is_followed_when_it_goes_on_and_nothing_is_promoted_beside_it(
    lived: World, history: History, warm: Path
) -> None:
    """Nobody can tell it from a node that has nothing to do; its lock shows that it is alive."""
    with lived.node() as node:
        node.play(history.notes(2))
        os.kill(node.pid, signal.SIGSTOP)
        try:
            assert once(lived, warm).code == 0
            for options in ((), ("--take-over",)):
                assert_refused(promote(lived, warm, *options), "is writing to this backup. Nothing was promoted")
        finally:
            os.kill(node.pid, signal.SIGCONT)
        node.play(history.notes(2))
    assert once(lived, warm).code == 0
    assert compared(everything(warm / COPY), everything(lived.database)) == []


def test_writer_that_dies_in_the_middle_of_a_record_is_followed_up_to_the_record_before(
    lived: World, history: History, warm: Path
) -> None:
    """And its successor, which cuts the rest off."""
    assert once(lived, warm).code == 0
    before, call = everything(warm / COPY), history.note("x" * 5000)
    writer = backup_at(lived.url).open(silent)
    segment = lived.backup / writer._segments.current.name
    at = writer._segments.current.end
    writer.append(Change(call.data_version, list(call.writes)))
    with segment.open("r+b") as file:  # as of a moment before
        file.seek(at + (writer._segments.current.end - at) // 2)
        file.write(bytes(5000))
    writer._lock.release()
    assert once(lived, warm).code == 0
    assert compared(everything(warm / COPY), before) == []
    with closing(backup_at(lived.url).open(silent)) as successor:
        assert successor.position.data_version == lived.version
        successor.append(Change(call.data_version, list(call.writes)))
    assert once(lived, warm).code == 0
    lived.run_without_plugin([call])
    assert compared(everything(warm / COPY), everything(lived.database)) == []
