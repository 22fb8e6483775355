"""Merging extents and deleting what nobody needs, beside readers, and killed at any request."""

import random
from contextlib import closing
from threading import current_thread

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.storage.base import FileFenced
from backends.storage.objects import merging
from backends.storage.objects.sweeping import KEEP, KEEP_NAME
from backends.system.memory import give_back
from tests.storage.object_processes import Process, append, content, get, segment
from tests.storage.simulated_objects import Fault, Killed, ObjectWorld


def test_live_segment_never_has_many_extents(world: ObjectWorld, ours: Process) -> None:
    handle = segment(ours)
    for number in range(5000):
        append(handle, number)
        if number % 20 == 0:
            handle.tidy()
            ours.storage.upkeep.wait()
            assert len(world.objects) <= merging.MERGE_AT + 60
    assert get(ours.storage, "segment").rstrip(b"\0") == content(5000)


def test_finished_segment_is_few_large_objects(world: ObjectWorld, ours: Process) -> None:
    handle = segment(ours, 3000)
    handle.truncate(len(content(3000)))
    handle.sync()
    handle.finish()
    handle.close()
    ours.storage.upkeep.wait()
    objects = [key for key in world.objects if key.startswith("data/")]
    assert len(objects) == 2  # all of it, and the last extent
    assert get(ours.storage, "segment") == content(3000)


def test_merging_that_is_killed_at_any_request_loses_nothing(small_pieces: None) -> None:
    for request in range(1, 100):
        world = ObjectWorld()
        ours, theirs = Process(world), Process(world)
        ours.storage.make()
        handle = segment(ours, 40)
        left = iter(range(request, 0, -1))
        after = Fault.KILLED_AFTER if request % 2 else Fault.KILLED_BEFORE
        ours.before = lambda kind, key, left=left, after=after: after if next(left, 0) == 1 else None  # type: ignore[misc]
        try:
            merging.merge(ours.store, handle.chain)
        except Killed:
            assert get(theirs.storage, "segment").rstrip(b"\0") == content(40)
            merging.merge(theirs.store, handle.chain)
            assert get(theirs.storage, "segment").rstrip(b"\0") == content(40)
        else:
            break
    assert 20 < request < 99


class BusyWriter:
    """A writer that does anything to one file between the requests of whoever reads it."""

    def __init__(self, seed: int) -> None:
        self.rng, self.world, self.count = random.Random(seed), ObjectWorld(), 30
        self.ours = Process(self.world)
        self.ours.storage.make()
        self.handle = segment(self.ours, self.count)
        self.removed = False

    def step(self) -> None:
        steps = [self.merge, self.finish, self.sweep]
        if not self.removed:
            steps += [self.append, self.append, self.rename, self.remove]
        self.rng.choice(steps)()

    def append(self) -> None:
        append(self.handle, self.count)
        self.count += 1

    def merge(self) -> None:
        first = self.rng.randrange(8) * 4 if not self.removed else 0
        merging.merge(self.ours.store, self.handle.chain, first, self.handle._next - 1)

    def finish(self) -> None:
        merging.merge(self.ours.store, self.handle.chain)

    def rename(self) -> None:
        self.ours.storage.rename(self.handle.name, {"segment": "other", "other": "segment"}[self.handle.name])

    def remove(self) -> None:
        if self.rng.random() < 0.3:
            self.ours.storage.remove(self.handle.name)
            self.removed = True

    def sweep(self) -> None:
        self.world.now += self.rng.choice([0, 60, KEEP + 1])
        self.ours.storage.publish("note", b"so that the store's clock goes on")
        if self.removed:
            self.handle.close()
        self.ours.storage.sweep()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 40))
def test_reader_beside_merging_renaming_and_removal_sees_one_file(seed: int, small_pieces: None) -> None:
    """Each of the reader's requests may come after any of the writer's steps."""
    writer = BusyWriter(seed)
    theirs, rng, at_first = Process(writer.world), writer.rng, writer.count
    with closing(theirs.storage.open("segment")) as reader:
        theirs.before = lambda kind, key: writer.step() if rng.random() < 0.7 else None
        try:
            for _ in range(6):
                size = reader.size()
                offset = rng.randrange(size)
                found = reader.read(offset, size)
                least, most = content(at_first)[offset:], content(writer.count)[offset:]
                assert found[: len(least)] == least
                assert most.startswith(found.rstrip(b"\0"))
        except FileNotFoundError:
            assert writer.removed


def test_removed_file_stays_readable_for_an_hour(world: ObjectWorld, ours: Process, theirs: Process) -> None:
    segment(ours, 300).close()
    with closing(theirs.storage.open("segment")) as reader:
        assert reader.read(0, 6) == b"header"
        ours.storage.remove("segment")
        world.now += KEEP - 1
        ours.storage.publish("note", b"the store's clock goes on")
        ours.storage.sweep()
        assert reader.read(0, reader.size()).rstrip(b"\0") == content(300)
    with closing(Process(world).storage.reader(_chain(world), "segment")) as reader:
        world.now += 2
        ours.storage.publish("note", b"the store's clock goes on")
        ours.storage.sweep()
        with pytest.raises(FileNotFoundError):
            reader.read(0, 10_000)
    assert not any(key.startswith("data/") for key in world.objects)


def _chain(world: ObjectWorld) -> str:
    return next(key.split("/")[1] for key in world.objects if key.startswith("data/"))


def test_sweep_never_deletes_a_fence(world: ObjectWorld, ours: Process, theirs: Process) -> None:
    handle = segment(ours, 3)
    theirs.storage.remove("segment")
    world.now += 100 * KEEP
    theirs.storage.publish("note", b"the store's clock goes on")
    theirs.storage.sweep()
    assert [len(each.data) for key, each in world.objects.items() if key.startswith("data/")] == [0]
    with pytest.raises(FileFenced):
        append(handle, 3)


def test_sweep_spares_a_file_that_is_renamed_meanwhile(world: ObjectWorld, ours: Process, theirs: Process) -> None:
    """The old name is gone when it is read, and the new one was not there yet when the names were listed."""
    segment(ours, 3).close()
    world.now += 100 * KEEP
    ours.storage.publish("a-note", b"the store's clock goes on")
    theirs.once("get", lambda: ours.storage.rename("segment", "other"), "names/")
    theirs.storage.sweep()
    assert get(theirs.storage, "other").rstrip(b"\0") == content(3)


def test_sweep_forgets_names_that_are_never_used_again(world: ObjectWorld, ours: Process) -> None:
    for number in range(300):
        ours.storage.publish(f"segment-{number:08d}", b"one")
        ours.storage.remove(f"segment-{number:08d}")
    ours.storage.publish("manifest", b"one")
    ours.storage.remove("manifest")
    ours.storage.create("snapshot-00000001-0123abcd.tmp").close()
    ours.storage.remove("snapshot-00000001-0123abcd.tmp")
    world.now += KEEP_NAME + 1
    ours.storage.publish("note", b"the store's clock goes on")
    ours.storage.sweep()
    left = sorted(key for key in world.objects if key.startswith("names/"))
    assert left == ["names/manifest", "names/note", *(f"names/segment-{number:08d}" for number in range(199, 300))]


def test_memory_goes_back_to_the_system_when_all_is_done(
    ours: Process, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once after a start, and once after each merging; never in the thread that commits."""
    returned: list[str] = []
    monkeypatch.setattr("backends.storage.objects.upkeep.give_back", lambda: returned.append(current_thread().name))
    handle = segment(ours, 3)
    handle.tidy()
    ours.storage.upkeep.wait()
    assert returned == ["upkeep"]
    handle.tidy()
    ours.storage.upkeep.wait()
    assert returned == ["upkeep"], "nothing was done"
    for number in range(3, 20):
        append(handle, number)
    handle.tidy()
    ours.storage.upkeep.wait()
    assert returned == ["upkeep"] * 2
    give_back()  # the real one raises nothing
