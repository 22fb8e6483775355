"""Taking a file over in an object store: its writer adds nothing more, and publishes nothing."""

import errno
import secrets
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from backends.storage.base import FileFenced, Storage
from backends.storage.deadline import limited, not_after
from backends.storage.objects.writing import EXTENT
from tests.storage.object_processes import Process, append, content, get, segment


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


def test_taken_over_file_of_a_store_that_then_hangs_is_fenced_with_what_is_left_of_the_time(
    ours: Process, theirs: Process
) -> None:
    """The refusal counts although nobody says any more what is in the way, and the look ends with the commit."""
    handle, until = segment(ours, 3), time.monotonic() + 1
    theirs.storage.seal("segment")
    allowed: list[float] = []

    def hangs(kind: str, key: str) -> None:
        if kind == "get":
            allowed.append(limited(float("inf")))
            raise TimeoutError(errno.ETIMEDOUT, "it did not answer in time")

    ours.before, ours.store.ends = hangs, until
    with pytest.raises(FileFenced):
        append(handle, 3)
    assert allowed == [until]


def test_upload_in_a_thread_of_its_own_keeps_the_deadline_of_who_waits_for_it(ours: Process) -> None:
    handle, until = ours.storage.create("segment.tmp"), time.monotonic() + 60
    allowed: list[float] = []
    ours.before = lambda kind, key: allowed.append(limited(float("inf")))
    for number in range(3):
        handle.write(number * EXTENT, b"x" * EXTENT)
    with not_after(until):
        handle.write(3 * EXTENT, b"x")
        handle.sync()
    assert allowed[-1] == until
    assert allowed[0] == float("inf")


def test_parts_of_a_large_object_are_read_within_the_deadline_of_who_waits_for_them(ours: Process) -> None:
    handle, until = ours.storage.create("snapshot.tmp"), time.monotonic() + 60
    handle.write(0, secrets.token_bytes(EXTENT))
    handle.sync()
    allowed: list[float] = []
    ours.before = lambda kind, key: allowed.append(limited(float("inf")))
    with closing(ours.storage.open("snapshot.tmp")) as reader, not_after(until):
        assert len(reader.read(0, EXTENT)) == EXTENT
    assert allowed.count(until) >= 4
