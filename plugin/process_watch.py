"""A process that works beside the node: starting it, and whether it still does anything."""

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

from backends.sqlite.limits import ONE_ARENA
from backends.system.interpreter import python
from backends.text import printable

HANGS_AFTER = 1800.0
"""Seconds without any processor time after which a process counts as hung (most likely its disk)."""

_LOOK_EVERY = 60.0
"""Seconds between two checks of the process."""


def start_beside(
    program: str, *arguments: str, directory: str | Path, share: int | None = None
) -> "subprocess.Popen[bytes]":
    """Start a Python program in the node's directory. It must end when its stdin is closed: then the plugin is dead.

    It also gets the descriptor `share`, under the same number. Raises OSError.
    """
    return subprocess.Popen(
        [*python(program), *arguments],
        cwd=directory,
        env=os.environ | ONE_ARENA,
        pass_fds=() if share is None else (share,),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def why_it_failed(code: int, err: bytes) -> str:
    """What a process said last on stderr before it ended with that code."""
    said = err.decode(errors="replace").strip().rpartition("\n")[2]
    return printable(said, 2000) or f"its process ended with {code}"


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
