"""Two machines with copies of one node's directory: the replaced one stops, and never harms the other's log."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import Position
from backends.compaction.compact import compact_log
from backends.errors import Fenced, WriteFailed
from backends.log.format.documents import MANIFEST, SESSION, Session
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
"""After which a replaced writer must refuse."""


class Clock:
    """Time that passes when a test says so."""

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
    """The first writer, with some changes."""
    options = replace(small, check_every=5.0, note_every=60.0)
    node = Node(SimulatedStorage(SimulatedDisk()), tmp_path, options=options)
    node.create()
    node.open("first")
    node.append(node.history.first())
    for seed in range(5):
        node.note(noise(1000, seed))
    return node


def replacing(node: Node) -> Writer:
    """Another writer that takes the first one's backup over."""
    return node.backup().open(silent, "second")


def fill(second: Writer, count: int = 40) -> None:
    """Let the second writer go on through many segments."""
    for change in changes(count, second.position.data_version, 500):
        second.append(change)
        second.maintain()


def last_writer(node: Node) -> str:
    last = node.backup().last_writer()
    assert last is not None
    return last.session_id


def test_the_replaced_one_refuses_in_time(node: Node, clock: Clock) -> None:
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


def test_a_replaced_keeper_makes_no_segment_over_the_others(node: Node) -> None:
    """It has not looked yet, and its segment is nearly full."""
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
    """Another writer takes over after the first one's last look, just before its file of this name appears."""
    publish, to_open, second = node.storage.publish, [node.backup()], list[Writer]()

    def too_late(published: str, data: bytes) -> None:
        if published == name and to_open:
            backup = to_open.pop()  # first, as its own files are published by this, too
            second.append(backup.open(silent, "second"))
        publish(published, data)

    monkeypatch.setattr(node.storage, "publish", too_late)
    return second


def assert_both_stop(node: Node, second: Writer, clock: Clock) -> None:
    """What is left to them: neither of them knows whose files lie there."""
    for writer in (second, node.writer):
        clock.now += MAX_SECONDS
        writer.maintain()
        with pytest.raises(Fenced):
            writer.append(changes(1, writer.position.data_version)[0])


def test_a_note_over_the_others_mark(node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one would believe itself alone, and write for ever to a file that has no name any more."""
    second = taken_over_while_publishing(node, SESSION, monkeypatch)
    clock.now += 61
    node.writer.maintain()
    assert last_writer(node) == "first"
    assert_both_stop(node, second[0], clock)
    assert last_writer(node) == "second"


def test_a_manifest_over_the_others_generation(node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one would go on in segments that no reader looks at any more."""
    compacted = compact_log(node.storage, node.scratch, leave_out=1)
    assert compacted is not None
    second = taken_over_while_publishing(node, MANIFEST, monkeypatch)
    node.writer.publish_compaction(compacted)
    assert_both_stop(node, second[0], clock)
    assert last_writer(node) == "second"


def test_a_takeover_before_the_manifest_stops_the_new_generation(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot has its name already; the second one does not even notice."""
    compacted, second = compact_log(node.storage, node.scratch, leave_out=1), list[Writer]()
    assert compacted is not None
    rename = node.storage.rename_new

    def taken_over(old: str, new: str) -> None:
        rename(old, new)
        if new == snapshot_name(2):
            second.append(replacing(node))

    monkeypatch.setattr(node.storage, "rename_new", taken_over)
    with pytest.raises(Fenced):
        node.writer.publish_compaction(compacted)
    fill(second[0])
    assert contents(node.backup()).generation == 1


def test_a_replaced_writer_publishes_no_compaction(node: Node) -> None:
    first = node.writer
    compacted = compact_log(node.storage, node.scratch, leave_out=1)
    assert compacted is not None
    second = replacing(node)
    fill(second)
    before = contents(node.backup())
    with pytest.raises(Fenced):
        first.publish_compaction(compacted)
    assert contents(node.backup()) == before


def test_a_replaced_writer_takes_no_snapshot(node: Node) -> None:
    first, second = node.writer, replacing(node)
    second.take_snapshot(source(b"the database of the second", 20), "test")
    fill(second)
    before = contents(node.backup())
    with pytest.raises(Fenced):
        first.take_snapshot(source(b"the database of the first", 20), "test")
    assert contents(node.backup()) == before


def test_the_end_of_a_replaced_writer_takes_nothing_away(node: Node) -> None:
    first = node.writer
    first.maintain()  # makes a segment ahead, whose name the second one will use
    second = replacing(node)
    fill(second)
    before = contents(node.backup())
    first.close()
    assert contents(node.backup()) == before
    assert last_writer(node) == "second"


def test_a_marker_that_is_gone_or_strange_ends_the_writer(node: Node, clock: Clock) -> None:
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
def test_a_manifest_that_is_gone_or_strange_ends_the_writer(node: Node, clock: Clock, data: bytes | None) -> None:
    """A directory without one is no backup, whatever is written there still."""
    node.storage.remove(MANIFEST)
    if data is not None:
        node.storage.publish(MANIFEST, data)
    clock.now += MAX_SECONDS
    node.writer.maintain()
    with pytest.raises(Fenced, match="gone or overwritten"):
        node.note()


def test_a_destination_that_does_not_answer_is_no_replacement(node: Node, clock: Clock) -> None:
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


def test_a_full_disk_hides_no_replacement(node: Node, clock: Clock) -> None:
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


def test_a_failure_before_the_replacement_stays_the_reason(node: Node, clock: Clock) -> None:
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


def test_what_was_acknowledged_is_noted_rarely(node: Node, clock: Clock) -> None:
    """To be kind to flash; an idle node's marker is not written at all."""
    storage = FaultyStorage(node.storage)
    writer = backup_in(storage, node.options).open(silent, "writer")
    writer.maintain()  # makes a segment ahead
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


def test_a_note_never_runs_ahead_of_the_log(clock: Clock) -> None:
    """What is noted is the standing, which moves only after a change is durable."""
    storage = SimulatedStorage(SimulatedDisk())
    storage.make()
    fence = WriterFence(storage, "one", None, 1, Position(1, 7, 0), DEFAULT_OPTIONS)
    assert noted(storage).sequence == 7
    clock.now += 100
    fence.look(lambda: Position(2, 8, 0), lambda: None)
    assert (noted(storage).sequence, noted(storage).data_version) == (8, 2)
    fence.end(Position(3, 9, 0))
    assert (noted(storage).sequence, noted(storage).closed) == (9, True)
