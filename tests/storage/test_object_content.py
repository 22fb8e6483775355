"""What is found in an object store, be it damaged or somebody else's."""

import errno

import pytest

from backends.storage.objects.storage import ObjectStorage
from backends.storage.objects.store import Listed
from backends.storage.objects.sweeping import KEEP
from tests.storage.object_processes import Process, segment
from tests.storage.simulated_objects import Fault, Killed, ObjectWorld, SimulatedObjects


def test_backups_below_a_prefix_are_found(world: ObjectWorld) -> None:
    for name in ("one.bkp", "two.bkp", "three.bkp", "four.bkp"):
        storage = ObjectStorage(SimulatedObjects(world, f"{name}/"))
        storage.make()
        if name != "four.bkp":
            storage.publish("manifest", b"here")
        if name == "three.bkp":
            storage.remove("manifest")
    assert ObjectStorage(SimulatedObjects(world)).directories_with("manifest") == ["one.bkp", "two.bkp"]


def test_unmake_that_was_killed_can_be_repeated(world: ObjectWorld, ours: Process, theirs: Process) -> None:
    segment(ours, 1500)
    ours.before = lambda kind, key: Fault.KILLED_AFTER if kind == "delete" else None
    with pytest.raises(Killed):
        ours.storage.unmake()
    assert theirs.storage.exists()
    theirs.storage.unmake()
    assert not world.objects


@pytest.mark.parametrize("data", [b"", b"\1", b"\1" + b"x" * 30, b"\1" + bytes(16) + b"\2" + b"x" * 24, b"rubbish" * 9])
def test_damaged_name_object_is_an_error(world: ObjectWorld, ours: Process, data: bytes) -> None:
    world.put("names/manifest", data, None)
    with pytest.raises(OSError) as caught:
        ours.storage.open("manifest")
    assert caught.value.errno == (errno.EPROTONOSUPPORT if data[:1] > b"\1" else errno.EIO)


def test_objects_of_others_are_left_alone(world: ObjectWorld, ours: Process) -> None:
    segment(ours, 3).close()
    world.put("data/README", b"somebody's", None)
    world.put("data/0123/000000000000", b"somebody's", None)
    ours.storage.remove("segment")
    world.now += 2 * KEEP
    ours.storage.publish("note", b"the store's clock goes on")
    ours.storage.sweep()
    assert sorted(each.key for each in _listed(ours)) == ["data/0123/000000000000", "data/README"]


def _listed(process: Process) -> list[Listed]:
    return list(process.store.list("data/"))
