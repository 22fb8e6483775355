"""Running one operation on several members at once, and waiting for it no longer than allowed.

A call into a filesystem may never return, and nothing can interrupt it (a `hard` NFS mount, a FUSE filesystem, a dying
disk). So each member has threads of its own: the one that is stuck is lost until the call returns, and nothing waits
for it. Each calling thread has its own worker for each member, so that a commit never queues behind maintenance.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from backends.storage.deadline import carried

T = TypeVar("T")


class Late(OSError):
    """The member has not answered in the time that was allowed. What it was asked to do may still happen."""

    def __init__(self, waited: float) -> None:
        super().__init__(f"it has not answered for {waited:.0f} seconds")


class Round(Generic[T]):
    """One operation on several members, and what has come of it so far."""

    def __init__(self, names: Sequence[str]) -> None:
        self.results: dict[str, T] = {}
        self.errors: dict[str, Exception] = {}
        self._names, self._left = names, len(names)
        self._counting = threading.Lock()
        self._all_done = threading.Lock()
        self._all_done.acquire()
        self._began = time.monotonic()

    def run(self, name: str, work: Callable[[], T]) -> None:
        """Do the work for that member. For its worker."""
        try:
            result = work()
        except Exception as error:
            with self._counting:
                self.errors[name] = error
                self._count()
        else:
            with self._counting:
                self.results[name] = result
                self._count()

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._all_done.release()

    def wait(self, seconds: float) -> bool:
        """Wait until all members have answered, at most `seconds` from the beginning. Returns whether they have."""
        remaining = self._began + seconds - time.monotonic()
        if not self._all_done.acquire(timeout=max(remaining, 0.0)):
            return False
        self._all_done.release()
        return True

    def late(self) -> list[str]:
        """The members that have not answered."""
        with self._counting:
            return [name for name in self._names if name not in self.results and name not in self.errors]

    def age(self) -> float:
        """How many seconds ago it began."""
        return time.monotonic() - self._began

    def outcome(self) -> tuple[dict[str, T], dict[str, Exception]]:
        """The results and the errors as of now, by member. One that has not answered has the error `Late`."""
        with self._counting:
            results, errors = dict(self.results), dict(self.errors)
        waited = self.age()
        for name in self._names:
            if name not in results and name not in errors:
                errors[name] = Late(waited)
        return results, errors


class _Worker:
    """A thread that does what one calling thread asks of one member, one after another."""

    def __init__(self, name: str) -> None:
        self.tasks: SimpleQueue[tuple[Round[Any], str, Callable[[], Any]]] = SimpleQueue()
        self.asked = self.done = 0
        """Counted by the calling thread and by this one, each its own."""
        threading.Thread(target=self._work, name=f"member {name}", daemon=True).start()

    def _work(self) -> None:
        while True:
            round_, name, work = self.tasks.get()
            round_.run(name, work)
            self.done += 1


class Workers:
    """The threads of all members. A thread is made when it is first needed, and ends with the process."""

    def __init__(self) -> None:
        self._workers: dict[tuple[int, str], _Worker] = {}
        self._making = threading.Lock()

    def begin(self, works: Mapping[str, Callable[[], T]]) -> Round[T]:
        """Begin the work of each member named. It is given up when the calling thread would give it up."""
        return self._begin({name: carried(work) for name, work in works.items()})

    def _begin(self, works: Mapping[str, Callable[[], T]]) -> Round[T]:
        round_: Round[T] = Round(list(works))
        thread = threading.get_ident()
        for name, work in works.items():
            worker = self._workers.get((thread, name)) or self._make(thread, name)
            worker.asked += 1
            worker.tasks.put((round_, name, work))
        return round_

    def leave(self, name: str, work: Callable[[], Any]) -> None:
        """Have the member do this after all that it was asked before, and wait for nothing: it has all the time that it
        needs."""
        self._begin({name: work})

    def idle(self, name: str) -> bool:
        """Whether nothing that this member was asked to do is still under way."""
        workers = list(self._workers.items())
        return all(worker.done == worker.asked for (_, member), worker in workers if member == name)

    def _make(self, thread: int, name: str) -> _Worker:
        with self._making:
            worker = self._workers[thread, name] = _Worker(name)
            return worker
