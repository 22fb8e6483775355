"""Fixtures for the tests of object stores."""

import pytest

from backends.storage.objects import merging, writing
from tests.storage.object_processes import Process
from tests.storage.simulated_objects import ObjectWorld


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
