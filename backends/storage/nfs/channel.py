"""One connection to a server that comes back when it drops; and what is done about a call that was cut off."""

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
"""Seconds to wait for a server that has never answered: likely it is a mistake in the URL."""

_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between attempts, the last one again and again."""


class Channel:
    """Calls to one server, one at a time; `connect` makes the first connection, given when to give up.

    A call may take `patience` seconds, all attempts together.
    """

    def __init__(self, connect: Callable[[float], Protocol], patience: float) -> None:
        self._connect, self._patience = connect, patience
        self._protocol: Protocol | None = None
        self._broken: Disconnected | None = None
        self._one_at_a_time = threading.Lock()

    def do(
        self, operation: Callable[[Protocol], _Result], again: Callable[[Protocol], _Result] | None = None
    ) -> _Result:
        """Carry the operation out; `again` instead of it once its outcome is in doubt (without one: just again).

        OSError for what the server refuses; TimeoutError when it was not to be had for all the time there is.
        """
        until = time.monotonic() + self._patience
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
                    # A server that asks for patience is there, also when it does so at the very first call.
                    never_there = self._protocol is None and isinstance(error, Disconnected)
                    if never_there or time.monotonic() + pause >= until:
                        raise _unreachable(error) from error
                except Malformed as error:
                    self._broken = Disconnected(str(error))
                    raise OSError(errno.EPROTO, str(error)) from error
                time.sleep(pause)
        raise AssertionError

    def forget(self) -> None:
        """Begin from nothing at the next call: what is known of the server no longer fits it."""
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
    what = error.strerror or str(error) if isinstance(error, OSError) else "the server is busy for too long"
    return TimeoutError(errno.ETIMEDOUT, what)
