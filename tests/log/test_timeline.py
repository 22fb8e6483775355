"""Which state of the node a point in time means, with clocks that jump."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from backends.errors import Damaged
from backends.log.backup import Backup
from backends.log.format.records import segment_name
from backends.log.reader.timeline import NotHeld
from tests.log.corruption import flipped
from tests.log.histories import Node, source
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

CREATED = 1_000_000
"""When the backup was made."""

Clock = Callable[[int], None]


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Sets the clock of the node, which stands still otherwise, to this many seconds after CREATED."""

    def to(seconds: int) -> None:
        for module in ("writer.writer", "writer.generation", "writer.snapshot", "backup", "reader.kept"):
            monkeypatch.setattr(f"backends.log.{module}.time_now", lambda: CREATED + seconds)

    to(0)
    return to


@pytest.fixture
def node(tmp_path: Path, set_clock: Clock) -> Node:
    """A node with an empty backup, of version 0."""
    made = Node(SimulatedStorage(SimulatedDisk()), tmp_path)
    made.create()
    made.open()
    return made


def live(node: Node, set_clock: Clock, times: Sequence[int]) -> None:
    """One change at each of these times; the first of a new node is version 1."""
    for each in times:
        set_clock(each)
        node.append(node.history.first() if node.history.version == 0 else node.history.note())


def at(backup: Backup, seconds: int) -> int:
    """The version that this time means."""
    return backup.state_at(CREATED + seconds).state.data_version


def test_time_means_the_last_change_that_was_saved_by_then(node: Node, set_clock: Clock) -> None:
    live(node, set_clock, [10, 20, 20, 30])
    backup = node.backup()
    found = {seconds: at(backup, seconds) for seconds in (0, 9, 10, 19, 20, 29, 30)}
    assert found == {0: 0, 9: 0, 10: 1, 19: 1, 20: 3, 29: 3, 30: 4}
    assert backup.state_at(CREATED + 25).set_back is None


def test_times_outside_the_backup_are_refused_with_its_range(node: Node, set_clock: Clock) -> None:
    live(node, set_clock, [10, 20])
    for seconds, last in ((-1, 2), (21, 2)):
        with pytest.raises(NotHeld) as caught:
            at(node.backup(), seconds)
        assert (caught.value.first.data_version, caught.value.first.time) == (0, CREATED)
        assert (caught.value.last.data_version, caught.value.gap) == (last, None)


def test_clock_set_back_hides_no_change_and_moves_none(node: Node, set_clock: Clock) -> None:
    """A board without a clock of its own boots in 1970: what it saves then comes after everything before."""
    live(node, set_clock, [100, 200, -999_000, -998_000, 300])
    backup = node.backup()
    assert [at(backup, seconds) for seconds in (100, 150, 199)] == [1, 1, 1]
    assert [at(backup, seconds) for seconds in (200, 299, 300)] == [4, 4, 5]
    found = backup.state_at(CREATED + 150)
    assert found.set_back is not None
    assert found.set_back.data_version == 4


def test_clock_that_ran_ahead_for_a_while_gives_an_earlier_state_never_a_later_one(
    node: Node, set_clock: Clock
) -> None:
    live(node, set_clock, [100, 200, 90_000, 300, 400])
    backup = node.backup()
    assert [at(backup, seconds) for seconds in (250, 350, 89_999)] == [2, 2, 2]
    found = backup.state_at(CREATED + 350)
    assert found.set_back is not None and found.set_back.data_version == 4
    assert at(backup, 90_000) == 5, "the last change is not later, whatever its own time"
    with pytest.raises(NotHeld):
        at(backup, 90_001)


def test_clock_that_jumps_to_and_fro_gives_the_state_before_the_first_later_change(
    node: Node, set_clock: Clock
) -> None:
    times = [50, 20, 70, 10, 60, 80, 5, 90]
    live(node, set_clock, times)
    backup = node.backup()
    for seconds in range(0, 91):
        first_later = next((number for number, each in enumerate(times) if each > seconds), len(times))
        assert at(backup, seconds) == first_later


def test_time_of_a_compacted_snapshot_is_that_of_its_last_change(node: Node, set_clock: Clock) -> None:
    """Its manifest has the time of the compaction, which is later than changes that are still in the log."""
    live(node, set_clock, [10, 20, 30, 40])
    set_clock(100)
    node.compact()
    assert node.backup().look().manifest.base.data_version == 3
    assert [at(node.backup(), seconds) for seconds in (30, 39, 40)] == [3, 3, 4]
    with pytest.raises(NotHeld) as caught:
        at(node.backup(), 29)
    assert caught.value.first.time == CREATED + 30


def test_replaced_generation_counts_until_the_next_one_began(node: Node, set_clock: Clock) -> None:
    live(node, set_clock, [10, 20, 30])
    set_clock(50)
    node.writer.take_snapshot(source(b"an older database", 1), "resync")
    node.history.version = 1
    live(node, set_clock, [60])
    backup = node.backup()
    found = {seconds: backup.state_at(CREATED + seconds).state for seconds in (20, 49, 50, 60)}
    assert {at: (state.generation, state.data_version) for at, state in found.items()} == {
        20: (1, 2), 49: (1, 3), 50: (2, 1), 60: (2, 2),
    }  # fmt: skip


def test_damage_is_named_unless_the_state_lies_outside_it(node: Node, set_clock: Clock) -> None:
    live(node, set_clock, [10, 20, 30])
    node.close()
    storage = node.storage
    name = segment_name(1)
    data = storage.read_small(name)
    storage.publish(name, flipped(data, len(data) - 40, 1))
    assert at(node.backup(), 15) == 1
    with pytest.raises(Damaged):
        at(node.backup(), 25)
