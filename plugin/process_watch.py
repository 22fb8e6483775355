"""Whether a process that works beside the node still does anything."""

import time
from contextlib import suppress

import psutil

HANGS_AFTER = 1800.0
"""Seconds without any processor time after which a process counts as hung (most likely its disk)."""

_LOOK_EVERY = 60.0
"""Seconds between two checks of the process."""


class ProcessWatch:
    """The processor time that a process has used, checked from time to time."""

    def __init__(self) -> None:
        self._used, self._since, self._next_look = 0.0, time.monotonic(), 0.0

    def stopped(self, pid: int) -> bool:
        """Whether the process has used no processor time for HANGS_AFTER seconds."""
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + _LOOK_EVERY
        with suppress(psutil.Error):  # it has just ended
            times = psutil.Process(pid).cpu_times()
            if times.user + times.system > self._used:
                self._used, self._since = times.user + times.system, now
        return now - self._since >= HANGS_AFTER
