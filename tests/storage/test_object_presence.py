"""Whether there is a backup: the marker `backup` says so, and so does the manifest. And what is left when it goes."""

import errno

import pytest

from backends.storage.base import FileFenced
from backends.storage.objects import names
from backends.storage.objects.presence import MARKER
from backends.storage.objects.storage import ObjectStorage
from tests.storage.object_processes import Process, append, segment
from tests.storage.simulated_objects import ObjectWorld, SimulatedObjects


@pytest.fixture
def unmarked(world: ObjectWorld, ours: Process) -> Process:
    """Another process at a backup that has lost its marker, and nothing else."""
    ours.storage.publish("manifest", b"here")
    del world.objects[MARKER]
    return Process(world)


def test_backup_without_its_marker_is_there_and_is_read(unmarked: Process) -> None:
    assert unmarked.storage.exists()
    assert unmarked.storage.names() == ["manifest"]
    assert unmarked.storage.read_small("manifest") == b"here"
    unmarked.storage.space()
    unmarked.storage.sync_names()
    assert {kind for kind, _ in unmarked.requests()} == {"get", "list"}, "who only reads changes nothing"


def test_lost_marker_is_put_back_by_who_writes(world: ObjectWorld, unmarked: Process) -> None:
    unmarked.storage.publish("session", b"mine")
    assert MARKER in world.objects
    unmarked.requests()
    unmarked.storage.publish("session", b"mine again")
    assert unmarked.kinds() == ["replace"], "it is put back once"


def test_marker_lost_under_a_writer_is_put_back(world: ObjectWorld, ours: Process) -> None:
    ours.storage.publish("manifest", b"here")
    del world.objects[MARKER]
    ours.storage.sync_names()
    ours.storage.publish("session", b"mine")
    assert MARKER in world.objects


def test_no_backup_is_made_where_one_has_lost_its_marker(world: ObjectWorld, unmarked: Process) -> None:
    before = dict(world.objects)
    with pytest.raises(FileExistsError):
        unmarked.storage.make()
    assert world.objects == before


def test_backup_without_its_marker_is_removed_whole(world: ObjectWorld, unmarked: Process) -> None:
    unmarked.storage.unmake()
    assert not world.objects
    assert not unmarked.storage.exists()


def test_nothing_is_written_where_there_is_no_backup(world: ObjectWorld) -> None:
    storage = ObjectStorage(SimulatedObjects(world))
    for use in (
        lambda: storage.publish("session", b"x"),
        lambda: storage.create("segment"),
        storage.names,
        storage.sync_names,
        storage.space,
        storage.unmake,
    ):
        with pytest.raises(FileNotFoundError):
            use()
    assert not storage.exists()
    assert not world.objects


def test_looking_for_a_backup_and_reading_its_manifest_is_one_request(ours: Process, theirs: Process) -> None:
    ours.storage.publish("manifest", b"here")
    assert theirs.storage.exists()
    assert theirs.storage.exists()
    assert theirs.storage.read_small("manifest") == b"here"
    assert theirs.requests() == [("get", "names/manifest")]


def test_manifest_is_read_again_after_a_take_over(ours: Process, theirs: Process) -> None:
    """The old writer may have begun another generation since it was looked at."""
    segment(ours, 3)
    ours.storage.publish("manifest", b"old")
    theirs.storage.seal("segment")
    assert theirs.storage.exists()
    ours.storage = ObjectStorage(ours.store)  # a third writer: the first one's files are sealed
    ours.storage.publish("manifest", b"new")
    theirs.storage.seal("segment")  # once more; nothing has to be sealed
    assert theirs.storage.read_small("manifest") == b"new"
    with pytest.raises(FileFenced):
        ours.storage.publish("manifest", b"late")


def test_manifest_is_read_again_when_time_has_passed(
    ours: Process, theirs: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours.storage.publish("manifest", b"old")
    monkeypatch.setattr(names, "_KEPT_FOR", 0.0)
    assert theirs.storage.exists()
    ours.storage.publish("manifest", b"new")
    assert theirs.storage.read_small("manifest") == b"new"


def test_marker_alone_is_a_backup_that_is_being_made(ours: Process, theirs: Process) -> None:
    assert theirs.storage.exists()
    with pytest.raises(FileExistsError):
        theirs.storage.make()


@pytest.mark.parametrize("sealed", [False, True])
def test_removed_backup_takes_no_more_of_a_writer_that_was_held_up(
    ours: Process, theirs: Process, *, sealed: bool
) -> None:
    """It wakes up when everything is gone, and must not acknowledge what it then saves."""
    handle = segment(ours, 3)
    if sealed:
        theirs.storage.seal("segment")
    theirs.storage.unmake()
    assert not theirs.storage.exists()
    with pytest.raises(FileFenced):
        append(handle, 3)
    with pytest.raises(OSError) as caught:
        append(handle, 3)
    assert caught.value.errno == errno.EIO


def test_only_fences_are_left_of_a_removed_backup(world: ObjectWorld, ours: Process, theirs: Process) -> None:
    segment(ours, 3)
    ours.storage.publish("manifest", b"here")
    theirs.storage.unmake()
    assert [len(there.data) for there in world.objects.values()] == [0]
    theirs.storage.make()
    theirs.storage.unmake()
