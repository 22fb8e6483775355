"""Every kind of place that a backup may be in, for the tests that all of them must pass.

A place is a context manager over a fresh directory of the test's own. It gives a function that opens the place, at
each call as another process would; the backup's directory has not been made yet, its parent exists.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from backends.storage.base import Storage
from backends.storage.local import LocalStorage
from backends.storage.objects.storage import ObjectStorage
from tests.storage.simulated import SimulatedDisk, SimulatedStorage
from tests.storage.simulated_objects import ObjectWorld, SimulatedObjects

Opener = Callable[[], Storage]
Place = Callable[[Path], AbstractContextManager[Opener]]


@contextmanager
def local(directory: Path) -> Iterator[Opener]:
    """A directory of the machine that runs the tests."""
    yield lambda: LocalStorage(directory / "lightning.bkp")


@contextmanager
def simulated(_: Path) -> Iterator[Opener]:
    """A disk in memory."""
    disk = SimulatedDisk()
    yield lambda: SimulatedStorage(disk)


@contextmanager
def objects(_: Path) -> Iterator[Opener]:
    """An object store in memory."""
    world = ObjectWorld()
    yield lambda: ObjectStorage(SimulatedObjects(world))


PLACES: dict[str, Place] = {"local": local, "simulated": simulated, "objects": objects}
