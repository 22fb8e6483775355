"""The parent's side, in the command that an operator runs: it starts the child that reads the backup, and watches it.

Ctrl-C and `kill` reach only the parent: the child is in a session of its own, may ignore signals, and is then killed.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

from backends import keyring
from backends.confined.messages import MAX_LINE, Nonsense, decode, number, perhaps_number, raise_failure
from backends.errors import BackupError
from backends.sqlite import limits
from backends.sqlite.connection import refuse_old_sqlite
from backends.sqlite.rebuild import BytesDone
from backends.sqlite.replay_errors import memory_missing
from backends.system import spool
from backends.system.interrupts import deferred

_CHILD = "import sys; sys.path += sys.argv[1:]; from backends.confined.child import main; main()"
"""The child's program. Isolated (-I), Python does not look for modules in the current directory or in the environment's
paths; the module path of this process is passed as arguments instead."""

_LOOK_EVERY = 1.0
"""Seconds between two looks at the child's processor time."""

_GONE_WITHIN = 2.0
"""Seconds to wait for a killed child to be gone. One that waits for a dead disk ends only when the disk answers."""


def run(
    job: str,
    arguments: dict[str, Any],
    progress: BytesDone | None = None,
    *,
    news: Callable[[object], None] | None = None,
    goes_on: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Run the function `job` of `jobs` in a child process, and return its result.

    `news` is called with what a job tells besides its progress, as it was sent: nothing in it was checked. `goes_on` is
    asked every second; once it returns False, the child is killed, and Stopped raised.

    A BackupError or OSError of the function is raised here; BackupError, too, when the child dies or is stuck. When
    this returns or raises, the child has been killed.
    """
    refuse_old_sqlite()  # before anything has begun
    kept = spool.current()
    started = inherited = None
    try:
        with deferred():
            inherited = None if kept is None else kept.for_child()
            started = _start(inherited)
        order = {"job": job, "arguments": arguments, "parent": os.getpid(), "limited": not limits.lifted()}
        order["spool"] = inherited
        # Through the pipe, which nobody else can read: other users see a process's arguments, and what it starts itself
        # sees its environment.
        _give(started, {**order, "keys": keyring.export()})
        return _Listening(started, progress, news, goes_on).result()
    finally:
        with deferred():
            if started is not None:
                _end(started)
            if inherited is not None:
                os.close(inherited)


def _start(inherited: int | None) -> "subprocess.Popen[bytes]":
    places = [os.path.abspath(place) for place in sys.path if place]  # noqa: PTH100 (keeps links as they are)
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-c", _CHILD, *places],
            env=os.environ | limits.ONE_ARENA,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=() if inherited is None else (inherited,),
        )
    except OSError as error:
        raise BackupError(
            f"no process could be started to read the backup: {error.strerror or error}; nothing was changed. Check "
            "whether the machine has run out of memory or processes (free, ulimit -u), then try again"
        ) from error


def _give(process: "subprocess.Popen[bytes]", job: dict[str, Any]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # the child has died; `_died` will say how
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.close()


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GONE_WITHIN)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


class _Listening:
    """Reads the child's messages until the last one, or until the child dies or is stuck."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        progress: BytesDone | None,
        news: Callable[[object], None] | None,
        goes_on: Callable[[], bool] | None,
    ) -> None:
        assert process.stdout is not None
        self._process, self._progress = process, progress
        self._news, self._goes_on = news, goes_on
        self._pipe = process.stdout.fileno()
        self._rest = b""
        self._clock, self._next_look = limits.StuckClock(_ChildsTime(process.pid)), 0.0
        self._change: int | None = None
        self._segment = self._statement = 0

    def result(self) -> dict[str, Any]:
        while True:
            ready, _, _ = select.select([self._pipe], [], [], _LOOK_EVERY)
            data = os.read(self._pipe, MAX_LINE) if ready else b""
            if ready and not data:
                raise self._died()
            try:
                for line in self._lines(data):
                    done = self._understand(decode(line))
                    if done is not None:
                        return done
            except Nonsense as error:
                raise BackupError(
                    f"the process that read the backup sent a message that makes no sense ({error}); it was stopped, "
                    "and nothing was made from the backup. The backup may have been altered: do not start a node from "
                    "it"
                ) from None
            if not limits.lifted() and self._stands_still():
                raise limits.stuck(self._change, self._segment)
            if self._goes_on is not None and not self._goes_on():
                raise Stopped

    def _stands_still(self) -> bool:
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + _LOOK_EVERY
        return self._clock.stands_still()

    def _lines(self, data: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if any(len(line) > MAX_LINE for line in (*lines, self._rest)):
            raise Nonsense("an endless message")
        return lines

    def _understand(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """The job's result, if the message has one; None for a progress message. Raises the error that it reports."""
        if "failed" in message:
            raise_failure(message)
        if "done" in message:
            done = message["done"]
            if not isinstance(done, dict):
                raise Nonsense("done")
            return done
        if "news" in message and self._news is not None:
            self._news(message["news"])
        read, of = number(message, "read"), number(message, "of")
        self._change, self._segment = perhaps_number(message, "change"), number(message, "segment")
        self._statement = perhaps_number(message, "statement") or 0
        self._clock.saw((read, number(message, "signs"), self._change), of)
        if self._progress is not None and of:
            self._progress(min(read, of), of)
        return None

    def _died(self) -> BackupError:
        code = self._process.wait()
        place = f" at the change with data version {self._change}" if self._change is not None else ""
        if -code == signal.SIGXCPU:
            return limits.stuck(self._change, self._segment)
        if -code == signal.SIGKILL and self._statement:
            return memory_missing(self._statement, self._change)
        if -code == signal.SIGKILL:
            return BackupError(
                f"the process that read the backup was killed{place}, most likely because the machine ran out of "
                "memory; nothing was made from the backup, and nothing was changed. Free some memory, then try again"
            )
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"code {code}"
        return Died(
            f"the process that read the backup died{place} ({name}); nothing was made from the backup. Its contents "
            "made SQLite or Python crash: do not start a node from it, and look for another copy of the backup"
        )


class Stopped(Exception):
    """The caller did not want the child to go on."""


class Died(BackupError):
    """The child crashed. The bytes of the backup are the likely cause, but the crash proves nothing about them."""

    exit_code = 3


class _ChildsTime:
    """The processor time, in seconds, that the child has taken; the last known value once the child has ended."""

    def __init__(self, pid: int) -> None:
        self._pid, self._last = pid, 0.0

    def __call__(self) -> float:
        with suppress(psutil.Error):  # it has just ended
            times = psutil.Process(self._pid).cpu_times()
            self._last = float(times.user + times.system)
        return self._last
