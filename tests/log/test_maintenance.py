"""The hook's thread and the maintenance thread at work together, in every order of their steps that may matter."""

import errno
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from backends.base import MAX_ROLL_FORWARD
from backends.compaction.compact import LEAVE_OUT_MIN, compact_log
from backends.errors import BackupError
from backends.log.reader.opening import open_generation as really_open
from backends.log.writer.options import LogOptions
from backends.log.writer.segments import Segments
from backends.log.writer.writer import Writer
from backends.sqlite.rebuild import rebuild
from tests.log.histories import Node, backup_in, database, noise, rows, source
from tests.log.model import Contents, contents
from tests.storage.faulty import FaultyStorage
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

pytestmark = pytest.mark.usefixtures("readers_do_not_wait")


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk()


@pytest.fixture
def node(disk: SimulatedDisk, tmp_path: Path, small: LogOptions) -> Node:
    """A new node whose schema is saved."""
    node = Node(SimulatedStorage(disk), tmp_path, options=small)
    node.create()
    node.open()
    node.append(node.history.first())
    return node


@contextmanager
def at_each_point(disk: SimulatedDisk, act: Callable[[], None]) -> Iterator[None]:
    """Call `act` before each effect that anything else has on the disk."""

    def watch() -> None:
        disk.watch = None
        act()
        disk.watch = watch

    disk.watch = watch
    yield
    disk.watch = None


@contextmanager
def at_each_line(codes: set[CodeType], act: Callable[[], None]) -> Iterator[None]:
    """Call `act` before each line of these functions."""

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code not in codes:
            return None
        if event == "line":
            act()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def check(node: Node) -> None:
    """Everything acknowledged is there, now and after the writer was killed."""
    assert contents(node.backup()) == node.now.contents
    node.open("again")
    node.note("goes on")
    assert contents(node.backup()) == node.now.contents


def test_commits_at_each_point_of_maintenance_are_kept(node: Node, disk: SimulatedDisk) -> None:
    node.options = replace(node.options, preallocate_min=16 << 10, preallocate_max=16 << 10)
    node.open("with space for what is committed during one maintenance")
    for seed in range(60):
        node.note(noise(700, seed))
        with at_each_point(disk, node.note):
            node.writer.maintain()
    assert len(node.now.changes) > 500
    check(node)


def test_commits_at_each_point_of_compaction_are_kept(node: Node, disk: SimulatedDisk) -> None:
    for seed in range(30):
        node.note(noise(700, seed))
        node.writer.maintain()
    with at_each_point(disk, node.note):
        compacted = compact_log(node.storage, node.scratch, leave_out=1)
    assert compacted is not None
    before = contents(node.backup())
    committed = len(node.now.changes)
    with at_each_point(disk, node.note):
        node.writer.publish_compaction(compacted)
    assert len(node.now.changes) > committed + 5
    found = contents(node.backup())
    assert (before.generation, found.generation) == (1, 2)
    assert 1 < len(found.changes) < len(node.now.changes)
    assert found.changes == node.now.contents.changes[-len(found.changes) :]


def test_progress_of_compaction_reaches_the_end_only_when_it_is_done(node: Node) -> None:
    """It is at one half when the database is rebuilt: for a large one, half of the time is still to come."""
    for seed in range(300):
        node.note(noise(700, seed))
    shown: list[float] = []
    assert compact_log(node.storage, node.scratch, lambda done, total: shown.append(done / total)) is not None
    assert shown == sorted(shown)
    assert 0.0 < shown[0] < 0.5
    assert 0.5 in shown
    assert shown[-2] < shown[-1] == 1.0


def test_database_rebuilt_for_compaction_is_not_synced(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is deleted a moment later, and is on the node's own disk, often a card that wears out."""
    synced: list[Path] = []
    monkeypatch.setattr("backends.sqlite.replay.sync", synced.append)
    for _ in range(5):
        node.note()
    node.compact()
    assert synced == []
    with node.backup().read() as generation:
        rebuild(generation, node.scratch / "restored")
    assert synced == [node.scratch / "restored"]
    check(node)


def test_maintenance_at_each_line_of_a_commit_loses_nothing(node: Node) -> None:
    """The next segment, to which the commit moves, must not be created again over the one that is being written."""
    node.options = replace(node.options, segment_size=600)
    node.open("with a segment for each commit")
    codes = {function.__code__ for function in (Writer.append, Segments.for_record, Segments.go_on)}
    writer = node.writer
    first = writer.position.sequence
    for seed in range(20):
        with at_each_line(codes, lambda: None if writer._slow.locked() else writer.preallocate()):
            node.note(noise(400, seed))
    assert writer.position.sequence == first + 20
    assert contents(node.backup()) == node.now.contents
    assert writer.segment_index > 10
    check(node)


def test_new_snapshot_during_compaction_makes_it_refuse(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compacted snapshot belongs to a generation that is gone; publishing it would destroy the new one."""
    for _ in range(5):
        node.note()
    times = iter(range(10))

    def opening(storage: SimulatedStorage) -> object:
        if next(times) == 1:
            node.snapshot()
            node.note("after it")
            node.note("after it, too")
        return really_open(storage)

    monkeypatch.setattr("backends.compaction.compact.open_generation", opening)
    with pytest.raises(BackupError, match="overtaken"):
        compact_log(node.storage, node.scratch, leave_out=1)
    check(node)


def test_new_snapshot_after_compaction_keeps_it_from_being_published(node: Node) -> None:
    for _ in range(5):
        node.note()
    compacted = compact_log(node.storage, node.scratch, leave_out=1)
    assert compacted is not None
    node.snapshot()
    node.note("after it")
    with pytest.raises(BackupError, match="overtaken"):
        node.writer.publish_compaction(compacted)
    check(node)


def test_compaction_whose_rename_was_not_synced_gives_its_number_to_no_other_snapshot(
    node: Node, disk: SimulatedDisk
) -> None:
    """The manifest was renamed and the sync after it failed: no other snapshot may get its generation number."""
    storage = FaultyStorage(node.storage)
    node.writer.close()
    node.storage = storage
    node.open()
    for _ in range(5):
        node.note()
    compacted = compact_log(node.storage, node.scratch, leave_out=1)
    assert compacted is not None
    storage.fail("sync_names", errno.EIO, nth=2)
    with pytest.raises(BackupError):
        node.writer.publish_compaction(compacted)
    with node.backup().read() as generation:
        assert generation.manifest.generation == 2
    node.note()
    again = compact_log(node.storage, node.scratch, leave_out=1)
    assert again is not None
    node.writer.publish_compaction(again)
    with node.backup().read() as generation:
        assert generation.manifest.generation == 3
    node.note()
    compacted = compact_log(node.storage, node.scratch, leave_out=1)
    assert compacted is not None
    storage.fail("sync_names", errno.EIO, nth=2)
    with pytest.raises(BackupError):
        node.writer.publish_compaction(compacted)
    committed = node.now.contents.changes
    data = database(node.now.committed)
    found: list[Contents] = []
    disk.watch = lambda: found.append(contents(backup_in(SimulatedStorage(disk.crash(random.Random(len(found)))))))
    node.writer.take_snapshot(source(data, node.now.version), "test")
    disk.watch = None
    assert {one.generation for one in found} >= {3, 5}
    for one in found:
        if one.generation == 5:
            assert (one.snapshot, one.changes) == (data, ())
        else:
            assert one.changes == committed[-len(one.changes) :]
            assert rows(one.snapshot) == rows(database(node.now.committed[: -len(one.changes)]))


@pytest.mark.parametrize("ahead", [False, True], ids=["no next segment", "made in advance"])
def test_record_that_does_not_fit_goes_to_next_segment(node: Node, ahead: bool) -> None:
    """A record that does not fit into its segment needs the next one at once, made in advance or not."""
    node.note(noise(6000))
    node.options = replace(node.options, max_file=node.writer.sizes().segments + 1200)
    node.open("with a file that is nearly full")
    if ahead:
        node.writer.maintain()
    assert ("segment-00000002" in node.storage.names()) == ahead
    assert node.writer.segment_index == 1
    node.note(noise(1000))
    assert node.writer.segment_index == 2
    check(node)


def test_compaction_leaves_out_fewer_changes_when_they_are_large(node: Node) -> None:
    """Sixteen changes of a mebibyte each, left out, would make the next compaction due at once, and so on."""
    for seed in range(20):
        node.note(noise(1 << 20, seed))
    compacted = compact_log(node.storage, node.scratch)
    assert compacted is not None
    node.writer.publish_compaction(compacted)
    left = contents(node.backup()).changes
    assert LEAVE_OUT_MIN <= len(left) < MAX_ROLL_FORWARD
    assert [version for version, _ in left] == [*range(22 - len(left), 22)]


def test_compaction_leaves_out_the_minimum_however_large_the_changes(node: Node) -> None:
    node.note()
    for seed in range(3):
        node.note(noise(5 << 20, seed))
    compacted = compact_log(node.storage, node.scratch)
    assert compacted is not None
    node.writer.publish_compaction(compacted)
    assert len(contents(node.backup()).changes) == LEAVE_OUT_MIN
