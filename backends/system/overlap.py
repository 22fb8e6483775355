"""Hashing, compressing, reading and writing at the same time: each releases the interpreter while it works.

For whole databases only. A commit, and what goes on beside one (a compaction), stays in one thread.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

AHEAD = 16
"""Items that one thread may be ahead of the next: 4 MiB of pieces of a snapshot."""

_AT_ONCE = 4
"""Items before a thread is started: a small database needs none."""


class _Setting:
    allowed = True


def keep_to_one_thread() -> None:
    """From now on, do everything in turn: for a process that must leave the other processor to a running node."""
    _Setting.allowed = False


def may_overlap() -> bool:
    """Whether this process may do several things at the same time."""
    return _Setting.allowed


class InTurn(Generic[T]):
    """Does `work` for each item that it is given, in order, in a thread of its own; the caller goes on meanwhile.

    What `work` raises is raised by the next `give` or by `wait`; after that, nothing more is done. Use it as a context
    manager: when it is left, the thread has ended.
    """

    def __init__(self, work: Callable[[T], object], at_once: int = _AT_ONCE) -> None:
        """The first `at_once` items are done by the caller, before a thread is started."""
        self._work, self._at_once = work, at_once
        self._items: queue.Queue[T | None] = queue.Queue(AHEAD)
        self._thread: threading.Thread | None = None
        self._given = 0
        self._error: BaseException | None = None

    def __enter__(self) -> "InTurn[T]":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self._error = self._error or error  # what waits in the queue is not done
        self._end()

    def give(self, item: T) -> None:
        """Have the work done for `item`. Raises what it has raised for an earlier one."""
        if self._error is not None:
            raise self._error
        self._given += 1
        if self._thread is None:
            if self._given <= self._at_once or not _Setting.allowed:
                self._work(item)
                return
            self._thread = threading.Thread(target=self._run, name="overlapped", daemon=True)
            self._thread.start()
        self._items.put(item)

    def wait(self) -> None:
        """Wait until all is done. Raises what the work has raised."""
        self._end()
        if self._error is not None:
            raise self._error

    def _end(self) -> None:
        if self._thread is not None:
            self._items.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (item := self._items.get()) is not None:
            if self._error is None:
                try:
                    self._work(item)
                except BaseException as error:
                    self._error = error


def ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The items, made in a thread of their own, a few before they are asked for. Raises what making them raises.

    When this iterator is closed, the thread has ended. The items must not be made by what can hang (a destination):
    Ctrl-C would wait for it.
    """
    for _ in range(_AT_ONCE):
        try:
            yield next(items)
        except StopIteration:
            return
    if not _Setting.allowed:
        yield from items
        return
    yield from _ahead(items)


def _ahead(items: Iterator[T]) -> Generator[T, None, None]:
    made: queue.Queue[list[T]] = queue.Queue(AHEAD)
    over = threading.Event()
    raised: list[BaseException] = []

    def make() -> None:
        try:
            for item in items:
                made.put([item])
                if over.is_set():
                    return
        except BaseException as error:
            raised.append(error)
        finally:
            made.put([])

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    ended = False
    try:
        while got := made.get():
            yield got[0]
        ended = True
        if raised:
            raise raised[0]
    finally:
        over.set()
        while not ended and made.get():
            pass
        thread.join()
