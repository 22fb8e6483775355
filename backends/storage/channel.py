"""A connection to a server that is re-established when it drops; calls that were cut off are repeated."""

import errno
import threading
import time
from collections.abc import Callable
from itertools import chain, repeat
from typing import Generic, Protocol, TypeVar


class Disconnected(ConnectionError):
    """The connection is gone; the outcome of the current call is unknown."""


class TryLater(Exception):
    """The server is busy or has just restarted; it has done nothing and asks for the call to be repeated later."""


class Malformed(ValueError):
    """The server's answer violates the protocol."""


class Reconnecting(Protocol):
    """One connection to a server, which can be made again."""

    until: float
    """When (time.monotonic) to give up waiting for an answer."""

    def reconnect(self, why: Disconnected, /) -> None:
        """Continue on a new connection; `why` says how the old one ended. Raises Disconnected, TryLater."""

    def close(self) -> None: ...


_Server = TypeVar("_Server", bound=Reconnecting)
_Result = TypeVar("_Result")

FIRST_CONNECTION = 10.0
"""Seconds to wait for a server that has never answered: the URL is probably wrong."""

_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between attempts; the last value is used for all further ones."""


class Channel(Generic[_Server]):
    """Calls to one server, one at a time. A call may take `commit_timeout` seconds, all attempts together.

    `connect` makes the first connection; its argument is when to give up (time.monotonic). `attempt` is how many
    seconds one attempt may wait for an answer before the connection counts as broken; without it, all that are left.
    """

    def __init__(
        self,
        connect: Callable[[float], _Server],
        commit_timeout: float,
        attempt: float | None = None,
        first: float = FIRST_CONNECTION,
    ) -> None:
        self._connect, self._commit_timeout, self._first = connect, commit_timeout, first
        self._attempt = commit_timeout if attempt is None else attempt
        self._protocol: _Server | None = None
        self._broken: Disconnected | None = None
        self._later: list[Callable[[_Server], object]] = []
        self._one_at_a_time = threading.Lock()

    def do(self, operation: Callable[[_Server], _Result], again: Callable[[_Server], _Result] | None = None) -> _Result:
        """Carry out the operation, and repeat it if the connection breaks.

        A broken connection leaves the outcome unknown, so then `again` is called instead (if None, `operation` itself).
        Raises OSError for what the server refuses, TimeoutError if the server was not available for the whole time.
        """
        until = time.monotonic() + self._commit_timeout
        doubt = False
        with self._one_at_a_time:
            for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
                try:
                    protocol = self._connected(until)
                    try:
                        while self._later:  # other threads add to it meanwhile
                            first = self._later[0]
                            first(protocol)
                            self._later.remove(first)
                        return (again if doubt and again is not None else operation)(protocol)
                    except Disconnected as error:
                        self._broken, doubt = error, True
                        raise
                except (Disconnected, TryLater) as error:
                    # A server that answers "try later" exists, even if that is its first answer.
                    never_there = self._protocol is None and isinstance(error, Disconnected)
                    if never_there or time.monotonic() + pause >= until:
                        raise _unreachable(error) from error
                except Malformed as error:
                    self._broken = Disconnected(str(error))
                    raise OSError(errno.EPROTO, str(error)) from error
                time.sleep(pause)
        raise AssertionError

    def before_next(self, operation: Callable[[_Server], object]) -> None:
        """Carry out this operation before the next one. Does not wait for it."""
        self._later.append(operation)

    @property
    def is_down(self) -> bool:
        """Whether the connection broke and is not made again yet: another call may wait for all of its time in vain."""
        return self._broken is not None

    def forget(self) -> None:
        """Drop everything that is known about the server, because it has changed. The next call connects again."""
        with self._one_at_a_time:
            if self._protocol is not None:
                self._protocol.close()
            self._protocol = None

    def _connected(self, until: float) -> _Server:
        if self._protocol is None:
            protocol = self._connect(min(until, time.monotonic() + self._first))
            self._protocol, self._broken = protocol, None
        self._protocol.until = min(until, time.monotonic() + self._attempt)
        if self._broken is not None:
            self._protocol.reconnect(self._broken)
            self._broken = None
        return self._protocol


def outcome_unknown(error: OSError) -> bool:
    """Whether an error of `Channel.do` leaves it open if the server has done, or will do, what it was asked."""
    return isinstance(error, TimeoutError) or error.errno == errno.EPROTO


def _unreachable(error: Exception) -> OSError:
    what = error.strerror or str(error) if isinstance(error, OSError) else "the server was busy for too long"
    return TimeoutError(errno.ETIMEDOUT, what)
