"""Backups to work with, and what makes a log's slow and large things quick and small."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.base import Backend
from backends.storage.local import LocalStorage
from tests.log.destinations import DESTINATIONS, Maker
from tests.log.histories import change, database, silent, source
from tests.standin.calls import fresh_schema


@pytest.fixture(autouse=True)
def no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """All writers of a test are one process, which stands for several machines: the lock would keep them apart.

    tests/log/test_lock.py has it back.
    """
    monkeypatch.setattr(LocalStorage, "lock", lambda self, what: None)


DATABASE = database((change(fresh_schema()),))
"""A node's at version 1."""


@pytest.fixture(params=DESTINATIONS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Maker]:
    """Makes the backend of a destination where there is no backup yet."""
    with DESTINATIONS[request.param](tmp_path) as make:
        yield make


@pytest.fixture
def created(make: Maker) -> Maker:
    """The same, with a new backup at version 1."""
    make().create(source(DATABASE, 1, "02aa"))
    return make


@pytest.fixture
def backend(created: Maker) -> Iterator[Backend]:
    """A writer of that backup."""
    backend = created()
    backend.open(silent, "writer")
    yield backend
    backend.close()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments so small that some dozens of changes come by every kind of segment change; a note with each upkeep."""
    monkeypatch.setattr("backends.log.segment.FULL", 8 << 10)
    monkeypatch.setattr("backends.log.writer.FULL", 8 << 10)
    monkeypatch.setattr("backends.log.segment.FIRST_ROOM", 2 << 10)
    monkeypatch.setattr("backends.log.segment.MOST_ROOM", 8 << 10)
    monkeypatch.setattr("backends.log.session.LOOK_EVERY", 0.0)
    monkeypatch.setattr("backends.log.session.NOTE_EVERY", 0.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers do not wait for a writer that is not there."""
    monkeypatch.setattr("backends.log.reading._PATIENCE", 0)
    monkeypatch.setattr("backends.log.opening._PAUSE", 0.0)


@pytest.fixture
def tiny(small: None, impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of which every single byte can be tried."""
    monkeypatch.setattr("backends.log.segment.FULL", 1 << 10)
    monkeypatch.setattr("backends.log.writer.FULL", 1 << 10)
    monkeypatch.setattr("backends.log.segment.FIRST_ROOM", 700)
    monkeypatch.setattr("backends.log.session.NOTE_EVERY", 1e9)


@pytest.fixture
def in_time() -> Iterator[None]:
    """No test waits for ever."""

    seconds = 20

    def late(*_: object) -> None:
        raise AssertionError(f"it took more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
