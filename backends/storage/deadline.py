"""How long a thread waits for servers, where that is less than the commit timeout of each.

A commit that was refused is followed by other requests: to cut the record off again, or to find out what the message
should say. Together they must not take longer than the commit alone would have been allowed to.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

FOR_A_MESSAGE = 5.0
"""Seconds to wait for what only makes a message better."""


class _OfThread(threading.local):
    until = float("inf")


_own = _OfThread()


@contextmanager
def not_after(until: float) -> Iterator[None]:
    """While the block runs, everything that this thread asks of a server is given up at `until` (time.monotonic)."""
    before = _own.until
    _own.until = min(before, until)
    try:
        yield
    finally:
        _own.until = before


def for_a_message(until: float = float("inf")) -> AbstractContextManager[None]:
    """The same for what only makes a message better: it is given up soon, and at `until` at the latest."""
    return not_after(min(until, time.monotonic() + FOR_A_MESSAGE))


def limited(until: float) -> float:
    """When this thread gives up a request that it would otherwise give up at `until`."""
    return min(until, _own.until)


def carried(call: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """The same call, for another thread: it is given up when this thread would give it up."""
    until = _own.until
    if until == float("inf"):
        return call

    def within(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with not_after(until):
            return call(*args, **kwargs)

    return within
