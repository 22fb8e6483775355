"""What watches over a commit that waits for its destination, so that the node stops instead of freezing.

The thread that writes may be stuck in a call that nothing can interrupt (a `hard` NFS mount whose server hangs, a FUSE
filesystem whose process does). So another thread writes to the node's log, and answers lightningd once the wait has
been too long. The stuck thread cannot be recovered either: afterwards the process ends at once.

The commit path pays two assignments and a look at the clock: no lock, no system call.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from backends.base import Report

FIRST_WORD = 5.0
"""Seconds of waiting after which the node's log first says so."""

AGAIN_EVERY = 10.0
"""Seconds between two such lines."""

_TICK = 0.5
_UNTIL_READ = 0.5
"""Seconds from the answer to the end. The answer is in the pipe already; this only keeps lightningd's log in order."""


class Request(Protocol):
    """A call from lightningd, as pyln-client passes it to a hook."""

    def set_result(self, result: Any) -> None:
        """Answer it."""


class Watched(Protocol):
    """What the watchdog needs from the commit gate."""

    @property
    def commit_timeout(self) -> float:
        """Seconds that one call may take."""

    def where(self) -> str:
        """The destination, as a person would name it."""

    def give_up(self, reason: str) -> dict[str, str]:
        """Refuse every call from now on; callable from any thread. Returns the refusal. Touches no destination."""


class Watchdog:
    """Watches each call from `begin` to `done`."""

    def __init__(
        self, gate: Watched, report: Report, *, end: Callable[[int], Any] | None = None, tick: float = _TICK
    ) -> None:
        self._gate, self._report, self._end, self._tick = gate, report, end or _leave, tick
        self._waiting: tuple[Request, float] | None = None
        self.begun = time.monotonic()
        """When the last call came (monotonic clock)."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start watching, before the first call comes."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()

    # The commit path

    def begin(self, request: Request) -> None:
        """A call has come and is being worked on."""
        self.begun = time.monotonic()
        self._waiting = (request, self.begun)

    def done(self) -> None:
        """The call is about to be answered."""
        self._waiting = None

    # Off the commit path

    def leave_within(self, seconds: float) -> None:
        """The plugin is ending: end it after `seconds` unless `stop` is called, because the destination may hang."""

        def wait() -> None:
            if self._stop.wait(seconds):
                return
            self._report("unusual", f"{self._gate.where()} did not finish in {seconds:.0f} s; every change is saved")
            self._end(0)

        threading.Thread(target=wait, name="leaving", daemon=True).start()

    def _run(self) -> None:
        said: tuple[Request, float] | None = None
        next_word = FIRST_WORD
        while not self._stop.wait(self._tick):
            waiting = self._waiting
            if waiting is None:
                continue
            if waiting is not said:
                said, next_word = waiting, FIRST_WORD
            request, since = waiting
            waited = time.monotonic() - since
            if waited >= self._gate.commit_timeout:
                self._give_up(request, waited)
                return
            if waited >= next_word:
                next_word += AGAIN_EVERY
                self._say(waited)

    def _say(self, waited: float) -> None:
        left = self._gate.commit_timeout - waited
        self._report(
            "unusual",
            f"waiting for {self._gate.where()} for {waited:.0f} seconds already; lightningd is blocked meanwhile, and "
            f"is stopped safely in {left:.0f} seconds if nothing changes",
        )

    def _give_up(self, request: Request, waited: float) -> None:
        refusal = self._gate.give_up(
            f"{self._gate.where()} has not answered for {waited:.0f} seconds. lightningd stops now, before it commits "
            "the change that was not saved; everything before it is safe. Check whether the server or disk is up, then "
            "start the node again (the wait can be set with ?timeout= in the URL)"
        )
        with suppress(ValueError, OSError):  # it was answered at this very moment, or lightningd is gone
            request.set_result(refusal)
        time.sleep(_UNTIL_READ)
        self._end(1)


def _leave(code: int) -> None:
    """End this process, and show lightningd at once that it has ended.

    A thread in a call that cannot be interrupted keeps the process from ending, even after `_exit`, and so its end of
    the pipe open: lightningd would wait for it in vain.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os._exit(code)
