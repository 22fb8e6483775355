"""A connection to an NFS server that is re-established when it drops; calls that were cut off are repeated."""

import errno
import threading
import time
from collections.abc import Callable
from itertools import chain, repeat
from typing import TypeVar

from backends.storage.nfs.protocol import Protocol, TryLater
from backends.storage.nfs.rpc import Disconnected
from backends.storage.nfs.xdr import Malformed

_Result = TypeVar("_Result")

FIRST_CONNECTION = 10.0
"""Seconds to wait for a server that has never answered: the URL is probably wrong."""

_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between attempts; the last value is used for all further ones."""


class Channel:
    """Calls to one server, one at a time. A call may take `commit_timeout` seconds, all attempts together.

    `connect` makes the first connection; its argument is when to give up (time.monotonic).
    """

    def __init__(self, connect: Callable[[float], Protocol], commit_timeout: float) -> None:
        self._connect, self._commit_timeout = connect, commit_timeout
        self._protocol: Protocol | None = None
        self._broken: Disconnected | None = None
        self._one_at_a_time = threading.Lock()

    def do(
        self, operation: Callable[[Protocol], _Result], again: Callable[[Protocol], _Result] | None = None
    ) -> _Result:
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

    def forget(self) -> None:
        """Drop everything that is known about the server, because it has changed. The next call connects again."""
        with self._one_at_a_time:
            if self._protocol is not None:
                self._protocol.close()
            self._protocol = None

    def _connected(self, until: float) -> Protocol:
        if self._protocol is None:
            protocol = self._connect(min(until, time.monotonic() + FIRST_CONNECTION))
            self._protocol, self._broken = protocol, None
        self._protocol.until = until
        if self._broken is not None:
            self._protocol.reconnect(self._broken)
            self._broken = None
        return self._protocol


def _unreachable(error: Exception) -> OSError:
    what = error.strerror or str(error) if isinstance(error, OSError) else "the server was busy for too long"
    return TimeoutError(errno.ETIMEDOUT, what)
