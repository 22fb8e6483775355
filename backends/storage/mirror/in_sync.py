"""The members in sync, and doing one thing at all of them.

An operation has succeeded when it was done by every member that is in sync, and those that failed have durably been put
out of sync by `on_failure`. It fails as a whole only if too few members would remain, or if the error is an answer (no
such file, a name that is taken) that all of them give.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from backends.storage.base import Lock, Storage, WriteHandle
from backends.storage.mirror.handles import MirrorWriteHandle
from backends.storage.mirror.workers import Late, Round, Workers

T = TypeVar("T")

BULK = 30.0
"""Seconds that a member may take for anything but a commit."""


class OnFailure(Protocol):
    """Puts members out of sync, durably, before anything is acknowledged without them."""

    def __call__(self, failed: Mapping[str, Exception]) -> None:
        """Return once the members that remain carry an epoch without `failed`, and any earlier change has ended too.

        Raises FileFenced if another writer has taken a member over, OSError if the node cannot go on without them.
        """


@dataclass(frozen=True, slots=True)
class Options:
    """How long members are waited for, in seconds, and how many must remain."""

    grace: float
    need: int
    bulk: float = BULK


class InSync:
    """The members that every change goes to, in the order in which they are read from. Made for one writer.

    Until `settle` is called, the members may still differ (the last writer may have died between two of them), so
    everything is read from the first, and the first failure of any member fails the operation.
    """

    def __init__(
        self,
        members: Mapping[str, Storage],
        options: Options,
        on_failure: OnFailure,
        workers: Workers | None = None,
    ) -> None:
        """`workers` are those of an earlier attempt, in which a member may still be stuck."""
        self._in_sync: dict[str, Storage] = dict(members)  # replaced as a whole, never changed
        self.options, self._on_failure = options, on_failure
        self.workers = workers or Workers()
        self._handles: dict[int, MirrorWriteHandle] = {}
        self._locks: dict[str, Lock] = {}
        self.latencies: dict[str, float] = {}
        """Seconds that a commit takes at each member, averaged over the last ones."""
        self.unfinished: set[str] = set()
        """Temporary files that have neither got their final name yet nor been removed."""
        self._settled = False
        self._failing = False
        """Set while members are being put out of sync: until that is durable, nothing may be acknowledged."""
        self._active = 0
        self._joining = False
        self._turns = threading.Condition()

    # Which members

    @property
    def in_sync(self) -> Mapping[str, Storage]:
        """The members that every change goes to, by name."""
        return self._in_sync

    def read_first(self, name: str) -> None:
        """From now on, read from this member as long as it does not fail."""
        others = {other: storage for other, storage in self._in_sync.items() if other != name}
        self._in_sync = {name: self._in_sync[name], **others}

    def settle(self) -> None:
        """From now on the members are equal: one that differs has failed."""
        self._settled = True

    @contextmanager
    def failing(self, names: Mapping[str, object]) -> Iterator[None]:
        """Take these members out, and let no operation succeed until the block, which makes that durable, has ended.

        If the block raises, no operation succeeds any more.
        """
        self._failing = True
        self._in_sync = {name: storage for name, storage in self._in_sync.items() if name not in names}
        yield
        self._failing = False

    @contextmanager
    def between_operations(self) -> Iterator[bool]:
        """Hold every operation back while the block runs. False, and nothing is held back, if one is under way."""
        with self._turns:
            mine = self._active == 0 and not self._failing
            self._joining = mine
        try:
            yield mine
        finally:
            if mine:
                with self._turns:
                    self._joining = False
                    self._turns.notify_all()

    def adopt(self, name: str, storage: Storage, lock: Lock | None) -> None:
        """Take a member in that holds exactly what the others do; call it `between_operations`. `lock` is that of its
        directory, if this process has one."""
        if lock is not None:
            self._locks[name] = lock
        self._in_sync = {**self._in_sync, name: storage}

    def unlock(self, name: str) -> None:
        """Release the lock of a member that is out of sync, without waiting: its filesystem could not be unmounted."""
        lock = self._locks.pop(name, None)
        if lock is not None:
            self.workers.leave(name, lock.release)

    def open_files(self) -> list[MirrorWriteHandle]:
        """The files that are open for writing."""
        return list(self._handles.values())

    def forget(self, handle: MirrorWriteHandle) -> None:
        """The file was closed."""
        self._handles.pop(id(handle), None)

    # Doing something at all members

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._turns:
            while self._joining:
                self._turns.wait()
            self._active += 1
        try:
            yield
        finally:
            with self._turns:
                self._active -= 1

    def each(
        self, work: Callable[[str, Storage], T], within: float | None = None, accept: tuple[type[Exception], ...] = ()
    ) -> dict[str, T]:
        """Do this at every member in sync. Returns the results of those that are in sync afterwards, by name.

        An error of a type in `accept` is an answer if no member succeeded; otherwise it is passed over.
        """
        with self._turn():
            works = {name: _work(work, name, storage) for name, storage in self._in_sync.items()}
            return self._judged(*self.attempt(works, within), accept)

    def each_part(self, parts: Mapping[str, WriteHandle], work: Callable[[WriteHandle], T]) -> dict[str, T]:
        """Do this with an open file of every member in sync."""
        with self._turn():
            works = {name: _with(work, parts[name]) for name in self._in_sync}
            return self._judged(*self.attempt(works))

    def write_durably(self, parts: Mapping[str, WriteHandle], offset: int, data: bytes) -> None:
        """One commit: write this to an open file of every member in sync; each is waited for at most `grace`."""

        def commit(name: str) -> None:
            began = time.perf_counter()
            parts[name].write_durably(offset, data)
            took = time.perf_counter() - began
            usual = self.latencies.get(name, took)
            self.latencies[name] = usual + (took - usual) / _SMOOTHING

        with self._turns:  # what `_turn` does, spelled out: this is the commit path
            while self._joining:
                self._turns.wait()
            self._active += 1
        try:
            round_ = self.workers.begin({name: partial(commit, name) for name in self._in_sync})
            if not (round_.wait(self.options.grace) and not round_.errors and not self._failing):
                self._judged(*self._outcome(round_))
        finally:
            with self._turns:
                self._active -= 1

    def attempt(
        self, works: Mapping[str, Callable[[], T]], within: float | None = None
    ) -> tuple[dict[str, T], dict[str, Exception]]:
        """Do the work of each member named here; the results and the errors, by member. Decides nothing."""
        round_ = self.workers.begin(works)
        at_first, waited = self._in_sync, 0.0
        while not round_.wait(waited) and waited < (allowed := self.options.bulk if within is None else within):
            if not any(name in self._in_sync or name not in at_first for name in round_.late()):
                break  # all that are late have been put out of sync meanwhile
            waited = min(waited + _STEP, allowed)
        return self._outcome(round_)

    def _outcome(self, round_: Round[T]) -> tuple[dict[str, T], dict[str, Exception]]:
        """What has come of it by now. As long as too few members would remain, those that are late are waited for."""
        results, errors = round_.outcome()
        while any(isinstance(error, Late) for error in errors.values()) and not self._can_lose(errors):
            round_.wait(round_.age() + _GLANCE)  # as with one destination: until the watchdog ends it
            results, errors = round_.outcome()
        return results, errors

    def _can_lose(self, errors: Mapping[str, Exception]) -> bool:
        failed = {name for name, error in errors.items() if not isinstance(error, _ANSWERS)}
        return len(self._in_sync.keys() - failed) >= self.options.need

    def _judged(
        self, results: dict[str, T], errors: dict[str, Exception], accept: tuple[type[Exception], ...] = ()
    ) -> dict[str, T]:
        """The results that count. Raises the error that fails the whole operation."""
        answers = {name: error for name, error in errors.items() if isinstance(error, (*accept, *_ANSWERS))}
        if answers and not results:
            self.unfinished.clear()
            raise next(iter(answers.values()))
        failed = {name: error for name, error in errors.items() if not isinstance(error, accept)}
        if failed:
            self.failed(failed)
        elif self._failing:
            self._on_failure({})  # another thread is putting members out of sync: wait until that is durable
        return {name: result for name, result in results.items() if name in self._in_sync}

    def failed(self, failed: Mapping[str, Exception]) -> None:
        """Put these members out of sync, or raise if that is not possible."""
        try:
            self._on_failure(failed)
            if not self._settled:
                raise next(iter(failed.values()))
        except BaseException:
            self.unfinished.clear()  # the operation fails as a whole: what was being made stays as it is
            raise

    def at_source(self, work: Callable[[str, Storage], T]) -> T:
        """Do this, which only reads, at one member; at the next if that one fails."""
        while True:
            name, storage = next(iter(self._in_sync.items()))
            results, errors = self.attempt({name: _work(work, name, storage)})
            if name in results:
                return results[name]
            error = errors[name]
            if isinstance(error, _ANSWERS) and not self._others_disagree(work, name):
                raise error
            self.failed({name: error})

    def _others_disagree(self, work: Callable[[str, Storage], object], name: str) -> bool:
        """Whether another member has the file that this one says it has not: then this one has lost it."""
        others = {other: storage for other, storage in self._in_sync.items() if other != name}
        if not self._settled or not others:
            return False
        results, _ = self.attempt({each: _work(work, each, others[each]) for each in others})
        return bool(results)


_SMOOTHING = 16
"""About how many commits the average latency is taken over."""

_STEP = 0.25
"""Seconds between two looks whether a member that is late, but not for a commit, must still be waited for."""

_GLANCE = 0.05
"""Seconds between two looks whether one of several members that are late has answered."""

_ANSWERS = (FileNotFoundError, FileExistsError)
"""Errors that say what is there, and not that a member has failed, if all members give them."""


def _work(work: Callable[[str, Storage], T], name: str, storage: Storage) -> Callable[[], T]:
    return lambda: work(name, storage)


def _with(work: Callable[[WriteHandle], T], part: WriteHandle) -> Callable[[], T]:
    return lambda: work(part)
