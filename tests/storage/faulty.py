"""A storage whose operations fail when a test says so."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from os import strerror
from pathlib import Path
from typing import Literal, TypeVar, get_args

from backends.storage.base import ReadHandle, Space, Storage, WriteHandle

Operation = Literal[
    "exists", "make", "unmake", "names", "open", "create", "rename", "rename_new", "remove", "sync_names", "space",
    "size", "read", "write", "write_durably", "extend", "sync", "truncate",
]  # fmt: skip
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

_Result = TypeVar("_Result")


@dataclass(slots=True)
class _Fault:
    calls_left: int
    number: int
    sticky: bool
    done: float

    def strikes(self) -> bool:
        self.calls_left -= 1
        return self.calls_left == 0 or (self.sticky and self.calls_left < 0)

    def error(self, operation: Operation) -> OSError:
        return OSError(self.number, strerror(self.number), f"a fault made for a test, in {operation}")


class FaultyStorage(Storage):
    """`storage`, with the faults that `fail` has set.

    `calls` counts the calls of each operation, failed ones too, and may be cleared; `struck` counts the failures.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.calls: Counter[Operation] = Counter()
        self.struck = 0
        self._faults: dict[Operation, list[_Fault]] = {}

    def fail(self, operation: Operation, number: int, *, nth: int = 1, sticky: bool = False, done: float = 0.0) -> None:
        """Let the `nth` call of `operation` from now on (1 is the next one) fail with the errno `number`.

        sticky: all later calls fail as well. done: how much is carried out despite the error, from 0 (nothing) to 1
        (everything); a share between makes a short write, and is for writes only. A write that was to be durable is
        written at most, never synced: what failed is its sync.
        """
        if nth < 1 or not 0 <= done <= 1:
            raise ValueError("nth counts from 1, the next call; done is a share from 0 to 1")
        if 0 < done < 1 and operation not in ("write", "write_durably", "extend"):
            raise ValueError(f"{operation} is carried out or not: done must be 0 or 1")
        self._faults.setdefault(operation, []).append(_Fault(nth, number, sticky, done))

    def heal(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def describe(self) -> str:
        return self.storage.describe()

    @property
    def reads_while_written(self) -> bool:
        return self.storage.reads_while_written

    @property
    def is_mounted(self) -> bool:
        return self.storage.is_mounted

    def exists(self) -> bool:
        return self._call("exists", self.storage.exists)

    def make(self) -> None:
        self._call("make", self.storage.make)

    def unmake(self) -> None:
        self._call("unmake", self.storage.unmake)

    def names(self) -> list[str]:
        return self._call("names", self.storage.names)

    def open(self, name: str) -> ReadHandle:
        return _Reader(self, self._call("open", lambda: self.storage.open(name)))

    def create(self, name: str) -> WriteHandle:
        return _Writer(self, self._call("create", lambda: self.storage.create(name)))

    def rename(self, old: str, new: str) -> None:
        self._call("rename", lambda: self.storage.rename(old, new))

    def rename_new(self, old: str, new: str) -> None:
        self._call("rename_new", lambda: self.storage.rename_new(old, new))

    def remove(self, name: str) -> None:
        self._call("remove", lambda: self.storage.remove(name))

    def sync_names(self) -> None:
        self._call("sync_names", self.storage.sync_names)

    def space(self) -> Space:
        return self._call("space", self.storage.space)

    def shares_disk_with(self, path: Path) -> bool:
        return self.storage.shares_disk_with(path)

    def directories_with(self, name: str) -> list[str]:
        return self.storage.directories_with(name)

    def _due(self, operation: Operation) -> _Fault | None:
        """Count a call; returns the fault that strikes it, if any."""
        self.calls[operation] += 1
        striking = [fault for fault in self._faults.get(operation, ()) if fault.strikes()]
        if not striking:
            return None
        self.struck += 1
        return striking[0]

    def _call(self, operation: Operation, carry_out: Callable[[], _Result]) -> _Result:
        fault = self._due(operation)
        if fault is None:
            return carry_out()
        if fault.done:
            result = carry_out()
            if isinstance(result, (ReadHandle, WriteHandle)):
                result.close()
        raise fault.error(operation)


class _Reader(ReadHandle):
    def __init__(self, storage: FaultyStorage, handle: ReadHandle) -> None:
        self._storage, self._handle = storage, handle

    def size(self) -> int:
        return self._storage._call("size", self._handle.size)

    def read(self, offset: int, length: int) -> bytes:
        return self._storage._call("read", lambda: self._handle.read(offset, length))

    def close(self) -> None:
        self._handle.close()


class _Writer(WriteHandle):
    """After a failed sync, later ones succeed and save nothing, as on Linux: it has forgotten what was to be saved."""

    def __init__(self, storage: FaultyStorage, handle: WriteHandle) -> None:
        self._storage, self._handle = storage, handle
        self._syncs_lie = False

    def write(self, offset: int, data: bytes) -> None:
        self._write("write", offset, data)

    def write_durably(self, offset: int, data: bytes) -> None:
        self._write("write_durably", offset, data)

    def extend(self, offset: int, length: int) -> None:
        self._write("extend", offset, bytes(length))

    def _write(self, operation: Operation, offset: int, data: bytes) -> None:
        fault = self._storage._due(operation)
        if fault is not None:
            # `extend` has a descriptor of its own, which gets the error: only the other one's syncs lie from here on.
            self._syncs_lie |= operation == "write_durably"
            share = data[: int(len(data) * fault.done)]
            if share:
                self._handle.write(offset, share)
            raise fault.error(operation)
        if operation == "write" or self._syncs_lie:
            self._handle.write(offset, data)
        elif operation == "extend":
            self._handle.extend(offset, len(data))
        else:
            self._handle.write_durably(offset, data)

    def sync(self) -> None:
        try:
            self._storage._call("sync", self._sync)
        except OSError:
            self._syncs_lie = True
            raise

    def _sync(self) -> None:
        if not self._syncs_lie:
            self._handle.sync()

    def truncate(self, size: int) -> None:
        self._storage._call("truncate", lambda: self._handle.truncate(size))

    def close(self) -> None:
        self._handle.close()
