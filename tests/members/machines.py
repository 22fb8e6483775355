"""Members on simulated disks that fail on command, and the one power switch of everything that a history plays with.

Everything runs in one thread, so a history is the same each time it is played. What the mirror does at several members
at once happens here one after the other, in a random order; and if the power fails in the middle, the others may have
done any part of their share.
"""

import errno
import os
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from backends.places.base import Place
from backends.storage.base import FileFenced, ReadHandle, Space, Storage, WriteHandle
from backends.storage.mirror.workers import Late, Round, Workers
from tests.storage.content import Content
from tests.storage.simulated import PowerCut, SimulatedDisk, SimulatedStorage

T = TypeVar("T")


class Stuck(BaseException):
    """The calling thread hangs in a call that does not return."""


class Hangs(BaseException):
    """The node waits forever: the watchdog would end it."""


class Fault(Enum):
    """What a member does when its fault is due."""

    ERROR = "error"
    """The operation fails and has done nothing."""
    AFTER = "after"
    """The operation is carried out, and reports an error."""
    HANG = "hang"
    """The operation does not return; nothing was done yet."""
    HANG_AFTER = "hang after"
    """The operation is carried out, and does not return."""


@dataclass
class Power:
    """The power of all machines together. It goes off at a point that is given by its number."""

    rng: random.Random
    points: int = 0
    cut_at: int = 0
    off: bool = False

    def point(self, machine: "Machine | None" = None) -> None:
        """Just before anything changes anywhere. Raises PowerCut."""
        if self.off:
            if machine is None or machine.grace <= 0:
                raise PowerCut
            machine.grace -= 1
            return
        self.points += 1
        if self.points == self.cut_at:
            self.off = True
            raise PowerCut


class Machine:
    """What holds one member: its disk, and what is wrong with it now."""

    def __init__(self, name: str, power: Power) -> None:
        self.name, self.power = name, power
        self.dead = False
        """Every call fails: unplugged, or unreachable."""
        self.hung = False
        """No call returns."""
        self.pending: list[Callable[[], object]] = []
        """What threads are still to do here once the member answers again."""
        self.grace = 0
        """How many more changes reach the disk after the power was cut."""
        self.sealed: set[Content] = set()
        self._due: list[tuple[int, Fault]] = []
        self.put(SimulatedDisk())

    def put(self, disk: SimulatedDisk) -> None:
        """Put this disk in the place of the one before."""
        disk.watch = lambda: self.power.point(self)
        self.disk = disk

    def fail_after(self, calls: int, fault: Fault) -> None:
        """Let the member fail in a call from now on, 1 being the next one."""
        self._due = [(calls, fault)]

    def heal(self) -> None:
        """It answers again, first to those who still wait."""
        self.dead = self.hung = False
        self._due.clear()
        while self.pending:
            self.pending.pop(0)()

    def reset(self) -> None:
        """All processes that used it are gone."""
        self.pending.clear()
        self._due.clear()
        self.hung = False
        self.grace = 0

    def strike(self) -> Fault | None:
        """The fault that is due in this call. Raises OSError for a dead member."""
        if self.hung:
            raise Stuck
        if self.dead:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if not self._due:
            return None
        calls, fault = self._due.pop()
        if calls > 1:
            self._due.append((calls - 1, fault))
            return None
        return fault

    def call(self, work: Callable[[], T]) -> T:
        """Do something at this member, unless a fault is due."""
        fault = self.strike()
        if fault is Fault.HANG:
            self.hung = True
            raise Stuck
        if fault is Fault.ERROR:
            self.dead = self.power.rng.random() < 0.5
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        result = work()
        if fault is Fault.HANG_AFTER:
            self.hung = True
            raise Stuck
        if fault is Fault.AFTER:
            self.dead = self.power.rng.random() < 0.5
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return result


class MemberStorage(Storage):
    """The member's directory, as one process sees it. `before` is called ahead of each call."""

    def __init__(self, machine: Machine, before: Callable[[Machine], None]) -> None:
        self.machine, self._before = machine, before

    def _call(self, work: Callable[[SimulatedStorage], T]) -> T:
        self._before(self.machine)
        return self.machine.call(lambda: work(SimulatedStorage(self.machine.disk)))

    def describe(self) -> str:
        return f"the machine {self.machine.name}"

    def exists(self) -> bool:
        return self._call(lambda storage: storage.exists())

    def make(self) -> None:
        self._call(lambda storage: storage.make())

    def unmake(self) -> None:
        self._call(lambda storage: storage.unmake())

    def names(self) -> list[str]:
        return self._call(lambda storage: storage.names())

    def open(self, name: str) -> ReadHandle:
        return _Reader(self, self._call(lambda storage: storage.open(name)))

    def create(self, name: str) -> WriteHandle:
        handle = self._call(lambda storage: storage.create(name))
        return _Writer(self, handle, name)

    def rename(self, old: str, new: str) -> None:
        self._call(lambda storage: storage.rename(old, new))

    def rename_new(self, old: str, new: str) -> None:
        self._call(lambda storage: storage.rename_new(old, new))

    def remove(self, name: str) -> None:
        self._call(lambda storage: storage.remove(name))

    def seal(self, name: str) -> bool:
        return self._call(lambda _: self._seal(name))

    def _seal(self, name: str) -> bool:
        self.machine.sealed.add(self.machine.disk._file(name))
        return True

    def sync_names(self) -> None:
        self._call(lambda storage: storage.sync_names())

    def space(self) -> Space:
        return self._call(lambda storage: storage.space())


class _Handle:
    def __init__(self, storage: MemberStorage, disk: SimulatedDisk) -> None:
        self._storage, self._disk = storage, disk

    def _call(self, work: Callable[[], T]) -> T:
        self._storage._before(self._storage.machine)
        if self._storage.machine.disk is not self._disk:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return self._storage.machine.call(work)


class _Reader(_Handle, ReadHandle):
    def __init__(self, storage: MemberStorage, handle: ReadHandle) -> None:
        super().__init__(storage, storage.machine.disk)
        self._handle = handle

    def size(self) -> int:
        return self._call(self._handle.size)

    def read(self, offset: int, length: int) -> bytes:
        return self._call(lambda: self._handle.read(offset, length))

    def close(self) -> None:
        self._handle.close()


class _Writer(_Handle, WriteHandle):
    def __init__(self, storage: MemberStorage, handle: WriteHandle, name: str) -> None:
        super().__init__(storage, storage.machine.disk)
        self._handle, self._name = handle, name
        self._content: Content = handle._open  # type: ignore[attr-defined]

    def write(self, offset: int, data: bytes) -> None:
        self._call(lambda: self._handle.write(offset, data))

    def write_durably(self, offset: int, data: bytes) -> None:
        self._call(lambda: self._handle.write_durably(offset, data))
        if self.is_fenced():
            raise FileFenced(self._name)

    def is_fenced(self) -> bool:
        machine = self._storage.machine
        named = machine.disk is self._disk and any(each is self._content for each in self._disk._names.values())
        return not named or self._content in machine.sealed

    def extend(self, offset: int, length: int) -> None:
        self._call(lambda: self._handle.extend(offset, length))

    def sync(self) -> None:
        self._call(self._handle.sync)

    def truncate(self, size: int) -> None:
        self._call(lambda: self._handle.truncate(size))

    def close(self) -> None:
        self._handle.close()


class MachinePlace(Place):
    """The place of a member on a machine."""

    def __init__(self, storage: MemberStorage) -> None:
        self._storage = storage

    @property
    def storage(self) -> MemberStorage:
        return self._storage


# The mirror's threads

MAX_WAITS = 20


class _Round(Round[Any]):
    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self.names, self.waits = names, 0

    def wait(self, seconds: float) -> bool:
        """Time does not pass here: who has not answered will not, and who goes on waiting waits forever."""
        done = len(self.results) + len(self.errors) == len(self.names)
        self.waits += 1
        if not done and self.waits > MAX_WAITS:
            raise Hangs
        return done

    def outcome(self) -> tuple[dict[str, Any], dict[str, Exception]]:
        late = {name: Late(0) for name in self.names if name not in self.results and name not in self.errors}
        return dict(self.results), {**self.errors, **late}


class SerialWorkers(Workers):
    """The mirror's workers without threads: one member after the other, in a random order."""

    machines: Mapping[str, Machine] = {}
    rng = random.Random(0)

    def begin(self, works: Mapping[str, Callable[[], T]]) -> Any:
        round_ = _Round(list(works))
        order = self.rng.sample(list(works), len(works))
        for number, name in enumerate(order):
            try:
                self._do(round_, name, works[name])
            except PowerCut:
                for other in order[number + 1 :]:
                    self._partly(other, works[other])
                raise
        return round_

    def _do(self, round_: _Round, name: str, work: Callable[[], object]) -> None:
        machine = self.machines[name]
        if machine.hung:
            machine.pending.append(lambda: _quietly(work))
            return
        try:
            round_.run(name, work)
        except Stuck:
            machine.pending.append(lambda: None)

    def _partly(self, name: str, work: Callable[[], object]) -> None:
        """What another member has done of its share when the power fails."""
        machine = self.machines[name]
        machine.grace = self.rng.choice((0, 1, 2, 3, 5, 8, 100))
        try:
            if not machine.hung:
                work()
        except (Exception, PowerCut, Stuck):
            pass
        finally:
            machine.grace = 0

    def idle(self, name: str) -> bool:
        return not self.machines[name].pending


def _quietly(work: Callable[[], object]) -> None:
    with suppress(Exception, Stuck):
        work()
