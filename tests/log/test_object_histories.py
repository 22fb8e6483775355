"""Several writers of one backup in an object store, whose answers are lost, whose requests are done late or twice, and
who are killed at any of them: what was acknowledged is there, and a writer that was replaced acknowledges nothing."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.base import SnapshotSource
from backends.change import Change
from backends.errors import BackupError
from backends.log.writer.options import LogOptions
from backends.log.writer.segment import create_segment
from backends.log.writer.writer import Writer
from backends.storage.objects import merging, writing
from backends.storage.objects.storage import ObjectStorage
from backends.storage.objects.upkeep import Upkeep
from tests.fake_lightningd.calls import History
from tests.log.conftest import DATABASE
from tests.log.histories import CAMPAIGN, backup_in, change, noise, silent, source
from tests.storage.simulated_objects import Fault, Killed, ObjectWorld, SimulatedObjects

OPTIONS = LogOptions(
    segment_size=3000, preallocate_min=500, preallocate_max=1000, check_every=0.0, note_every=0.0, sync_every=4 << 10
)
WEIGHTS = {
    Fault.NONE: 60, Fault.LOST_REQUEST: 4, Fault.LOST_ANSWER: 6, Fault.LATE: 4, Fault.TWICE: 6,
    Fault.KILLED_BEFORE: 0.15, Fault.KILLED_AFTER: 0.15,
}  # fmt: skip


def do_at_once(upkeep: Upkeep, name: str, job: Callable[[], None]) -> None:
    """In place of `Upkeep.ask`: a history that fails must fail again."""
    with suppress(OSError):
        job()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch, readers_do_not_wait: None) -> Iterator[None]:
    """Every few extents are merged, at once."""
    monkeypatch.setattr(writing, "MERGE_AT", 4)
    monkeypatch.setattr(merging, "PIECE", 2000)
    monkeypatch.setattr(Upkeep, "ask", do_at_once)
    yield


class Machine:
    """One writer with its own connection. `meanwhile` is done between its requests."""

    def __init__(self, town: "Town", name: str, *, faults: bool) -> None:
        self.town, self.name, self.faults = town, name, faults
        self.storage = ObjectStorage(SimulatedObjects(town.world, fault=self._fault))
        self.writer: Writer | None = None
        self.meanwhile: Callable[[], None] | None = None
        self._count = 0

    def _fault(self, kind: str, key: str) -> Fault:
        meanwhile, rng = self.meanwhile, self.town.rng
        if meanwhile is not None and rng.random() < 0.2:
            self.meanwhile = None  # not within itself
            meanwhile()
            self.meanwhile = meanwhile
        if not self.faults:
            return Fault.NONE
        fault = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER) and rng.random() < 0.9 and kind in ("get", "read"):
            return Fault.NONE
        return fault

    @contextmanager
    def alive(self) -> Iterator[None]:
        """A process that is killed, or whose backup fails, never does anything more."""
        try:
            yield
        except (Killed, BackupError, OSError):
            self.writer = None

    def take_over(self) -> None:
        with self.alive():
            self.writer = backup_in(self.storage, OPTIONS).open(silent, self.name)
            assert self.writer.position.data_version >= self.town.last, "it does not have all that was acknowledged"

    def append(self) -> None:
        writer = self.writer
        if writer is None:
            return
        version, self._count = writer.position.data_version, self._count + 1
        text = f"{self.name} {self._count} {noise(self.town.rng.choice([0, 100, 900]), self._count)}"
        one = change(History(version).note(text))
        with self.alive():
            writer.append(one)
            self.town.acknowledge(one)

    def maintain(self) -> None:
        if self.writer is not None:
            with self.alive():
                self.writer.maintain()

    def snapshot(self) -> None:
        writer = self.writer
        if writer is None:
            return
        version = writer.position.data_version
        with self.alive():
            writer.take_snapshot(SnapshotSource((noise(6000, version).encode(),), version, None), "a test")
            self.town.check_first(version)

    def close(self) -> None:
        if self.writer is not None:
            with self.alive():
                self.writer.close()
            self.writer = None


class Town:
    """The store, everybody who has written to it, and what was acknowledged."""

    def __init__(self, seed: int) -> None:
        self.rng, self.world = random.Random(seed), ObjectWorld()
        self.acknowledged: dict[int, Change] = {}
        self.last = 1
        self.machines: list[Machine] = []
        plain = backup_in(ObjectStorage(SimulatedObjects(self.world)), OPTIONS)
        plain.create(source(DATABASE, 1))

    def acknowledge(self, one: Change) -> None:
        assert one.data_version > self.last, "another writer has acknowledged this version"
        self.acknowledged[one.data_version] = one
        self.last = one.data_version

    def check_first(self, version: int) -> None:
        """A snapshot of this version was published: it must hold everything."""
        assert version >= self.last, "a snapshot without what was acknowledged has become the current one"

    def newcomer(self, *, faults: bool = True) -> Machine:
        machine = Machine(self, f"machine {len(self.machines)}", faults=faults)
        self.machines.append(machine)
        return machine

    def others_go_on(self) -> None:
        """A step of anybody; also used between two requests of somebody else."""
        living = [machine for machine in self.machines if machine.writer is not None]
        if living:
            machine = self.rng.choice(living)
            self.rng.choice([machine.append, machine.append, machine.maintain])()
        if self.rng.random() < 0.2:
            self.world.deliver(self.rng)

    def step(self) -> None:
        living = [machine for machine in self.machines if machine.writer is not None]
        kind = self.rng.random()
        if not living or kind < 0.08:
            newcomer = self.newcomer()
            newcomer.meanwhile = self.others_go_on if self.rng.random() < 0.7 else None
            newcomer.take_over()
            newcomer.meanwhile = None
            return
        machine = self.rng.choice(living)
        if self.rng.random() < 0.1:
            rival = self.newcomer()
            machine.meanwhile = rival.take_over
        if kind < 0.75:
            machine.append()
        elif kind < 0.9:
            machine.maintain()
        elif kind < 0.93:
            machine.snapshot()
        elif kind < 0.95:
            machine.close()
        elif kind < 0.97:
            self.world.now += 2 * 3600
            with machine.alive():
                machine.storage.sweep()
        else:
            self.world.deliver(self.rng)
        machine.meanwhile = None

    def check(self) -> None:
        """Everything acknowledged is there, in order, and can be appended to."""
        self.world.deliver()
        with backup_in(ObjectStorage(SimulatedObjects(self.world)), OPTIONS).read() as reader:
            changes = reader.changes()
            found = {one.data_version: list(one.statements) for one in changes}
            base, end = reader.manifest.base.data_version, changes.end().position.data_version
        assert end >= self.last
        for version, one in self.acknowledged.items():
            assert version <= base or found.get(version) == list(one.statements), version


@settings(max_examples=60 * CAMPAIGN, deadline=None)
@given(seed=st.integers(0, 1 << 40))
def test_writers_that_take_over_from_each_other_lose_nothing_that_was_acknowledged(seed: int) -> None:
    town = Town(seed)
    for _ in range(40):
        town.step()
    town.check()
    last = town.newcomer(faults=False)
    last.take_over()
    assert last.writer is not None
    last.append()
    town.check()


def test_start_that_is_killed_while_it_removes_unused_segments_leaves_no_gap() -> None:
    """One was left by an attempt whose answer was lost, another was made ahead of use. With the first removed and the
    second still there, the first would be missed."""
    for request in range(1, 200):
        town = Town(0)
        first = town.newcomer(faults=False)
        first.take_over()
        first.append()
        assert first.writer is not None
        storage = ObjectStorage(SimulatedObjects(town.world))
        for number in (2, 3):
            create_segment(storage, first.writer.manifest.segment_header(number), OPTIONS).handle.close()
        assert {"segment-00000002", "segment-00000003"} <= set(storage.names())
        left = iter(range(request, 0, -1))
        store = SimulatedObjects(
            town.world,
            fault=lambda kind, key, left=left: Fault.KILLED_BEFORE if next(left, 0) == 1 else Fault.NONE,  # type: ignore[misc]
        )
        try:
            backup_in(ObjectStorage(store), OPTIONS).open(silent, "second")
        except Killed:
            town.check()
        else:
            break
    assert 20 < request < 199
