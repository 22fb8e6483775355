"""Power cuts on the simulated disk: at each point of a run where one can come."""

import errno
import random
from collections.abc import Callable
from contextlib import closing, suppress

import pytest

from backends.storage.base import Storage, WriteHandle
from tests.storage.outcomes import SEEDS, files, outcomes
from tests.storage.simulated import PowerCut, SimulatedDisk, SimulatedStorage


@pytest.fixture
def disk() -> SimulatedDisk:
    disk = SimulatedDisk()
    SimulatedStorage(disk).make()
    return disk


def cuts(run: Callable[[Storage], None], prepare: Callable[[Storage], None]) -> list[list[dict[str, bytes]]]:
    """The outcomes of a cut at each point of `run`, from the first to the last; each run ends in PowerCut."""

    def fresh() -> SimulatedDisk:
        disk = SimulatedDisk()
        SimulatedStorage(disk).make()
        prepare(SimulatedStorage(disk))
        return disk

    whole = fresh()
    before = whole.operations
    run(SimulatedStorage(whole))
    found = []
    for number in range(before + 1, whole.operations + 1):
        disk = fresh()
        disk.crash_at(number)
        with pytest.raises(PowerCut):
            run(SimulatedStorage(disk))
        found.append(outcomes(disk))
    return found


def test_durable_write_has_three_points_where_power_can_be_cut() -> None:
    handles: list[WriteHandle] = []

    def prepare(storage: Storage) -> None:
        handles.append(storage.create("segment"))
        handles[-1].write_durably(0, b"old")
        storage.sync_names()

    before, between, after = cuts(lambda _: handles[-1].write_durably(0, b"new"), prepare)
    assert {outcome["segment"] for outcome in before} == {b"old"}
    assert {outcome["segment"] for outcome in between} == {b"old", b"new"}
    assert {outcome["segment"] for outcome in after} == {b"new"}


def test_published_file_is_old_or_new_after_power_cut() -> None:
    found = cuts(lambda storage: storage.publish("a", b"new" * 999), lambda storage: storage.publish("a", b"old" * 999))
    for point in found:
        assert all(outcome["a"] in (b"old" * 999, b"new" * 999) for outcome in point)
    assert all(outcome == {"a": b"old" * 999} for outcome in found[0])
    assert all(outcome == {"a": b"new" * 999} for outcome in found[-1])


def test_simulated_disk_shows_loss_of_file_published_without_sync() -> None:
    def careless(storage: Storage) -> None:
        with closing(storage.create("a.tmp")) as handle:
            handle.write(0, b"new" * 999)
        storage.rename("a.tmp", "a")
        storage.sync_names()

    found = cuts(careless, lambda storage: storage.publish("a", b"old" * 999))
    assert any(outcome["a"] not in (b"old" * 999, b"new" * 999) for point in found for outcome in point)


def test_make_and_unmake_of_directory_survive_power_cut() -> None:
    disk = SimulatedDisk()
    disk.crash_at(2)
    with pytest.raises(PowerCut):
        SimulatedStorage(disk).make()
    made = {SimulatedStorage(disk.crash(random.Random(seed))).exists() for seed in SEEDS}
    assert made == {True, False}
    found = cuts(lambda storage: storage.unmake(), lambda storage: storage.publish("a", b"data"))
    assert all(outcome == {"a": b"data"} for outcome in found[0])
    assert {} in found[1]
    assert {"a": b"data"} in found[1]
    assert all(outcome == {} for outcome in found[-1])


def test_every_call_raises_power_cut_once_the_disk_is_off(disk: SimulatedDisk) -> None:
    storage = SimulatedStorage(disk)
    storage.publish("manifest", b"data")
    writer, reader = storage.create("segment"), storage.open("manifest")
    disk.crash_at(disk.operations + 1)
    with pytest.raises(PowerCut):
        storage.sync_names()
    for call in (
        storage.exists, storage.make, storage.unmake, storage.names, storage.sync_names, storage.space, reader.size,
        writer.sync, lambda: storage.open("manifest"), lambda: storage.create("a"), lambda: storage.remove("manifest"),
        lambda: storage.rename("manifest", "a"), lambda: reader.read(0, 1), lambda: writer.write(0, b""),
        lambda: writer.write_durably(0, b""), lambda: writer.extend(0, 1), lambda: writer.truncate(0),
    ):  # fmt: skip
        with pytest.raises(PowerCut):
            call()
    writer.close()
    reader.close()
    assert disk.is_off
    survivor = disk.crash(random.Random(0))
    assert SimulatedStorage(survivor).read_small("manifest") == b"data"
    with pytest.raises(ValueError):
        survivor.crash_at(survivor.operations)


def test_power_cut_is_not_swallowed_by_except_exception(disk: SimulatedDisk) -> None:
    disk.crash_at(disk.operations + 1)
    with pytest.raises(PowerCut), suppress(Exception):
        SimulatedStorage(disk).publish("manifest", b"data")


def test_watcher_can_take_a_crash_copy_at_each_point_of_a_run(disk: SimulatedDisk) -> None:
    storage = SimulatedStorage(disk)
    storage.publish("a", b"old")
    before = disk.operations
    seen: list[bytes] = []
    disk.watch = lambda: seen.append(files(disk.crash(random.Random(len(seen))))["a"])
    storage.publish("a", b"new")
    assert len(seen) == disk.operations - before
    assert seen[0] == b"old"
    assert seen[-1] == b"new"
    assert storage.read_small("a") == b"new"


def test_full_simulated_disk_refuses_growth_and_takes_overwrites(disk: SimulatedDisk) -> None:
    storage = SimulatedStorage(disk)
    storage.publish("old", bytes(1000))
    disk.capacity = 3000
    assert storage.space().free == 2000
    with closing(storage.create("new")) as handle:
        with pytest.raises(OSError) as caught:
            handle.write(0, bytes(2001))
        assert caught.value.errno == errno.ENOSPC
        handle.write(0, bytes(2000))
        handle.write_durably(0, b"within the file")
        storage.remove("old")
        handle.extend(2000, 1000)
