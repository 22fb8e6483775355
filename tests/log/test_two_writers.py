"""Two machines with copies of one node's directory: the replaced writer stops, and never harms the other's log."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import Position
from backends.compaction.compact import compact_log
from backends.errors import BackupError, Fenced, WriteFailed
from backends.log.format.documents import KEPT, MANIFEST, SESSION, Session
from backends.log.format.records import snapshot_name
from backends.log.writer import fence as session
from backends.log.writer.fence import WriterFence
from backends.log.writer.options import DEFAULT_OPTIONS, LogOptions
from backends.log.writer.writer import Writer
from plugin.maintenance import TICK
from tests.log.histories import Node, backup_in, changes, noise, silent, source
from tests.log.model import contents
from tests.storage.faulty import FaultyStorage
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

MAX_SECONDS = 15
"""Seconds after which a replaced writer must refuse."""


class Clock:
    """A clock that advances only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(session, "time", clock)
    return clock


@pytest.fixture
def node(small: LogOptions, clock: Clock, tmp_path: Path) -> Node:
    """A node with the first writer and some changes."""
    options = replace(small, check_every=5.0, note_every=60.0)
    node = Node(SimulatedStorage(SimulatedDisk()), tmp_path, options=options)
    node.create()
    node.open("first")
    node.append(node.history.first())
    for seed in range(5):
        node.note(noise(1000, seed))
    return node


def replacing(node: Node) -> Writer:
    """Another writer, which takes over the first one's backup."""
    return node.backup().open(silent, "second")


def fill(second: Writer, count: int = 40) -> None:
    """Let the second writer fill many segments."""
    for change in changes(count, second.position.data_version, 500):
        second.append(change)
        second.maintain()


def last_writer(node: Node) -> str:
    last = node.backup().last_writer()
    assert last is not None
    return last.session_id


def test_replaced_writer_refuses_within_seconds(node: Node, clock: Clock) -> None:
    first, second = node.writer, replacing(node)
    began = clock.now
    with pytest.raises(Fenced, match="taken over"):
        while clock.now < began + MAX_SECONDS:
            clock.now += TICK
            first.maintain()
            first.append(changes(1, first.position.data_version)[0])
    with pytest.raises(Fenced):
        first.take_snapshot(source(b"a database", 9), "test")
    second.append(changes(1, second.position.data_version)[0])
    clock.now += MAX_SECONDS
    second.maintain()
    second.append(changes(1, second.position.data_version)[0])


def test_maintenance_of_replaced_writer_makes_no_segment_over_the_others(node: Node) -> None:
    """The replaced writer has not checked the marker yet, and its segment is nearly full."""
    first, second = node.writer, replacing(node)
    fill(second)
    before = contents(node.backup())
    first.maintain()
    with pytest.raises(Fenced):
        first.append(changes(1, first.position.data_version)[0])
    fill(second)
    assert contents(node.backup()).changes[: len(before.changes)] == before.changes
    assert len(contents(node.backup()).changes) == len(before.changes) + 40


def taken_over_while_publishing(node: Node, name: str, monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    """Another writer takes over after the first one's last check, just before the first publishes this file."""
    publish, to_open, second = node.storage.publish, [node.backup()], list[Writer]()

    def too_late(published: str, data: bytes) -> None:
        if published == name and to_open:
            backup = to_open.pop()  # first, as its own files are published by this, too
            second.append(backup.open(silent, "second"))
        publish(published, data)

    monkeypatch.setattr(node.storage, "publish", too_late)
    return second


def taken_over_after_naming(node: Node, name: str, monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    """Another writer takes over just after the first one has given a new file this name."""
    rename, second = node.storage.rename_new, list[Writer]()

    def taken_over(old: str, new: str) -> None:
        rename(old, new)
        if new == name:
            second.append(replacing(node))

    monkeypatch.setattr(node.storage, "rename_new", taken_over)
    return second


def assert_both_stop(node: Node, second: Writer, clock: Clock) -> None:
    """Both writers must stop: neither can know any more whose files are there."""
    for writer in (second, node.writer):
        clock.now += MAX_SECONDS
        writer.maintain()
        with pytest.raises(Fenced):
            writer.append(changes(1, writer.position.data_version)[0])


def test_note_written_over_other_session_marker_stops_both_writers(
    node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the first one would believe itself alone, and keep writing to a file that has no name any more."""
    second = taken_over_while_publishing(node, SESSION, monkeypatch)
    clock.now += 61
    node.writer.maintain()
    assert last_writer(node) == "first"
    assert_both_stop(node, second[0], clock)
    assert last_writer(node) == "second"


def test_manifest_written_over_other_generation_stops_both_writers(
    node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the second one would continue in segments that no reader reads any more."""
    compacted = compact_log(node.storage, node.scratch, leave_out=1)
    assert compacted is not None
    second = taken_over_while_publishing(node, MANIFEST, monkeypatch)
    node.writer.publish_compaction(compacted)
    assert_both_stop(node, second[0], clock)
    assert last_writer(node) == "second"


def test_takeover_just_before_manifest_stops_publication_of_compaction(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot already has its name; the second writer does not even notice it."""
    compacted = compact_log(node.storage, node.scratch, leave_out=1)
    assert compacted is not None
    second = taken_over_after_naming(node, snapshot_name(2), monkeypatch)
    with pytest.raises(Fenced):
        node.writer.publish_compaction(compacted)
    fill(second[0])
    assert contents(node.backup()).generation == 1


def test_replaced_writer_publishes_no_compaction(node: Node) -> None:
    first = node.writer
    compacted = compact_log(node.storage, node.scratch, leave_out=1)
    assert compacted is not None
    second = replacing(node)
    fill(second)
    before = contents(node.backup())
    with pytest.raises(Fenced):
        first.publish_compaction(compacted)
    assert contents(node.backup()) == before


def test_replaced_writer_publishes_no_new_snapshot_that_it_made_beside_the_log(node: Node) -> None:
    second = list[Writer]()

    def taken_over() -> None:
        second.append(replacing(node))
        fill(second[0])

    with pytest.raises(BackupError, match="what was saved since the copy cannot be read"):
        node.renew(taken_over)  # the second one goes on in the segment before
    names = node.storage.names()
    found = contents(node.backup())
    assert (found.generation, len(found.changes)) == (1, 6 + 40)
    assert KEPT not in names and snapshot_name(2) not in names
    second[0].close()


def test_takeover_just_before_manifest_stops_publication_of_new_snapshot(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it notes nothing as kept that the second writer would have to believe."""
    second = taken_over_after_naming(node, snapshot_name(2), monkeypatch)
    with pytest.raises(Fenced):
        node.renew()
    fill(second[0])
    found = contents(node.backup())
    assert (found.generation, len(found.changes)) == (1, 6 + 40)
    assert KEPT not in node.storage.names()


def test_replaced_writer_takes_no_snapshot(node: Node) -> None:
    first, second = node.writer, replacing(node)
    second.take_snapshot(source(b"the database of the second", 20), "test")
    fill(second)
    before = contents(node.backup())
    with pytest.raises(Fenced):
        first.take_snapshot(source(b"the database of the first", 20), "test")
    assert contents(node.backup()) == before


def test_close_of_replaced_writer_takes_nothing_away(node: Node) -> None:
    first = node.writer
    first.maintain()  # makes a segment in advance, whose name the second one will use
    second = replacing(node)
    fill(second)
    before = contents(node.backup())
    first.close()
    assert contents(node.backup()) == before
    assert last_writer(node) == "second"


def test_session_marker_gone_or_overwritten_ends_the_writer(node: Node, clock: Clock) -> None:
    for data in (None, b"", b"{}", b"\xff" * 3000, noise(500).encode()):
        told: list[tuple[str, str]] = []
        writer = node.backup().open(lambda level, line, told=told: told.append((level, line)), "writer")  # type: ignore[misc]
        if data is None:
            node.storage.remove(SESSION)
        else:
            node.storage.publish(SESSION, data)
        clock.now += MAX_SECONDS
        writer.maintain()
        assert [level for level, _ in told if level != "unusual"] == ["broken"]
        with pytest.raises(Fenced, match="gone"):
            writer.append(changes(1, writer.position.data_version)[0])
        writer.close()
        if data is not None:
            node.storage.remove(SESSION)


@pytest.mark.parametrize("data", [None, b"", b"{}"])
def test_manifest_gone_or_overwritten_ends_the_writer(node: Node, clock: Clock, data: bytes | None) -> None:
    """A directory without a manifest is no backup, whatever is still written there."""
    node.storage.remove(MANIFEST)
    if data is not None:
        node.storage.publish(MANIFEST, data)
    clock.now += MAX_SECONDS
    node.writer.maintain()
    with pytest.raises(Fenced, match="gone or overwritten"):
        node.note()


def test_destination_that_does_not_answer_is_not_taken_for_a_takeover(node: Node, clock: Clock) -> None:
    storage = FaultyStorage(node.storage)
    told: list[tuple[str, str]] = []
    writer = backup_in(storage, node.options).open(lambda level, line: told.append((level, line)), "writer")
    storage.fail("open", errno.ESTALE, sticky=True)
    for _ in range(5):
        clock.now += 6
        writer.maintain()
    assert [level for level, _ in told] == ["unusual"]
    assert "every change until now is saved" in told[0][1]
    storage.heal()
    clock.now += 6
    writer.maintain()
    writer.append(changes(1, writer.position.data_version)[0])


def test_full_disk_does_not_hide_a_takeover(node: Node, clock: Clock) -> None:
    storage = FaultyStorage(node.storage)
    first = backup_in(storage, node.options).open(silent, "first")
    storage.fail("extend", errno.ENOSPC, sticky=True)
    storage.fail("create", errno.ENOSPC, sticky=True)
    for change in changes(3, first.position.data_version, 1500):
        first.append(change)
        first.maintain()
    assert storage.struck > 0
    replacing(node)
    clock.now += MAX_SECONDS
    first.maintain()
    with pytest.raises(Fenced):
        first.append(changes(1, first.position.data_version)[0])


def test_write_failure_before_takeover_stays_the_reason(node: Node, clock: Clock) -> None:
    storage = FaultyStorage(node.storage)
    first = backup_in(storage, node.options).open(silent, "first")
    storage.fail("write_durably", errno.EIO)
    with pytest.raises(WriteFailed):
        first.append(changes(1, first.position.data_version)[0])
    replacing(node)
    clock.now += MAX_SECONDS
    first.maintain()
    with pytest.raises(WriteFailed):
        first.append(changes(1, first.position.data_version)[0])
    first.close()
    assert last_writer(node) == "second"


def noted(storage: SimulatedStorage) -> Session:
    return Session.decode(storage.read_small(SESSION))


def test_acknowledged_position_is_noted_in_session_marker_rarely(node: Node, clock: Clock) -> None:
    """To spare flash memory; the marker of an idle node is not written at all."""
    storage = FaultyStorage(node.storage)
    writer = backup_in(storage, node.options).open(silent, "writer")
    writer.maintain()  # makes a segment in advance
    storage.calls.clear()
    for _ in range(1000):
        clock.now += 1
        writer.maintain()
    assert storage.calls["rename"] == 0
    for _ in range(600):
        clock.now += 1
        writer.append(changes(1, writer.position.data_version)[0])
        writer.maintain()
        assert noted(SimulatedStorage(node.storage.disk)).sequence >= writer.position.sequence - 66  # type: ignore[attr-defined]
    marker_writes = storage.calls["rename"]
    assert 9 <= marker_writes <= 12


def test_noted_position_never_runs_ahead_of_the_log(clock: Clock) -> None:
    """The note holds the position, which advances only after a change is durable."""
    storage = SimulatedStorage(SimulatedDisk())
    storage.make()
    fence = WriterFence(storage, "one", None, 1, Position(1, 7, 0), DEFAULT_OPTIONS)
    assert noted(storage).sequence == 7
    clock.now += 100
    fence.look(lambda: Position(2, 8, 0), lambda: None)
    assert (noted(storage).sequence, noted(storage).data_version) == (8, 2)
    fence.end(Position(3, 9, 0))
    assert (noted(storage).sequence, noted(storage).closed) == (9, True)
