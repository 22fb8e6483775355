"""A connection to a server that is re-established when it drops; calls that were cut off are repeated."""

import errno
import threading
import time
from collections.abc import Callable
from itertools import chain, repeat
from typing import Generic, Protocol, TypeVar

from backends.storage.deadline import limited


class Disconnected(ConnectionError):
    """The connection is gone; the outcome of the current call is unknown."""


class Refused(Disconnected):
    """The server refuses to be used in a way that will not change by itself: nothing is tried before `again`."""

    def __init__(self, why: str, again: float) -> None:
        super().__init__(why)
        self.again = again
        """When (time.monotonic) the next attempt may be made."""


class Unanswered(TimeoutError):
    """The server was not available for the whole time."""

    def __init__(self, why: str, in_doubt: bool) -> None:
        super().__init__(errno.ETIMEDOUT, why)
        self.in_doubt = in_doubt
        """Whether it may have done, or may yet do, what it was asked: not if nothing of that was ever sent."""


class TryLater(Exception):
    """The server is busy or has just restarted; it has done nothing and asks for the call to be repeated later."""


class Malformed(ValueError):
    """The server's answer violates the protocol."""


class Reconnecting(Protocol):
    """One connection to a server, which can be made again."""

    until: float
    """When (time.monotonic) to give up waiting for an answer."""

    @property
    def sent(self) -> int:
        """Grows with every part of a request that may have been sent on the current connection."""

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

        If anything of it may have been sent on a connection that broke, the outcome is unknown, and `again` is called
        instead (if None, `operation` itself). Raises OSError for what the server refuses, Unanswered if the server was
        not available for the whole time (see also `deadline.not_after`).
        """
        until = limited(self.would_end())
        doubt = False
        with self._one_at_a_time:
            for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
                try:
                    protocol = self._ready(until)
                    sent = protocol.sent
                    try:
                        return (again if doubt and again is not None else operation)(protocol)
                    except Disconnected as error:
                        self._broken, doubt = error, doubt or protocol.sent != sent
                        raise
                except (Disconnected, TryLater) as error:
                    # A server that answers "try later" exists, even if that is its first answer.
                    never_there = self._protocol is None and isinstance(error, Disconnected)
                    wait = _until_next(error, pause)
                    if never_there or time.monotonic() + wait >= until:
                        raise _unanswered(error, doubt) from error
                except Malformed as error:
                    self._broken = Disconnected(str(error))
                    raise OSError(errno.EPROTO, str(error)) from error
                time.sleep(wait)
        raise AssertionError

    def would_end(self) -> float:
        """When (time.monotonic) a call that began now would be given up."""
        return time.monotonic() + self._commit_timeout

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

    def _ready(self, until: float) -> _Server:
        """The connected server, which was told what was put off. Raises Disconnected, TryLater."""
        if time.monotonic() >= until:  # a working connection that is used now would be given up at once
            raise self._broken or Disconnected("there was no time left to ask the server")
        protocol = self._connected(until)
        try:
            while self._later:  # other threads add to it meanwhile
                first = self._later[0]
                first(protocol)
                self._later.remove(first)
        except Disconnected as error:
            self._broken = error
            raise
        return protocol

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
    return error.in_doubt if isinstance(error, Unanswered) else error.errno == errno.EPROTO


def _until_next(error: Exception, pause: float) -> float:
    """Seconds to wait after this error before the next attempt, if usually it would be `pause`."""
    return max(pause, error.again - time.monotonic()) if isinstance(error, Refused) else pause


def _unanswered(error: Exception, in_doubt: bool) -> Unanswered:
    what = error.strerror or str(error) if isinstance(error, OSError) else "the server was busy for too long"
    return Unanswered(what, in_doubt)
