"""How many requests each operation is, and what runs beside a commit."""

import threading

from backends.storage.objects.names import SMALL
from backends.storage.objects.writing import EXTENT, ObjectWriteHandle
from tests.storage.object_processes import Process, append, content, get, segment
from tests.storage.simulated_objects import PARALLEL, ObjectWorld


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
    bulk = ours.storage.create("snapshot.tmp")
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
