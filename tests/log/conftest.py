"""Backups to work with, and what makes a log's slow and large things quick and small."""

import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from backends.log.writer.options import DEFAULT_OPTIONS, LogOptions
from backends.log.writer.writer import Writer
from backends.storage.local import LocalStorage
from tests.fake_lightningd.calls import fresh_schema
from tests.log.destinations import DESTINATIONS, Maker
from tests.log.histories import change, database, silent, source


@pytest.fixture(autouse=True)
def no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """All writers of a test are one process, which stands for several machines: the lock would keep them apart.

    tests/log/test_lock.py has it back.
    """
    monkeypatch.setattr(LocalStorage, "lock", lambda self, what: None)


DATABASE = database((change(fresh_schema()),))
"""A node's at version 1."""


SMALL = LogOptions(
    segment_size=8 << 10, preallocate_min=2 << 10, preallocate_max=8 << 10, check_every=0.0, note_every=0.0
)
"""Segments so small that some dozens of changes come by every kind of segment change; a note each time."""

TINY = replace(SMALL, segment_size=1 << 10, preallocate_min=700, note_every=1e9)
"""Files of which every single byte can be tried."""


@pytest.fixture
def small() -> LogOptions:
    """For a test that goes through many segments; the backups that `make` makes have it, too."""
    return SMALL


@pytest.fixture
def tiny(readers_do_not_wait: None) -> LogOptions:
    """For a test that tries every byte; the backups that `make` makes have it, too."""
    return TINY


@pytest.fixture
def options(request: pytest.FixtureRequest) -> LogOptions:
    """What the test asks for."""
    return TINY if "tiny" in request.fixturenames else SMALL if "small" in request.fixturenames else DEFAULT_OPTIONS


@pytest.fixture(params=DESTINATIONS)
def make(request: pytest.FixtureRequest, tmp_path: Path, options: LogOptions) -> Iterator[Maker]:
    """Makes the backup of a destination where there is no backup yet."""
    with DESTINATIONS[request.param](tmp_path, options) as make:
        yield make


@pytest.fixture
def created(make: Maker) -> Maker:
    """The same, with a new backup at version 1."""
    make().create(source(DATABASE, 1, "02aa"))
    return make


@pytest.fixture
def writer(created: Maker) -> Iterator[Writer]:
    """A writer of that backup."""
    with closing(created().open(silent, "writer")) as writer:
        yield writer


@pytest.fixture
def readers_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers do not wait for a writer that is not there."""
    monkeypatch.setattr("backends.log.reader.records._ATTEMPTS", 0)
    monkeypatch.setattr("backends.log.reader.opening._PAUSE", 0.0)


@pytest.fixture
def time_limit() -> Iterator[None]:
    """No test waits for ever."""

    seconds = 20

    def late(*_: object) -> None:
        raise AssertionError(f"it took more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
