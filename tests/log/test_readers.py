"""Readers beside a writer that appends, compacts, takes snapshots, stops and starts always see a whole backup.

What they read is what the node had committed at some moment between the beginning and the end of the reading.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.log.reader.generation import Reader
from backends.log.writer.options import LogOptions
from backends.storage.base import Storage
from backends.storage.local import LocalStorage
from tests.log.histories import CAMPAIGN, Node, backup_in, noise
from tests.log.model import Contents, Model, contents, contents_and_tear
from tests.storage.faulty import FaultyStorage, Operation, _Result
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

READINGS = 60
SECONDS = 2.0


class BusyNode:
    """A node that takes random steps when told to, and a record of every state that its backup has had."""

    def __init__(self, storage: Storage, scratch: Path, seed: int, options: LogOptions) -> None:
        self.node = Node(storage, scratch, options=options)
        self.counts: Counter[str] = Counter()
        self._states: list[Model] = []
        self._rng = random.Random(seed)
        self.node.create()
        self.node.open()
        self.node.append(self.node.history.first())
        self._remember()

    def _remember(self) -> None:
        if not self._states or self._states[-1] is not self.node.now:
            self._states.append(self.node.now)

    def states(self) -> list[Model]:
        """The states so far; the last one may not be acknowledged yet."""
        assert self.node.next is not None
        return [*self._states, self.node.next]

    def acknowledged(self) -> int:
        """The index of the oldest state that a reader which begins now may see."""
        return len(self._states) - 1

    def act(self) -> None:
        """One step."""
        steps: dict[Callable[[], object], int] = {
            self._note: 40, self.node.writer.maintain: 20, self.node.compact: 2, self.node.snapshot: 1,
            self._restart: 2, self._kill: 2,
        }  # fmt: skip
        (step,) = self._rng.choices(list(steps), list(steps.values()))
        step()
        self._remember()
        self.counts[step.__name__] += 1

    def _note(self) -> None:
        self.node.note(noise(self._rng.choice([10, 200, 900, 2500]), self._rng.randrange(1 << 30)))

    def _restart(self) -> None:
        self.node.close()
        self.node.open("after a stop")

    def _kill(self) -> None:
        self.node.open("after it was killed")


def check(found: Contents, states: list[Model], since: int) -> None:
    """Check that what was read is one of the states from `since` on; it may come from an earlier generation."""
    generation = next(state for state in states if state.generation == found.generation)
    assert found.snapshot == generation.snapshot
    committed = Model(changes=generation.before).contents.changes + found.changes
    assert committed in [Model(changes=state.committed).contents.changes for state in states[since:]]


class InterruptedStorage(FaultyStorage):
    """A storage that calls `act` before each of its operations."""

    def __init__(self, storage: Storage, act: Callable[[], None]) -> None:
        super().__init__(storage)
        self._act = act

    def _call(self, operation: Operation, carry_out: Callable[[], _Result]) -> _Result:
        self._act()
        return super()._call(operation, carry_out)


@pytest.mark.parametrize("pace", [2, 5, 15])
@pytest.mark.parametrize("seed", range(CAMPAIGN))
def test_reader_interrupted_by_steps_of_writer_sees_a_whole_backup(
    tmp_path: Path, small: LogOptions, seed: int, pace: int
) -> None:
    storage = SimulatedStorage(SimulatedDisk())
    busy = BusyNode(storage, tmp_path, seed, small)
    looks = 0

    def act() -> None:
        nonlocal looks
        looks += 1
        if looks % pace == 0:
            busy.act()

    for _ in range(READINGS):
        since = busy.acknowledged()
        check(contents(backup_in(InterruptedStorage(storage, act))), busy.states(), since)
    print(f"{READINGS} readings, {looks} looks, {dict(busy.counts)}")


@pytest.fixture
def node(tmp_path: Path, small: LogOptions) -> Node:
    """A node with a segment made in advance, which a reader opens, too."""
    node = Node(SimulatedStorage(SimulatedDisk()), tmp_path, options=small)
    node.create()
    node.open()
    node.append(node.history.first())
    node.note(noise(6000))
    node.writer.maintain()
    assert len(node.storage.names()) == 5
    return node


def rest(reader: Reader) -> Contents:
    """What a generation that was opened earlier still gives."""
    snapshot = b"".join(reader.snapshot)
    changes = tuple((change.data_version, tuple(change.statements)) for change in reader.changes())
    return Contents(reader.manifest.generation, snapshot, changes)


def test_writer_moving_to_next_segment_does_not_disturb_a_reader(node: Node) -> None:
    with node.backup().read() as reader:
        changes = iter(reader.changes())
        assert next(changes).data_version == 1
        for seed in range(4):
            node.note(noise(2500, seed))
        assert node.writer.segment_index == 2
        versions = [change.data_version for change in changes]
        assert versions in ([2], [2, 3], [2, 3, 4], [2, 3, 4, 5])  # the sixth is in the next segment


def test_old_generation_is_read_whole_while_a_new_one_begins(node: Node) -> None:
    """The new generation's records are in a segment that the reader has open, and do not belong to what it reads."""
    before = node.now.contents
    with node.backup().read() as reader:
        node.snapshot()
        node.note()
        node.note()
        assert rest(reader) == before
    assert contents(node.backup()) == node.now.contents


def test_new_generation_at_each_step_of_opening_leaves_reader_with_a_whole_one(node: Node) -> None:
    """The new generation begins once before each storage operation of the opening."""
    counting = FaultyStorage(node.storage)
    contents(backup_in(counting))
    for number in range(1, sum(counting.calls.values()) + 1):
        left = number

        def act() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                node.snapshot()
                node.note()
                node.note(noise(6000))
                node.writer.maintain()

        before = node.now.contents
        found = contents(backup_in(InterruptedStorage(node.storage, act)))
        assert found in (before, node.now.contents)


def test_writer_that_stops_while_reader_opens_does_not_disturb_it(node: Node) -> None:
    """A writer that stops removes the segment it had made in advance, which a reader may already have seen."""
    looks = 0

    def act() -> None:
        nonlocal looks
        looks += 1
        if looks % 7 == 0:
            node.close()
            node.open()
            node.writer.maintain()

    for _ in range(50):
        assert contents(backup_in(InterruptedStorage(node.storage, act))) == node.now.contents


@pytest.mark.parametrize("seed", range(CAMPAIGN))
def test_readers_in_threads_beside_busy_writer_see_a_whole_backup(tmp_path: Path, small: LogOptions, seed: int) -> None:
    """On a real filesystem, in threads."""
    storage = LocalStorage(tmp_path / "lightning.bkp")
    busy = BusyNode(storage, tmp_path, seed, small)
    readings: Counter[str] = Counter()
    failures: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                since = busy.acknowledged()
                found = contents(backup_in(LocalStorage(tmp_path / "lightning.bkp")))
                check(found, busy.states(), since)
                readings[f"of generation {found.generation}"] += 1
        except BaseException as error:
            failures.append(error)
            stop.set()

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and not stop.is_set():
        busy.act()
    stop.set()
    for reader in readers:
        reader.join()
    print(f"{sum(readings.values())} readings of {len(readings)} generations, {dict(busy.counts)}")
    if failures:
        raise failures[0]
    assert len(readings) > 1


def test_record_half_written_at_first_look_is_not_torn(
    tmp_path: Path, small: LogOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a running writer, a half-written record is neither a torn end nor damage: the other half is on its way."""
    busy = BusyNode(LocalStorage(tmp_path / "backup"), tmp_path, 1, small)
    path = tmp_path / "backup" / "segment-00000001"
    before = path.read_bytes()
    busy.node.note(noise(2500))
    whole = path.read_bytes()
    half = before.rstrip(b"\0")
    path.write_bytes(half + whole[len(half) : len(half) + 700].ljust(len(whole) - len(half), b"\0"))
    monkeypatch.setattr("backends.log.reader.records.time.sleep", lambda seconds: path.write_bytes(whole))
    found, torn = contents_and_tear(backup_in(LocalStorage(tmp_path / "backup")))
    assert found == busy.node.now.contents
    assert torn is None
