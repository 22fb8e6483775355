"""Objects of a log that something else has deleted: a lifecycle rule, a clean-up, a person."""

import pytest

from backends.base import Position
from backends.errors import Damaged
from backends.storage.objects import writing
from backends.storage.objects.chain import DATA
from backends.storage.objects.storage import ObjectStorage
from tests.fake_lightningd.calls import History
from tests.log.conftest import DATABASE
from tests.log.histories import backup_in, change, noise, silent, source
from tests.storage.simulated_objects import Fault, Killed, ObjectWorld, SimulatedObjects

pytestmark = pytest.mark.usefixtures("readers_do_not_wait")


def _storage(world: ObjectWorld) -> ObjectStorage:
    return ObjectStorage(SimulatedObjects(world))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> ObjectWorld:
    """A backup whose node was killed after ten changes, before it noted how far it was."""
    monkeypatch.setattr("backends.storage.objects.chain._PAUSE", 0.0)
    world = ObjectWorld()
    backup = backup_in(_storage(world))
    backup.create(source(DATABASE, 1))
    writer, history = backup.open(silent, "killed"), History(1)
    for number in range(10):
        writer.append(change(history.note(noise(60, number))))
    return world


def _log(world: ObjectWorld) -> list[str]:
    """The keys of the log's extents: those of the chain with most of them."""
    keys = sorted(key for key, there in world.objects.items() if key.startswith(DATA) and there.data)
    chains = [key.split("/")[1] for key in keys]
    return [key for key in keys if key.split("/")[1] == max(chains, key=chains.count)]


@pytest.mark.parametrize("number", [0, 1, 5, 9])
def test_log_with_a_missing_object_is_damaged_and_not_shorter(world: ObjectWorld, number: int) -> None:
    victim = _log(world)[number]
    del world.objects[victim]
    before = dict(world.objects)
    with pytest.raises(Damaged, match="later ones are there") as caught, backup_in(_storage(world)).read() as reader:
        list(reader.changes())
    assert victim in str(caught.value)
    with pytest.raises(Damaged):
        backup_in(_storage(world)).open(silent, "next")
    assert world.objects == before


def test_log_with_a_missing_object_is_healed_by_a_new_snapshot(world: ObjectWorld) -> None:
    del world.objects[_log(world)[5]]
    writer = backup_in(_storage(world)).open_anew(silent, "next")
    writer.take_snapshot(source(DATABASE, 11), "a test")
    history = History(11)
    writer.append(change(history.note("healed")))
    with backup_in(_storage(world)).read() as reader:
        changes = reader.changes()
        assert [one.data_version for one in changes] == [12]
        assert isinstance(changes.end().position, Position)


def test_large_change_that_was_cut_off_leaves_no_gap(world: ObjectWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is several objects. Killed after any of them, the log ends before it or holds it whole."""
    monkeypatch.setattr(writing, "EXTENT", 1 << 10)
    saved = dict(world.objects)
    for request in range(1, 30):
        world.objects.clear()
        world.objects.update(saved)
        store = SimulatedObjects(world)
        writer = backup_in(ObjectStorage(store)).open(silent, "killed")
        left = iter(range(request, 0, -1))
        store.fault = lambda kind, key, left=left: Fault.KILLED_BEFORE if next(left, 0) == 1 else Fault.NONE  # type: ignore[misc]
        large = change(History(11).note(noise(12 << 10)))
        try:
            writer.append(large)
            acknowledged = True
        except Killed:
            acknowledged = False
        again = backup_in(_storage(world)).open(silent, "next")
        assert again.position.data_version == (12 if acknowledged else 11)
        if acknowledged:
            break
    assert 5 < request < 29
