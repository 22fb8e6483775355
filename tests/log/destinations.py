"""Every kind of destination, for the tests that all of them must pass.

A destination is a context manager over a fresh directory of the test's own. It gives a function that returns the
Backup, a new object at each call, as another process would have; no backup has been created there yet.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from backends import place_at
from backends.log.backup import Backup
from backends.log.writer.options import LogOptions
from backends.storage.objects.storage import ObjectStorage
from tests.log.histories import backup_in
from tests.storage.simulated import SimulatedDisk, SimulatedStorage
from tests.storage.simulated_objects import ObjectWorld, SimulatedObjects

Maker = Callable[[], Backup]
Kind = Callable[[Path, LogOptions], AbstractContextManager[Maker]]


@contextmanager
def file(directory: Path, options: LogOptions) -> Iterator[Maker]:
    """A directory of the machine that runs the tests."""
    url = (directory / "lightning.bkp").as_uri()
    yield lambda: Backup(place_at(url), options)


@contextmanager
def simulated(_: Path, options: LogOptions) -> Iterator[Maker]:
    """The log on a disk in memory."""
    disk = SimulatedDisk()
    yield lambda: backup_in(SimulatedStorage(disk), options)


@contextmanager
def objects(_: Path, options: LogOptions) -> Iterator[Maker]:
    """The log in an object store in memory."""
    world = ObjectWorld()
    yield lambda: backup_in(ObjectStorage(SimulatedObjects(world)), options)


DESTINATIONS: dict[str, Kind] = {"file": file, "simulated": simulated, "objects": objects}
