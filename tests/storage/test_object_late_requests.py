"""Requests that an object store carries out late, or twice, change nothing that was done since."""

import pytest

from backends.storage.objects import merging
from backends.storage.objects.sweeping import KEEP
from tests.storage.object_processes import Process, append, content, get, segment
from tests.storage.simulated_objects import Fault, ObjectWorld


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
