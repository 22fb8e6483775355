"""A command fetches each small object once, its child none of those again, and both see what is there now."""

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from backends.system import spool
from tests.storage.object_processes import Process, append, content, get, segment
from tests.storage.simulated_objects import ObjectWorld


@pytest.fixture
def command(world: ObjectWorld, ours: Process) -> Iterator[Process]:
    """A process that runs a command, beside the one that writes."""
    assert ours
    with spool.keeping():
        yield Process(world)


def text(process: Process) -> bytes:
    """The segment's records, opened anew."""
    return get(process.storage, "segment").rstrip(b"\0")


def fetched(process: Process) -> int:
    """How many data objects were fetched since the last call."""
    return sum(kind in ("get", "read", "read_many") and "data/" in key for kind, key in process.requests())


def test_second_pass_fetches_nothing(command: Process, ours: Process) -> None:
    segment(ours, 50)
    assert text(command) == content(50)
    assert fetched(command) > 0
    assert text(command) == content(50)
    assert fetched(command) == 0


def test_child_process_fetches_nothing_that_the_command_has_read(
    world: ObjectWorld, command: Process, ours: Process
) -> None:
    handle = segment(ours, 50)
    assert text(command) == content(50)
    append(handle, 50)
    kept = spool.current()
    assert kept is not None
    descriptor = kept.for_child()
    try:
        spool.take(descriptor)
        child = Process(world)
        assert text(child) == content(51), "and what was added since is there"
        assert fetched(child) == 1
        assert text(child) == content(51)
        assert fetched(child) == 0, "it keeps the last objects itself, in memory"
    finally:
        spool._Process.spool = kept
        assert descriptor is not None
        os.close(descriptor)


def test_chain_that_was_listed_is_only_asked_for_what_was_added(command: Process, ours: Process) -> None:
    handle = segment(ours, 2500)
    assert text(command) == content(2500)
    command.requests()
    append(handle, 2500)
    assert text(command) == content(2501)
    assert sum(kind == "list" for kind, _ in command.requests()) <= 2, "one to open it, one at its end"


@pytest.mark.usefixtures("small_pieces")
def test_what_was_merged_between_two_passes_is_read(command: Process, ours: Process) -> None:
    handle = segment(ours, 20)
    with closing(command.storage.open("segment")) as opened:
        assert opened.read(0, 30) == content(20)[:30]
    spool_before = spool.current()
    assert spool_before is not None
    handle.finish()
    ours.storage.upkeep.wait()
    assert text(command) == content(20)
    for number in range(20, 40):
        append(handle, number)
    handle.finish()
    ours.storage.upkeep.wait()
    assert text(command) == content(40)


def test_fenced_chain_is_listed_once(command: Process, ours: Process, world: ObjectWorld) -> None:
    segment(ours, 10)
    Process(world).storage.seal("segment")
    assert text(command) == content(10)
    command.requests()
    assert text(command) == content(10)
    assert "list" not in command.kinds()


def test_file_that_was_replaced_is_read_anew(command: Process, ours: Process) -> None:
    segment(ours, 10)
    assert text(command) == content(10)
    ours.storage.remove("segment")
    segment(ours, 5)
    assert text(command) == content(5)


@pytest.fixture
def gaps_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that is missing between others is taken for lost at once."""
    monkeypatch.setattr("backends.storage.objects.chain._PAUSE", 0.0)


@pytest.mark.usefixtures("gaps_are_not_waited_for")
def test_object_that_goes_before_it_was_read_is_missed(command: Process, ours: Process, world: ObjectWorld) -> None:
    segment(ours, 10).close()
    command.storage.open("segment").close()  # lists it, reads nothing
    victim = sorted(key for key in world.objects if key.startswith("data/"))[4]
    del world.objects[victim]
    with pytest.raises(FileNotFoundError):
        text(command)


@pytest.mark.usefixtures("gaps_are_not_waited_for")
def test_gap_is_not_kept(command: Process, ours: Process, world: ObjectWorld) -> None:
    segment(ours, 10).close()
    victim = sorted(key for key in world.objects if key.startswith("data/"))[4]
    gone = world.objects.pop(victim)
    assert text(command) == content(3)
    world.objects[victim] = gone
    assert text(command) == content(10)
