"""Every kind of destination, for the tests that all backends must pass.

A destination is a context manager over a fresh directory of the test's own. It gives a function that makes the
backend, as often as wanted, as another process would; there is no backup yet.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from backends import backend_for
from backends.base import Backend
from backends.log.backend import LogBackend
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

Maker = Callable[[], Backend]
Kind = Callable[[Path], AbstractContextManager[Maker]]


@contextmanager
def file(directory: Path) -> Iterator[Maker]:
    """A directory of the machine that runs the tests."""
    url = (directory / "lightning.bkp").as_uri()
    yield lambda: backend_for(url)


@contextmanager
def simulated(_: Path) -> Iterator[Maker]:
    """The log on a disk in memory."""
    disk = SimulatedDisk()
    yield lambda: LogBackend(SimulatedStorage(disk))


DESTINATIONS: dict[str, Kind] = {"file": file, "simulated": simulated}
