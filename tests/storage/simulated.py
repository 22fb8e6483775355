"""A disk in memory that may lose in a power cut whatever POSIX lets it lose.

What was synced always stays. Of the rest, each part is kept or lost on its own:

- the content of a file: see `content.py`;
- a name that was created, renamed or removed since the last `sync_names` is changed on the disk or not, and for
  each name in the order of the changes; a rename is done for both names or for none. One to a new name is two
  changes, as of a hard link: the file may have either name, both, or none. `sync` of a file does not save its name.

The odds differ from cut to cut, so that all kept, all lost and every mixture come up.
"""

import errno
import os
import random
import threading
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass

from backends.storage.base import ReadHandle, Space, Storage, WriteHandle
from backends.storage.local import plain_name
from tests.storage.content import ODDS, Content


class PowerCut(BaseException):
    """The machine is off. Not an Exception, so that no error handling under test mistakes it for an error."""


@dataclass(frozen=True, slots=True)
class _NameChange:
    """A creation or second name (no `old`), a removal (no `new`) or a rename."""

    old: str | None
    new: str | None
    created: Content | None = None

    def do(self, names: MutableMapping[str, Content]) -> None:
        file = self.created if self.old is None else names.pop(self.old)
        if self.new is not None and file is not None:
            names[self.new] = file


class SimulatedDisk:
    """A disk of `capacity` bytes that carries one directory, which is not made yet.

    `operations` counts the points at which a cut can come: before each effect of a call that changes anything (an old
    file's removal and the new one's creation, a write and its sync) and, for a call that makes something durable,
    after the last one, before it returns.

    `watch`, when set, is called at each of these points, before the effect: `crash` called there gives what a cut
    at this point leaves, and the run continues.
    """

    def __init__(self, capacity: int = 1 << 30) -> None:
        self.capacity = capacity
        self.operations = 0
        self.is_off = False
        self.watch: Callable[[], None] | None = None
        self._cut_at = 0
        self._lock = threading.RLock()
        self._made = self._made_durably = False
        self._names: dict[str, Content] = {}
        self._synced_names: dict[str, Content] = {}
        self._changes: list[_NameChange] = []
        self._looking, self._doing = _Looking(self), _Doing(self)

    @classmethod
    def holding(cls, files: Mapping[str, bytes]) -> "SimulatedDisk":
        """A disk with a directory of these files, all of it synced."""
        disk = cls()
        disk._made = disk._made_durably = True
        disk._names = {name: Content(data) for name, data in files.items()}
        disk._synced_names = dict(disk._names)
        return disk

    def crash_at(self, number: int) -> None:
        """Raise PowerCut when `operations` reaches `number`, and from then on at every call.

        ValueError when it has already been reached. Only `close` of a handle still succeeds, and does nothing.
        """
        if number <= self.operations:
            raise ValueError(f"operation {number} is over: the disk is at {self.operations}")
        self._cut_at = number

    def crash(self, rng: random.Random) -> "SimulatedDisk":
        """A disk with what a power cut at this moment leaves; this one is unchanged, for another `rng`."""
        with self._lock:
            survivor = SimulatedDisk(self.capacity)
            likely = rng.choice(ODDS)
            made = self._made if rng.random() < likely else self._made_durably
            survivor._made = survivor._made_durably = made
            if not made:
                return survivor
            names, late = dict(self._synced_names), set[str | None]()
            for change in self._changes:
                touched = {change.old, change.new} - {None}
                if late.isdisjoint(touched) and rng.random() < likely:
                    change.do(names)
                else:
                    late |= touched
            left: dict[Content, Content] = {}  # a file with two names stays one file
            for name, file in sorted(names.items()):
                survivor._names[name] = left[file] = left.get(file) or file.after_power_cut(rng)
            survivor._synced_names = dict(survivor._names)
            return survivor

    def _on(self) -> "_Looking":
        """Surrounds everything that only reads."""
        return self._looking

    def _step(self) -> "_Doing":
        """Surrounds each effect: the cut may come just before it."""
        return self._doing

    def _point(self) -> None:
        with self._step():
            pass

    def _change(self, change: _NameChange) -> None:
        change.do(self._names)
        self._changes.append(change)

    def _sync_names(self) -> None:
        self._synced_names = dict(self._names)
        self._changes.clear()

    def _file(self, name: str) -> Content:
        if name not in self._names:
            raise _error(errno.ENOENT, name)
        return self._names[name]

    def _free(self) -> int:
        return self.capacity - sum(len(file.now) for file in set(self._names.values()))


class _Looking:
    """Surrounds everything that only reads. Not a generator, and one object for each disk, as it remembers nothing: a
    test of power cuts reads a million times."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk, self._lock = disk, disk._lock

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._disk.is_off:
            self._lock.release()
            raise PowerCut

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _Doing(_Looking):
    """Surrounds each effect. The disk is still locked while `watch` looks at it."""

    def __enter__(self) -> None:
        super().__enter__()
        disk = self._disk
        disk.operations += 1
        try:
            if disk.watch is not None:
                disk.watch()
            if disk.operations == disk._cut_at:
                disk.is_off = True
                raise PowerCut
        except BaseException:
            self._lock.release()
            raise


class _Directory(_Looking):
    """Surrounds what looks into the directory, which must be there."""

    def __enter__(self) -> None:
        super().__enter__()
        if not self._disk._made:
            self._lock.release()
            raise _error(errno.ENOENT, "a simulated disk")


class SimulatedStorage(Storage):
    """The directory on a SimulatedDisk; any number of storages may share one disk."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self.disk = disk
        self._looking = _Directory(disk)

    def describe(self) -> str:
        return "a simulated disk"

    @property
    def reads_while_written(self) -> bool:
        return True

    @property
    def is_mounted(self) -> bool:
        return True

    def exists(self) -> bool:
        with self.disk._on():
            return self.disk._made

    def make(self) -> None:
        if self.exists():
            raise _error(errno.EEXIST, self.describe())
        with self.disk._step():
            self.disk._made = True
        with self.disk._step():
            self.disk._made_durably = True
        self.disk._point()

    def unmake(self) -> None:
        for name in self.names():
            self.remove(name)
        with self.disk._step():
            self.disk._made = False
        with self.disk._step():
            self.disk._made_durably = False
            self.disk._sync_names()
        self.disk._point()

    def names(self) -> list[str]:
        with self._directory():
            return sorted(self.disk._names)

    def open(self, name: str) -> ReadHandle:
        with self._directory(name):
            return _Reader(self.disk, self.disk._file(name))

    def create(self, name: str) -> WriteHandle:
        with self._directory(name):
            there = name in self.disk._names
        if there:
            self.remove(name)
        file = Content()
        with self.disk._step():
            self.disk._change(_NameChange(None, name, file))
        return _Writer(self.disk, file)

    def rename(self, old: str, new: str) -> None:
        with self._directory(old, new):
            self.disk._file(old)
        with self.disk._step():
            self.disk._change(_NameChange(old, new))

    def rename_new(self, old: str, new: str) -> None:
        with self._directory(old, new):
            file = self.disk._file(old)
        with self.disk._step():
            if new in self.disk._names:
                raise _error(errno.EEXIST, new)
            self.disk._change(_NameChange(None, new, file))
        with self.disk._step():
            self.disk._change(_NameChange(old, None))

    def remove(self, name: str) -> None:
        with self._directory(name):
            self.disk._file(name)
        with self.disk._step():
            self.disk._change(_NameChange(name, None))

    def sync_names(self) -> None:
        with self._directory():
            pass
        with self.disk._step():
            self.disk._sync_names()
        self.disk._point()

    def space(self) -> Space:
        with self._directory():
            return Space(free=self.disk._free(), total=self.disk.capacity)

    def _directory(self, *names: str) -> "_Directory":
        for name in names:
            plain_name(name)
        return self._looking


class _Handle:
    def __init__(self, disk: SimulatedDisk, file: Content) -> None:
        self._disk = disk
        self._open: Content | None = file

    @property
    def _file(self) -> Content:
        if self._open is None:
            raise _error(errno.EBADF, "a closed file")
        return self._open

    def close(self) -> None:
        self._open = None


class _Reader(_Handle, ReadHandle):
    def size(self) -> int:
        with self._disk._on():
            return len(self._file.now)

    def read(self, offset: int, length: int) -> bytes:
        with self._disk._on():
            return bytes(memoryview(self._file.now)[offset : offset + length])


class _Writer(_Handle, WriteHandle):
    def write(self, offset: int, data: bytes) -> None:
        with self._disk._step():
            growth = offset + len(data) - len(self._file.now)
            if growth > 0 and growth > self._disk._free():
                raise _error(errno.ENOSPC, "a simulated disk")
            self._file.write(offset, data)

    def write_durably(self, offset: int, data: bytes) -> None:
        self.write(offset, data)
        self.sync()

    def extend(self, offset: int, length: int) -> None:
        self.write(offset, bytes(length))
        self.sync()

    def sync(self) -> None:
        with self._disk._step():
            self._file.sync()
        self._disk._point()

    def truncate(self, size: int) -> None:
        with self._disk._step():
            self._file.truncate(size)


def _error(number: int, name: str) -> OSError:
    return OSError(number, os.strerror(number), name)
