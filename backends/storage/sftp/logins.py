"""When the next log-in to an account may be tried.

A server that refuses a key will refuse it again a second later, and one that counts such attempts (fail2ban, which
bans an address after five within ten minutes; sshd's own penalties) then shuts this machine out, also for the person
who comes to repair it. So after a refusal there are at most four attempts in ten minutes, by all connections to the
account together.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from backends.storage.channel import Refused

_PAUSES = (10.0, 60.0, 600.0)
"""Seconds to the next attempt after the first refusal, after the second one, and after each further one."""


class Logins:
    """The log-ins of this process to one account."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refused: Refused | None = None
        self._pauses = 0
        """How many pauses there have been since the server last let this process in."""

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Log in within the block. Raises Refused, with the last refusal, if it is too early for that."""
        reserved = self.begin()
        try:
            yield
        except Refused:
            raise
        except BaseException:
            if reserved:
                self.fail()
            raise
        self.succeed()

    def begin(self) -> bool:
        """A log-in is about to be tried. Raises Refused, with the last refusal, if it is too early for that.

        Returns whether there was a refusal, so that a pause for all others begins with this attempt.
        """
        with self._lock:
            if self._refused is None:
                return False
            if time.monotonic() < self._refused.again:
                raise Refused(str(self._refused), self._refused.again)
            self._refused = Refused(str(self._refused), self._next())  # nobody else tries meanwhile
            return True

    def refuse(self, why: str) -> Refused:
        """The server has refused it; returns the error."""
        with self._lock:
            if self._refused is None or time.monotonic() >= self._refused.again:
                self._refused = Refused(why, self._next())
            return Refused(why, self._refused.again)

    def succeed(self) -> None:
        """The server has let this process in."""
        with self._lock:
            self._refused, self._pauses = None, 0

    def fail(self) -> None:
        """It failed for another reason, which says nothing about the next one: the pause that began with it is over."""
        with self._lock:
            if self._refused is not None:
                self._refused = Refused(str(self._refused), time.monotonic())
                self._pauses -= 1

    def _next(self) -> float:
        """When the next pause from now on ends."""
        self._pauses += 1
        return time.monotonic() + _PAUSES[min(self._pauses, len(_PAUSES)) - 1]
