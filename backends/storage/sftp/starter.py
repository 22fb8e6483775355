"""Starting `ssh` so that it ends with this process, even if this one is killed while the server hangs.

By itself `ssh` notices that its input has ended, but waits until the server has answered that. So the kernel is asked
to kill it (PR_SET_PDEATHSIG), by `setpriv` of util-linux, which then becomes `ssh`: code that Python runs between fork
and exec can hang in a process with threads. The kernel does it when the *thread* that started it ends. So one thread,
which never ends, starts them all.
"""

import os
import shutil
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

_Process = subprocess.Popen[bytes]

_PROBE_SECONDS = 5.0


def start_ssh(command: list[str]) -> _Process:
    """Start this command with three pipes, in a session of its own. Raises OSError."""
    return _starter().start_ssh(command)


class _Starter(threading.Thread):
    def __init__(self) -> None:
        super().__init__(name="starts ssh", daemon=True)
        self._wanted: SimpleQueue[_Order] = SimpleQueue()
        self._prefix: list[str] | None = None

    def start_ssh(self, command: list[str]) -> _Process:
        """Have it started by the thread. Raises OSError."""
        order = _Order(command)
        self._wanted.put(order)
        order.done.wait()
        if order.process is None:
            raise order.error or OSError("it was not started")
        return order.process

    def run(self) -> None:
        """Start what is wanted, for ever."""
        while True:
            order = self._wanted.get()
            try:
                order.process = self._start(order.command)
            except OSError as error:
                order.error = error
            except Exception as error:  # whatever it is: if this thread ended, every `ssh` would end with it
                order.error = OSError(str(error))
            finally:
                order.done.set()
                del order  # the process belongs to whoever wanted it

    def _start(self, command: list[str]) -> _Process:
        if self._prefix is None:
            self._prefix = _ends_with_its_parent()
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*self._prefix, *command],
            stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True, env=_environment(),
        )  # fmt: skip


class _Order:
    """A command that is to be started, and what has become of it."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.done = threading.Event()
        self.process: _Process | None = None
        self.error: OSError | None = None


_started: _Starter | None = None
_lock = threading.Lock()


def _starter() -> _Starter:
    """The thread of this process; a forked one makes its own."""
    global _started
    with _lock:
        if _started is None or not _started.is_alive():
            _started = _Starter()
            _started.start()
        return _started


def _ends_with_its_parent() -> list[str]:
    """What to put before a command; nothing where that is not possible: other programs of this name cannot do it."""
    program = shutil.which("setpriv")
    if program is None or Path(program).resolve().name != "setpriv":
        return []
    prefix = [program, "--pdeathsig", "KILL"]
    null = subprocess.DEVNULL
    with suppress(OSError, subprocess.TimeoutExpired):
        tried = subprocess.run(
            [*prefix, program, "--version"], stdin=null, stdout=null, stderr=null, timeout=_PROBE_SECONDS, check=False
        )
        if tried.returncode == 0:
            return prefix
    return []


def _environment() -> dict[str, str]:
    """The environment without what would let `ssh` open a window and ask there."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    return {**kept, "SSH_ASKPASS_REQUIRE": "never"}
