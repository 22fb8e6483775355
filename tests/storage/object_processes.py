"""Processes with connections of their own to one simulated object store, and a segment as the log writes it."""

from collections.abc import Callable
from contextlib import closing

from backends.storage.base import Storage
from backends.storage.objects.storage import ObjectStorage
from backends.storage.objects.writing import ObjectWriteHandle
from tests.storage.simulated_objects import Fault, ObjectWorld, SimulatedObjects


class Process:
    """A process with its own connection; `before` is called before each of its requests, `fault` chosen by it."""

    def __init__(self, world: ObjectWorld, latency: float = 0.0) -> None:
        self.before: Callable[[str, str], Fault | None] = lambda kind, key: None
        self.store = SimulatedObjects(
            world, latency=latency, fault=lambda kind, key: self.before(kind, key) or Fault.NONE
        )
        self.storage = ObjectStorage(self.store)

    def requests(self) -> list[tuple[str, str]]:
        """The requests since the last call."""
        done = list(self.store.log)
        self.store.log.clear()
        return done

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.requests()]

    def once(self, kind: str, do: Callable[[], object], start: str = "", fault: Fault = Fault.NONE) -> None:
        """Before the next request of this kind for such a key, do something."""

        def before(this: str, key: str) -> Fault | None:
            if this != kind or not key.startswith(start):
                return None
            self.before = lambda kind, key: None
            do()
            return fault

        self.before = before


def get(storage: Storage, name: str) -> bytes:
    with closing(storage.open(name)) as handle:
        return handle.read(0, handle.size())


def segment(process: Process, count: int = 0) -> ObjectWriteHandle:
    """A segment as the log makes it, with `count` records."""
    handle = process.storage.create("segment.tmp")
    handle.write(0, b"header")
    handle.write(6, bytes(10_000))
    handle.sync()
    process.storage.rename_new("segment.tmp", "segment")
    assert isinstance(handle, ObjectWriteHandle)
    for number in range(count):
        append(handle, number)
    return handle


def record(number: int) -> bytes:
    return b"%06d " % number + b"x" * (number % 40)


def append(handle: ObjectWriteHandle, number: int) -> None:
    handle.write_durably(handle._end, record(number))


def content(count: int) -> bytes:
    """The content of a segment up to its last record."""
    return b"header" + b"".join(map(record, range(count)))
