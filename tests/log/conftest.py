"""Fixtures with backups to test, and log options small enough to reach every case quickly."""

import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from backends.log.writer.options import DEFAULT_OPTIONS, LogOptions
from backends.log.writer.writer import Writer
from backends.storage.local import LocalStorage
from tests.fake_lightningd.calls import fresh_schema
from tests.log.destinations import DESTINATIONS, Maker
from tests.log.histories import Node, change, database, silent, source
from tests.storage.simulated import SimulatedDisk, SimulatedStorage


@pytest.fixture(autouse=True)
def no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch the lock off: a test's writers play several machines in one process, and the lock would keep them apart.

    tests/log/test_lock.py switches it on again.
    """
    monkeypatch.setattr(LocalStorage, "lock", lambda self, what: None)


DATABASE = database((change(fresh_schema()),))
"""A node's database at version 1."""


SMALL = LogOptions(
    segment_size=8 << 10, preallocate_min=2 << 10, preallocate_max=8 << 10, check_every=0.0, note_every=0.0
)
"""Segments so small that a few dozen changes cause every kind of segment change; each maintenance writes a note."""

TINY = replace(SMALL, segment_size=1 << 10, preallocate_min=700, note_every=1e9)
"""Files small enough to damage every single byte of them in turn."""


@pytest.fixture
def small() -> LogOptions:
    """Options for a test that fills many segments; `make` uses them, too."""
    return SMALL


@pytest.fixture
def tiny(readers_do_not_wait: None) -> LogOptions:
    """Options for a test that damages every byte; `make` uses them, too."""
    return TINY


@pytest.fixture
def options(request: pytest.FixtureRequest) -> LogOptions:
    """The options of the fixture that the test asks for: `tiny`, `small`, or the default."""
    return TINY if "tiny" in request.fixturenames else SMALL if "small" in request.fixturenames else DEFAULT_OPTIONS


@pytest.fixture
def new(tmp_path: Path) -> Callable[[LogOptions], Node]:
    """A new node, on a disk of its own."""
    return lambda options: Node(SimulatedStorage(SimulatedDisk()), tmp_path, options=options)


@pytest.fixture(params=DESTINATIONS)
def make(request: pytest.FixtureRequest, tmp_path: Path, options: LogOptions) -> Iterator[Maker]:
    """Returns the Backup at a destination where no backup has been created yet, a new object each time."""
    with DESTINATIONS[request.param](tmp_path, options) as make:
        yield make


@pytest.fixture
def created(make: Maker) -> Maker:
    """As `make`, with a backup created at version 1."""
    make().create(source(DATABASE, 1, "02aa"))
    return make


@pytest.fixture
def writer(created: Maker) -> Iterator[Writer]:
    """A writer of that backup."""
    with closing(created().open(silent, "writer")) as writer:
        yield writer


@pytest.fixture
def readers_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers give up at once on a record that looks torn: no writer is running that could still complete it."""
    monkeypatch.setattr("backends.log.reader.records._ATTEMPTS", 0)
    monkeypatch.setattr("backends.log.reader.opening._PAUSE", 0.0)


@pytest.fixture
def time_limit() -> Iterator[None]:
    """Fail a test after 20 seconds instead of letting it hang."""

    seconds = 20

    def late(*_: object) -> None:
        raise AssertionError(f"it took more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
