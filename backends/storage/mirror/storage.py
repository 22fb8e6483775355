"""One `Storage` made of the members in sync: each change is made at all of them, and read back from one."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

from backends.holder import Holder
from backends.storage.base import Closed, FileFenced, Lock, ReadHandle, Space, Storage
from backends.storage.mirror.handles import MirrorReadHandle, MirrorWriteHandle
from backends.storage.mirror.in_sync import InSync, OnFailure, Options
from backends.storage.mirror.workers import Workers

T = TypeVar("T")


class Differs(OSError):
    """A small file of a member is not what this writer wrote there."""


class MirrorStorage(InSync, Storage):
    """The directory that all members in sync hold."""

    def __init__(
        self,
        members: Mapping[str, Storage],
        options: Options,
        on_failure: OnFailure,
        workers: Workers | None = None,
    ) -> None:
        super().__init__(members, options, on_failure, workers)
        self._published: dict[str, bytes] = {}
        self.changes = 0
        """Counts everything that changes which files there are, or what is in a small one. Appending does not."""
        self.level: Callable[[], None] = lambda: None
        """Makes the members equal, once the previous writer has been fenced."""
        self.publishing: Callable[[str, bytes], AbstractContextManager[None]] = lambda name, data: nullcontext()
        """Entered around the publication of each small file."""
        self.by_others: Collection[str] = ()
        """The small files that commands may write, too, at one member after the other: there they may differ."""

    # Storage: names and files

    def describe(self) -> str:
        return " and ".join(f"{storage.describe()} ({name})" for name, storage in self._in_sync.items())

    def about(self) -> list[str]:
        return [line for lines in self.each(lambda _, storage: storage.about()).values() for line in lines]

    def exists(self) -> bool:
        return self.at_source(lambda _, storage: storage.exists())

    def make(self) -> None:
        self.each(lambda _, storage: storage.make())

    def unmake(self) -> None:
        self.each(lambda _, storage: storage.unmake())

    def names(self) -> list[str]:
        return self.at_source(lambda _, storage: storage.names())

    def open(self, name: str) -> ReadHandle:
        member, handle = self.at_source(lambda member, storage: (member, storage.open(name)))
        return MirrorReadHandle(self, name, member, handle)

    def create(self, name: str) -> MirrorWriteHandle:
        self.unfinished.add(name)
        handle = MirrorWriteHandle(self, name, dict(self._changed(lambda _, storage: storage.create(name))))
        self._handles[id(handle)] = handle
        return handle

    def rename(self, old: str, new: str) -> None:
        self._changed(lambda _, storage: storage.rename(old, new))
        self._renamed(old, new)

    def rename_new(self, old: str, new: str) -> None:
        self._changed(lambda _, storage: storage.rename_new(old, new))
        self._renamed(old, new)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Count a change before it and after it: whoever looked meanwhile may have seen either state."""
        self.changes += 1
        try:
            yield
        finally:
            self.changes += 1

    def _changed(self, work: Callable[[str, Storage], T], accept: tuple[type[Exception], ...] = ()) -> dict[str, T]:
        with self.changing():
            return self.each(work, accept=accept)

    def _renamed(self, old: str, new: str) -> None:
        self.unfinished.discard(old)
        self._published.pop(new, None)
        for handle in self.open_files():
            if handle.name == old:
                handle.name = new

    def remove(self, name: str) -> None:
        self._published.pop(name, None)
        self._changed(lambda _, storage: storage.remove(name), accept=(FileNotFoundError,))
        self.unfinished.discard(name)

    def stop_late_changes(self) -> None:
        self.each(lambda _, storage: storage.stop_late_changes())

    def seal(self, name: str) -> bool:
        return any(self.each(lambda _, storage: storage.seal(name), accept=(FileNotFoundError,)).values())

    @property
    def costly(self) -> bool:
        return any(storage.costly for storage in self._in_sync.values())

    def is_level(self) -> bool:
        return self._settled

    def after_take_over(self, names: Sequence[str]) -> Sequence[str]:
        self.level()
        return self.names()

    def sync_names(self) -> None:
        self.each(lambda _, storage: storage.sync_names())

    def publish(self, name: str, data: bytes) -> None:
        self._published.pop(name, None)  # until it is known which of the two each member has
        with self.publishing(name, data):
            self._changed(lambda _, storage: storage.publish(name, data))
            self._published[name] = data

    def wrote(self, name: str) -> bytes | None:
        """What this writer last published under this name, at every member; None if it has not, or not yet at all."""
        return self._published.get(name)

    def read_small(self, name: str, limit: int = 1 << 20) -> bytes:
        """The content of a small file: that of every member, so that one that was replaced is noticed.

        If another writer has put its own file in the place of ours at any member, that one is returned: it shows who.
        """
        if not self._settled:
            return self.at_source(lambda _, storage: storage.read_small(name, limit))
        if name in self.by_others:
            found = self.each(lambda _, storage: storage.read_small(name, limit), accept=(FileNotFoundError,))
            return next(iter(found.values()), b"")
        read = self.each(lambda _, storage: storage.read_small(name, limit))
        ours = self._published.get(name, next(iter(read.values())))
        other = {
            member: Differs(f"{name} is not what this node wrote there") for member in read if read[member] != ours
        }
        if other:
            try:
                self.failed(other)
            except FileFenced:
                return read[next(iter(other))]
        return ours

    # Storage: the rest

    def lock(self, what: str) -> Lock | None:
        every = _Locks(self)
        try:
            for name, storage in self._in_sync.items():
                results, errors = self.attempt({name: partial(storage.lock, what)})
                if errors:
                    self.failed(errors)
                self._locks.update({member: lock for member, lock in results.items() if lock is not None})
        except BaseException:
            every.release()
            raise
        return every if self._locks else None

    def unlock_all(self) -> None:
        """Release the locks of all members."""
        while self._locks:
            name, lock = self._locks.popitem()
            self.workers.begin({name: lock.release}).wait(self.options.grace)

    def locked_by(self) -> Holder | None:
        holders = self.each(lambda _, storage: storage.locked_by()).values()
        return next((holder for holder in holders if holder is not None), None)

    def check_lock(self) -> None:
        self.each(lambda _, storage: storage.check_lock())

    def space(self) -> Space:
        """The space at the member with the least."""
        return min(self.each(lambda _, storage: storage.space()).values(), key=lambda space: space.free)

    @property
    def is_mounted(self) -> bool:
        return any(storage.is_mounted for storage in self.in_sync.values())

    def shares_disk_with(self, path: Path) -> bool:
        return all(self.each(lambda _, storage: storage.shares_disk_with(path)).values())

    def why_unwritable(self) -> str | None:
        reasons = self.each(lambda _, storage: storage.why_unwritable()).values()
        return next((reason for reason in reasons if reason is not None), None)

    def closed(self) -> list[Closed]:
        return [entry for entries in self.each(lambda _, storage: storage.closed()).values() for entry in entries]


class _Locks:
    """The locks of all members that are in sync when it is released."""

    def __init__(self, mirror: MirrorStorage) -> None:
        self._mirror = mirror

    def release(self) -> None:
        self._mirror.unlock_all()
