"""Plugins that start without importing everything again: forked from one process for each worker.

Of the 0.28 s of processor time that a short run of the plugin takes, 0.23 s are imports, the same in each of the
thousands of runs of the tests. The forked process is the plugin in every other respect: it has its own number,
descriptors, working directory and environment, and is killed, stopped and waited for like any other.

The start of the program itself is left to the tests that want it (`command=`, or the fixture `cold`): how it is
isolated from the environment, what it imports and when, its memory, and all that is traced or limited from outside. In
a campaign every plugin is executed.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

_MODULES = ("backends.storage.local", "backends.mounts.ephemeral", "backends.mounts.network", "backends.mounts.unfit")
"""What a plugin loads from outside its own package when it starts; nothing of a destination elsewhere."""

_AT_START = ("PYTHON", "LD_", "MALLOC_", "LC_", "LANG", "GLIBC_", "OPENSSL_", "SSL_")
"""Variables that count when a process starts or a module is imported: if one differs, a new process is executed."""


class Warm(tuple[str, ...]):
    """A command line of the plugin whose process may be forked."""


class Forked:
    """A plugin that was forked. What the tests use of `subprocess.Popen` is here, with the same meaning."""

    def __init__(self, words: Sequence[str], pid: int, process: int, result: int, stdin: int, stdout: int) -> None:
        self.args, self.pid = list(words), pid
        self._process, self._result = process, result
        self.stdin: IO[bytes] | None = os.fdopen(stdin, "wb", buffering=0)
        self.stdout: IO[bytes] | None = os.fdopen(stdout, "rb", buffering=0)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        code = self._ended(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal; does nothing if it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ends just now
                signal.pidfd_send_signal(self._process, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._result], [], [], timeout)[0]:
            said = os.read(self._result, 16)
            self.returncode = int(said) if said else -signal.SIGKILL  # nothing: its parent was killed, too
            os.close(self._result)
            os.close(self._process)
        return self.returncode


Process = subprocess.Popen[bytes] | Forked


class _Zygote:
    """The process that forks them (zygote.py), started when the first one is wanted."""

    def __init__(self) -> None:
        self.given = _given(os.environ)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = Path(__file__).with_name("zygote.py")
        words = [sys.executable, "-I", str(program), str(theirs.fileno()), *_MODULES]
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], cwd="/")
        theirs.close()
        atexit.register(self.end)

    def end(self) -> None:
        self._control.close()
        self._process.wait()

    def start(self, words: Sequence[str], directory: Path, environment: dict[str, str], stderr: int) -> Forked:
        umask = os.umask(0)
        os.umask(umask)
        message = {"words": list(words), "directory": str(directory), "umask": umask, "environment": environment}
        (stdin, to_plugin), (from_plugin, stdout), (result, ended) = os.pipe(), os.pipe(), os.pipe()
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], [stdin, stdout, stderr, ended])
        finally:
            for each in (stdin, stdout, ended):
                os.close(each)
        answer, descriptors, _, _ = socket.recv_fds(self._control, 64, 1)
        return Forked(words, int(answer), descriptors[0], result, to_plugin, from_plugin)


_zygote: _Zygote | None = None


def start_plugin(words: Sequence[str], directory: Path, environment: dict[str, str], stderr: IO[bytes]) -> Process:
    """Start a command line, with pipes for its stdin and stdout; a `Warm` one without importing everything again."""
    global _zygote
    if isinstance(words, Warm):
        if _zygote is None:
            _zygote = _Zygote()
        if _given(environment) == _zygote.given:
            return _zygote.start(words, directory, environment, stderr.fileno())
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=directory, env=environment, stdin=pipe, stdout=pipe, stderr=stderr, bufsize=0)


def _given(environment: "dict[str, str] | os._Environ[str]") -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_AT_START)}
