"""What only an object store can do to a backup, and what keeps it whole: one danger a test."""

import errno
import random
import threading
from collections.abc import Callable
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.storage.base import FileFenced, Storage, WriteHandle
from backends.storage.objects import merging, writing
from backends.storage.objects.names import SMALL
from backends.storage.objects.storage import ObjectStorage
from backends.storage.objects.store import Listed
from backends.storage.objects.sweeping import KEEP, KEEP_NAME
from backends.storage.objects.writing import EXTENT, ObjectWriteHandle
from tests.storage.simulated_objects import PARALLEL, Fault, Killed, ObjectWorld, SimulatedObjects

RECORD = b"a record of some bytes"


class Process:
    """A process with its own connection; `before` is called before each of its requests, `fault` chosen by it."""

    def __init__(self, world: ObjectWorld, latency: float = 0.0) -> None:
        self.before: Callable[[str, str], Fault | None] = lambda kind, key: None
        self.store = SimulatedObjects(
            world, latency=latency, fault=lambda kind, key: self.before(kind, key) or Fault.NONE
        )
        self.storage = ObjectStorage(self.store)

    def requests(self) -> list[tuple[str, str]]:
        """The requests since the last call."""
        done = list(self.store.log)
        self.store.log.clear()
        return done

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.requests()]

    def once(self, kind: str, do: Callable[[], object], start: str = "", fault: Fault = Fault.NONE) -> None:
        """Before the next request of this kind for such a key, do something."""

        def before(this: str, key: str) -> Fault | None:
            if this != kind or not key.startswith(start):
                return None
            self.before = lambda kind, key: None
            do()
            return fault

        self.before = before


@pytest.fixture
def world() -> ObjectWorld:
    return ObjectWorld()


@pytest.fixture
def ours(world: ObjectWorld) -> Process:
    process = Process(world)
    process.storage.make()
    return process


@pytest.fixture
def theirs(world: ObjectWorld, ours: Process) -> Process:
    return Process(world)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MERGE_AT", 8)
    monkeypatch.setattr(merging, "PIECE", 200)


def get(storage: Storage, name: str) -> bytes:
    with closing(storage.open(name)) as handle:
        return handle.read(0, handle.size())


def segment(process: Process, count: int = 0) -> ObjectWriteHandle:
    """A segment as the log makes it, with `count` records."""
    handle = process.storage.create("segment.tmp")
    handle.write(0, b"header")
    handle.write(6, bytes(10_000))
    handle.sync()
    process.storage.rename_new("segment.tmp", "segment")
    assert isinstance(handle, ObjectWriteHandle)
    for number in range(count):
        append(handle, number)
    return handle


def record(number: int) -> bytes:
    return b"%06d " % number + b"x" * (number % 40)


def append(handle: ObjectWriteHandle, number: int) -> None:
    handle.write_durably(handle._end, record(number))


def content(count: int) -> bytes:
    """The content of a segment up to its last record."""
    return b"header" + b"".join(map(record, range(count)))


# How many requests


def test_commit_is_one_request(ours: Process) -> None:
    handle = segment(ours)
    ours.requests()
    for number in range(100):
        append(handle, number)
    assert ours.kinds() == ["create"] * 100
    assert get(ours.storage, "segment").rstrip(b"\0") == content(100)


def test_commit_waits_for_nothing_else_that_is_under_way(ours: Process) -> None:
    """Neither for an extension of its own file, nor for the upload of another one, nor for its merging."""
    handle, held, go_on = segment(ours, 5), threading.Semaphore(0), threading.Event()

    def hold(kind: str, key: str) -> None:
        if threading.current_thread() is not threading.main_thread():
            held.release()
            assert go_on.wait(20)

    ours.before = hold
    bulk = ours.storage.create("snapshot")
    bulk.write(0, b"s" * (2 * EXTENT + 1))
    threads = [
        threading.Thread(target=lambda: handle.extend(10_006, 10_000)),
        threading.Thread(target=handle._merge),
    ]
    for thread in threads:
        thread.start()
    for _ in range(4):  # both uploads, the extension and the merging hang
        assert held.acquire(timeout=20)
    append(handle, 5)
    go_on.set()
    for thread in threads:
        thread.join()
    bulk.sync()
    assert get(ours.storage, "segment") == content(6).ljust(20_006, b"\0")


def test_small_file_is_published_and_read_by_one_request(ours: Process, theirs: Process) -> None:
    ours.storage.publish("session", b"one")
    ours.requests()
    ours.storage.publish("session", b"two")
    assert ours.kinds() == ["replace"]
    assert theirs.storage.read_small("session") == b"two"
    assert theirs.kinds() == ["get"]
    theirs.storage.publish("damage", b"found")
    theirs.storage.publish("session", b"three")
    assert theirs.kinds() == ["get", "create", "replace"]


def test_file_too_large_for_its_name_object_is_published_whole(ours: Process, theirs: Process) -> None:
    for size in (SMALL, SMALL + 1, 10):
        ours.storage.publish("document", bytes([7]) * size)
        assert theirs.storage.read_small("document") == bytes([7]) * size
        assert ours.storage.names() == ["document"]


def test_segment_is_read_in_parallel(world: ObjectWorld, ours: Process) -> None:
    segment(ours, 2000)
    reading = Process(world, latency=0.002)
    assert get(reading.storage, "segment").rstrip(b"\0") == content(2000)
    assert reading.store.most_at_once == PARALLEL


def test_memory_of_a_large_upload_is_bounded(ours: Process) -> None:
    """A snapshot is uploaded while it is written; no more than some extents wait."""
    handle = ours.storage.create("snapshot")
    assert isinstance(handle, ObjectWriteHandle)
    for number in range(40):
        handle.write(number * (1 << 20), bytes([number + 1]) * (1 << 20))
        assert len(handle._uploads) <= 2
        assert len(handle._buffer) <= EXTENT
    handle.sync()
    assert sum(kind == "create" and key.startswith("data/") for kind, key in ours.requests()) == 10
    assert get(ours.storage, "snapshot") == b"".join(bytes([number + 1]) * (1 << 20) for number in range(40))


# Taking a file over


def assert_fenced(handle: WriteHandle) -> None:
    assert handle.is_fenced()
    with pytest.raises(FileFenced):
        handle.write_durably(6, RECORD)


def test_sealed_file_takes_no_more_of_its_writer(ours: Process, theirs: Process) -> None:
    handle = segment(ours, 3)
    assert not handle.is_fenced()
    assert theirs.storage.seal("segment")
    assert theirs.storage.seal("segment")  # again, after a crash
    assert handle.is_fenced()
    with pytest.raises(FileFenced):
        append(handle, 3)
    with pytest.raises(OSError) as caught:
        append(handle, 3)
    assert caught.value.errno == errno.EIO
    assert get(theirs.storage, "segment").rstrip(b"\0") == content(3)


LOSES: list[Callable[[Storage], object]] = [
    lambda storage: storage.remove("segment"),
    lambda storage: storage.rename("other", "segment"),
    lambda storage: storage.create("segment"),
    lambda storage: storage.publish("segment", b"small"),
]


@pytest.mark.parametrize("how", LOSES, ids=["remove", "rename", "create", "publish"])
def test_file_that_loses_its_name_takes_no_more_of_its_writer(
    ours: Process, theirs: Process, how: Callable[[Storage], object]
) -> None:
    handle = segment(ours, 3)
    other = theirs.storage.create("other")
    other.write(0, b"other")
    other.sync()
    how(theirs.storage)
    assert handle.is_fenced()
    with pytest.raises(FileFenced):
        append(handle, 3)


def test_writer_at_full_speed_is_stopped(ours: Process, theirs: Process) -> None:
    """It writes a record during each request of the process that takes over, so the end is never where it was seen."""
    handle, done = segment(ours, 3), 3
    fenced: list[FileFenced] = []

    def write_one(kind: str, key: str) -> None:
        nonlocal done
        if not fenced:
            try:
                append(handle, done)
                done += 1
            except FileFenced as error:
                fenced.append(error)

    theirs.before = write_one
    assert theirs.storage.seal("segment")
    assert len(theirs.requests()) < 40
    theirs.before = lambda kind, key: None
    assert get(theirs.storage, "segment").rstrip(b"\0") == content(done)
    if not fenced:
        with pytest.raises(FileFenced):
            append(handle, done)


def test_file_that_is_moved_while_it_is_sealed_stays_sealed(ours: Process, theirs: Process) -> None:
    """Its writer goes on in a new chain, and has already ended the old one, when the other process seals the file."""
    handle = segment(ours, 3)
    ours.once("replace", lambda: theirs.storage.seal("segment"), "names/")
    with pytest.raises(FileFenced):
        handle.truncate(10)
    with pytest.raises(OSError):
        append(handle, 3)
    assert get(theirs.storage, "segment").rstrip(b"\0") == content(3)


def test_preallocation_of_sealed_file_is_refused(ours: Process, theirs: Process) -> None:
    handle = segment(ours, 3)
    theirs.storage.seal("segment")
    with pytest.raises(FileFenced):
        handle.extend(20_000, 10_000)


@pytest.mark.parametrize("name", ["manifest", "session"])
def test_replaced_writer_publishes_nothing_over_its_successor(ours: Process, theirs: Process, name: str) -> None:
    """It was held up after its last check, just before it publishes."""
    segment(ours)
    for document in ("manifest", "session"):
        ours.storage.publish(document, b"ours")

    def take_over() -> None:
        assert theirs.storage.read_small("manifest") == b"ours"
        theirs.storage.publish("session", b"theirs")
        theirs.storage.seal("segment")

    ours.once("replace", take_over, f"names/{name}")
    with pytest.raises(FileFenced):
        ours.storage.publish(name, b"ours, too late")
    assert theirs.storage.read_small("manifest") == b"ours"
    assert theirs.storage.read_small("session") == b"theirs"
    ours.storage.read_small(name)
    with pytest.raises(FileFenced):
        ours.storage.publish(name, b"ours, after reading it again")


def test_replaced_writer_does_not_remove_file_of_its_successor(ours: Process, theirs: Process) -> None:
    """Both make a segment of this name ahead of use; the first one removes its own when it stops."""
    segment(ours)
    theirs.storage.remove("segment")
    other = segment(theirs, 3)
    with pytest.raises(FileFenced):
        ours.storage.remove("segment")
    append(other, 3)
    assert get(theirs.storage, "segment").rstrip(b"\0") == content(4)


# Requests that are done late, or twice


def test_record_that_arrives_after_the_take_over_changes_nothing(
    world: ObjectWorld, ours: Process, theirs: Process
) -> None:
    handle = segment(ours, 3)
    ours.before = lambda kind, key: Fault.LATE
    with pytest.raises(TimeoutError):
        append(handle, 3)
    theirs.storage.seal("segment")
    assert world.late
    world.deliver()
    assert get(theirs.storage, "segment").rstrip(b"\0") == content(3)


def test_record_that_arrives_before_the_take_over_is_read(world: ObjectWorld, ours: Process, theirs: Process) -> None:
    handle = segment(ours, 3)
    ours.before = lambda kind, key: Fault.LATE
    with pytest.raises(TimeoutError):
        append(handle, 3)
    world.deliver()
    theirs.storage.seal("segment")
    assert get(theirs.storage, "segment").rstrip(b"\0") == content(4)


def test_lost_answer_is_settled_and_the_log_goes_on(ours: Process) -> None:
    handle = segment(ours, 3)
    ours.once("create", lambda: None, fault=Fault.LOST_ANSWER)
    append(handle, 3)
    append(handle, 4)
    assert get(ours.storage, "segment").rstrip(b"\0") == content(5)


def test_late_publication_replaces_nothing_newer(world: ObjectWorld, ours: Process, theirs: Process) -> None:
    ours.storage.publish("session", b"one")
    ours.before = lambda kind, key: Fault.LATE
    with pytest.raises(TimeoutError):
        ours.storage.publish("session", b"two")
    theirs.storage.publish("session", b"three")
    world.deliver()
    assert theirs.storage.read_small("session") == b"three"


def test_late_removal_takes_no_newer_file_away(world: ObjectWorld, ours: Process, theirs: Process) -> None:
    """A name is used again: a segment that was made ahead of use is removed by a stop and made anew by a start."""
    segment(ours)
    ours.before = lambda kind, key: Fault.TWICE
    ours.storage.remove("segment")
    segment(theirs, 3)
    assert world.late
    world.deliver()
    assert get(theirs.storage, "segment").rstrip(b"\0") == content(3)
    theirs.storage.remove("segment")
    world.deliver()
    assert theirs.storage.names() == []


def test_late_rename_takes_no_name_that_is_in_use_or_was(world: ObjectWorld, ours: Process, theirs: Process) -> None:
    for attempt in range(2):
        late = ours.storage.create(f"late-{attempt}.tmp")
        ours.before = lambda kind, key: Fault.LATE if key == "names/segment" else None
        with pytest.raises(TimeoutError):
            ours.storage.rename_new(f"late-{attempt}.tmp", "segment")
        late.close()
        segment(theirs, 3)
        if attempt:
            theirs.storage.remove("segment")
        world.deliver()
        assert ("segment" in theirs.storage.names()) == (not attempt)
        if not attempt:
            assert get(theirs.storage, "segment").rstrip(b"\0") == content(3)
            theirs.storage.remove("segment")


def test_repeated_extents_of_merged_file_change_nothing(
    world: ObjectWorld, ours: Process, theirs: Process, small_pieces: None
) -> None:
    ours.before = lambda kind, key: Fault.TWICE if kind == "create" and key.startswith("data/") else None
    handle = segment(ours, 50)
    merging.merge(ours.store, handle.chain)
    world.deliver()
    assert get(theirs.storage, "segment").rstrip(b"\0") == content(50)
    assert sum(key.startswith("data/") for key in world.objects) > 50
    world.now += KEEP + 1
    append(handle, 50)
    ours.storage.sweep()
    assert get(theirs.storage, "segment").rstrip(b"\0") == content(51)
    assert sum(key.startswith("data/") for key in world.objects) < 20


# Merging, and what is deleted


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


# What is there


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
