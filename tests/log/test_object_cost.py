"""What a backup in an object store costs: requests, which are paid for one by one, and round trips."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing

import pytest

from backends.log.writer.options import LogOptions
from backends.log.writer.writer import Writer
from backends.storage.objects.storage import ObjectStorage
from tests.log.conftest import DATABASE
from tests.log.histories import backup_in, changes, silent, source
from tests.storage.simulated_objects import PARALLEL, ObjectWorld, SimulatedObjects

MOST_FOR_A_START = 60
MOST_FOR_A_STATUS = 40
"""Requests, without those that read extents, which are sent many at a time."""


@pytest.fixture
def world() -> ObjectWorld:
    world = ObjectWorld()
    backup_in(ObjectStorage(SimulatedObjects(world))).create(source(DATABASE, 1, "02aa"))
    return world


def opened(world: ObjectWorld) -> tuple[SimulatedObjects, ObjectStorage, Writer]:
    store = SimulatedObjects(world)
    storage = ObjectStorage(store)
    return store, storage, backup_in(storage).open(silent, "a session")


def counted(store: SimulatedObjects, work: Callable[[], object]) -> Counter[str]:
    store.requests.clear()
    work()
    return +Counter(store.requests)


def test_commits_of_a_log_are_one_request_each_and_nothing_is_listed(world: ObjectWorld) -> None:
    store, _, writer = opened(world)
    with closing(writer):
        for one in changes(300, 1, 200):
            assert counted(store, lambda one=one: writer.append(one)) == {"create": 1}  # type: ignore[misc]


def test_quiet_node_asks_for_little(world: ObjectWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request every few seconds would cost more than all commits of a small node."""
    store, _, writer = opened(world)
    now = time.monotonic()
    with closing(writer):
        for tick in range(5 * 3600):
            monkeypatch.setattr(time, "monotonic", lambda tick=tick: now + tick * 0.2)
            if tick == 5:
                store.requests.clear()
            writer.maintain()
    assert sum(store.requests.values()) <= 3 * 60 + 20, store.requests


def test_start_and_status_cost_a_bounded_number_of_requests(world: ObjectWorld) -> None:
    _, _, first = opened(world)
    for one in changes(50, 1, 200):
        first.append(one)
    store, _, second = opened(world)
    assert sum(store.requests.values()) - store.requests["read"] <= MOST_FOR_A_START
    second.close()
    store = SimulatedObjects(world)
    counted(store, lambda: backup_in(ObjectStorage(store)).status("a URL"))
    assert sum(store.requests.values()) - store.requests["read"] <= MOST_FOR_A_STATUS


def test_start_reads_each_unmerged_extent_once(world: ObjectWorld) -> None:
    """It reads the last segment three times: to look, once more after the take-over, and to copy it."""
    _, _, first = opened(world)
    for one in changes(900, 1, 100):
        first.append(one)
    store, _, _ = opened(world)
    assert 900 <= store.requests["read"] <= 950


def test_restore_of_many_changes_is_not_a_request_after_the_other(world: ObjectWorld) -> None:
    """20,000 changes within 30 seconds at 20 milliseconds a request, with the upkeep that a running node does."""
    _, storage, writer = opened(world)
    with closing(writer):
        for number, one in enumerate(changes(20_000, 1, 100), 1):
            writer.append(one)
            if number % 500 == 0 and number < 19_500:
                writer.maintain()
                storage.upkeep.wait()
    began = time.monotonic()
    store = SimulatedObjects(world, latency=0.020)
    with backup_in(ObjectStorage(store)).read() as reader:
        assert sum(1 for _ in reader.changes()) == 20_000
    assert time.monotonic() - began < 30
    assert store.most_at_once == PARALLEL


def test_segments_of_a_log_become_few_objects(world: ObjectWorld) -> None:
    store = SimulatedObjects(world)
    storage = ObjectStorage(store)
    options = LogOptions(segment_size=64 << 10)
    with closing(backup_in(storage, options).open(silent, "a session")) as writer:
        for one in changes(3000, 1, 200):
            writer.append(one)
            writer.maintain()
            storage.upkeep.wait()
        retired = [name for name in storage.names() if name.startswith("segment-")][:-2]
        assert len(retired) > 5
        chains = {file.chain for name in retired if (file := storage.files.look(name).file) is not None}
        objects = Counter(key.split("/")[1] for key in world.objects if key.startswith("data/"))
        assert all(objects[chain] <= 2 for chain in chains)
