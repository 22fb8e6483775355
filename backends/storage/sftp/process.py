"""The process of `ssh` that carries a session of SFTP. It has no terminal, asks nothing, and says why it failed."""

import fcntl
import os
import select
import shutil
import signal
import subprocess
import time
from contextlib import suppress

from backends.storage.channel import Disconnected
from backends.storage.sftp.address import Address
from backends.storage.sftp.sentences import NO_SSH, Reason, software_in, why_it_failed
from backends.storage.sftp.starter import start_ssh

_MAX_WORDS = 1 << 15
"""Bytes of what `ssh` says that are kept."""

_ALIVE_CHECKS = 3
_PIPE = 1 << 20


_running: set["subprocess.Popen[bytes]"] = set()
"""Every process, so that none is finalized, with a warning, before its connection has ended it."""


class SshProcess:
    """A running `ssh`, logged in or about to log in. `until` (time.monotonic) bounds the time for that."""

    def __init__(self, address: Address, until: float) -> None:
        self._address = address
        self._words = b""
        program = shutil.which("ssh")
        if program is None:
            raise Disconnected(NO_SSH)
        try:
            self._process = start_ssh([program, *_options(address, until), *address.arguments(), "sftp"])
        except OSError as error:
            raise Disconnected(f"{program} cannot be started: {error.strerror}") from error
        _running.add(self._process)
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self.to_server, self.from_server = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._stderr = self._process.stderr.fileno()
        for descriptor in (self.to_server, self.from_server, self._stderr):
            os.set_blocking(descriptor, False)
        with suppress(OSError):  # a user may have too many large pipes; then it is only slower
            fcntl.fcntl(self.to_server, fcntl.F_SETPIPE_SZ, _PIPE)
        self._reading = self._poll_for(0)
        self._writing = self._poll_for(select.POLLOUT)

    @property
    def software(self) -> str:
        """What the server says its software is; empty if unknown."""
        return software_in(self._text)

    def poll(self, seconds: float, *, writing: bool) -> list[tuple[int, int]]:
        """Wait for something to happen to the pipes, for at most `seconds`; see `select.poll`."""
        return (self._writing if writing else self._reading).poll(max(1, int(seconds * 1000)))

    def collect_words(self, ready: dict[int, int]) -> None:
        """Read what `ssh` says, if `ready` shows that it says something."""
        if self._stderr not in ready:
            return
        try:
            words = os.read(self._stderr, _MAX_WORDS)
        except BlockingIOError:
            return
        if words:
            self._words = (self._words + words)[-_MAX_WORDS:]
        else:  # closed: it would be ready for ever
            self._reading.unregister(self._stderr)
            self._writing.unregister(self._stderr)

    def last_words(self, until: float, *, began: bool) -> Reason:
        """Why `ssh` has ended; waits for its last words until `until` (time.monotonic).

        `began` is whether the session was in use already.
        """
        ended = None
        waiting = self._poll_for(None)
        while ended is None and time.monotonic() < until:
            if waiting.poll(20):
                try:
                    words = os.read(self._stderr, _MAX_WORDS)
                except BlockingIOError:
                    words = b""
                self._words = (self._words + words)[-_MAX_WORDS:]
                if not words:
                    time.sleep(0.005)
            ended = self._process.poll()
        self._drain()
        return why_it_failed(self._text, ended, self._address, began=began)

    def end(self) -> None:
        """End the process and give back everything that it used. Never raises."""
        with suppress(OSError):
            if self._process.poll() is None:  # with what it runs to get through to the server: a ProxyCommand
                os.killpg(self._process.pid, signal.SIGKILL)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        with suppress(OSError, subprocess.TimeoutExpired):
            self._process.wait(_MOURNING)
        _running.discard(self._process)

    @property
    def _text(self) -> str:
        return self._words.decode(errors="replace")

    def _drain(self) -> None:
        with suppress(OSError):
            self._words = (self._words + os.read(self._stderr, _MAX_WORDS))[-_MAX_WORDS:]

    def _poll_for(self, writing: int | None) -> "select.poll":
        """A poll object for what `ssh` says; with `writing`, also for the two pipes to and from the server."""
        poll = select.poll()
        poll.register(self._stderr, select.POLLIN)
        if writing is not None:
            poll.register(self.from_server, select.POLLIN)
        if writing:
            poll.register(self.to_server, writing)
        return poll


_MOURNING = 5.0
"""Seconds within which a killed process is gone."""


def _options(address: Address, until: float) -> list[str]:
    """What `ssh` is told besides the account: never to ask, to notice a dead network, and to do nothing else.

    Nor may it go through the connection of another `ssh` (ControlMaster): when that hangs, so does each new connection
    that is made to get around it; and its socket lies where a service may not write.

    Such options go before those of the person's own configuration, so there are only those that this needs.
    """
    seconds = max(1, int(until - time.monotonic()))
    alive = max(1, min(15, int(address.commit_timeout / 8)))
    options = [
        "BatchMode=yes",
        f"ConnectTimeout={seconds}",
        f"ServerAliveInterval={alive}",
        f"ServerAliveCountMax={_ALIVE_CHECKS}",
        "LogLevel=DEBUG1",  # it says which software the server has, and whether it would accept a key
        "ControlMaster=no",
        "ControlPath=none",
        "ClearAllForwardings=yes",
        "ForwardAgent=no",
        "ForwardX11=no",
        "PermitLocalCommand=no",
        "RemoteCommand=none",
        "RequestTTY=no",
    ]
    return ["-s", *(word for option in options for word in ("-o", option))]
