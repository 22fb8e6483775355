"""The plugin's process and the JSON-RPC that goes over its stdin and stdout: each message ends with a blank line.

There is no thread: waiting for a reply reads, and writing also reads the plugin's output, so that neither side can
block the other.
"""

import contextlib
import json
import os
import select
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.fake_lightningd.warm import start_plugin

Delivery = Callable[[bytes], Iterable[bytes]]
"""Cuts what is sent into pieces, each of which is one write to the pipe."""

Reply = dict[str, Any]

_END = b"\n\n"


def at_once(data: bytes) -> Iterator[bytes]:
    """Everything in one write, however many messages there are."""
    yield data


def in_pieces(size: int, pause: float = 0.0) -> Delivery:
    """`size` bytes at a time, with a pause (in seconds) in which the plugin can read what it has."""

    def deliver(data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), size):
            yield data[start : start + size]
            time.sleep(pause)

    return deliver


def cut_at(*offsets: int, pause: float = 0.01) -> Delivery:
    """Cut before these bytes; a negative offset counts from the end."""

    def deliver(data: bytes) -> Iterator[bytes]:
        ends = sorted(min(max(offset + len(data) if offset < 0 else offset, 0), len(data)) for offset in offsets)
        for start, end in zip([0, *ends], [*ends, len(data)], strict=True):
            yield data[start:end]
            time.sleep(pause)

    return deliver


class Eof(Exception):
    """The plugin has closed its side, or has died."""


class Wire:
    """A running plugin and the messages to and from it."""

    def __init__(
        self,
        directory: Path,
        command: Sequence[str],
        *,
        environment: dict[str, str] | None = None,
        version: str = "v26.06.6",
        delivery: Delivery = at_once,
        timeout: float = 60.0,
    ) -> None:
        """Start `command` in `directory` as lightningd does. `timeout` is how many seconds any reply may take."""
        self.logs: list[tuple[str, str]] = []
        self.notifications: list[tuple[str, dict[str, Any]]] = []
        self.delivery, self.timeout = delivery, timeout
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the plugin)
        plugin = {"LIGHTNINGD_PLUGIN": "1", "LIGHTNINGD_VERSION": version}
        self.process = start_plugin(command, directory, os.environ | plugin | (environment or {}), self._stderr)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)
        self._count, self._held, self._unread = 0, b"", b""
        self._eof = self._closed = False
        self._last_words = ""
        self._open: set[str] = set()
        self._replies: dict[str, Reply] = {}

    # Sending

    def post(self, method: str, params: Any, *, hold: bool = False, origin: str = "cln") -> str:
        """Send a request and return its id. With `hold` it is sent together with the next message."""
        self._count += 1
        ident = f"{origin}:{method}#{self._count}"
        self._open.add(ident)
        self._send({"jsonrpc": "2.0", "method": method, "id": ident, "params": params}, hold)
        return ident

    def notify(self, topic: str, params: Any, *, hold: bool = False) -> None:
        """Send a notification, to which there is no reply."""
        self._send({"jsonrpc": "2.0", "method": topic, "params": params}, hold)

    def raw(self, message: bytes, ident: str | None = None) -> None:
        """Send any bytes as one message; `ident` is the id that a reply to it will have."""
        if ident is not None:
            self._open.add(ident)
        self._held += message + _END
        self.flush()

    def flush(self) -> None:
        """Send what is held back. Eof if the plugin has died."""
        if self._closed:
            raise Eof("the plugin is dead")  # the descriptor's number may belong to something else by now
        data, self._held = self._held, b""
        deadline = time.monotonic() + self.timeout
        for piece in self.delivery(data) if data else ():
            self._write(piece, deadline)

    def _send(self, message: dict[str, Any], hold: bool) -> None:
        # As lightningd does: on one line, with UTF-8 unescaped.
        self._held += json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode() + _END
        if not hold:
            self.flush()

    def _write(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._stdin, rest) :]
            except BlockingIOError:
                self._wait(deadline, select.POLLOUT)
            except BrokenPipeError:
                raise Eof("the plugin reads no more") from None

    # Receiving

    def reply(self, ident: str, timeout: float | None = None) -> Reply:
        """Wait for the reply to a request. Eof if the plugin dies before, TimeoutError if it takes too long."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while ident not in self._replies:
            if self._eof:
                raise Eof("the plugin died before it answered")
            self._wait(deadline)
        return self._replies.pop(ident)

    def listen(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Read the plugin's output for this long or until the condition holds; returns whether it holds."""
        deadline = time.monotonic() + seconds
        while not until() and not self._eof and time.monotonic() < deadline:
            try:
                self._wait(min(deadline, time.monotonic() + 0.05))
            except TimeoutError:
                continue
        return until()

    def _wait(self, deadline: float, also: int = 0) -> None:
        """Wait until the plugin has written something (or, with POLLOUT, can be written to)."""
        poll = select.poll()
        if not self._eof:
            poll.register(self._stdout, select.POLLIN)
        if also:
            poll.register(self._stdin, also)
        ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
        if self._stdout in ready:
            self._read()
        elif not ready:
            raise TimeoutError(f"the plugin has not answered {sorted(self._open)}; its last logs: {self.logs[-3:]}")

    def _read(self) -> None:
        data = os.read(self._stdout, 1 << 20)
        self._eof = not data
        *messages, self._unread = (self._unread + data).split(_END)
        for message in messages:
            if message.strip():
                self._take(json.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        if "method" in message:
            params = message["params"]
            if message["method"] == "log":
                self.logs.append((params["level"], params["message"]))
            else:
                self.notifications.append((message["method"], params))
            return
        ident = message["id"]
        assert ident in self._open, f"a reply to nothing: {message}"
        self._open.remove(ident)
        self._replies[ident] = message

    # The end

    @property
    def alive(self) -> bool:
        """Whether the plugin's process runs."""
        return self.process.poll() is None

    def has_left(self) -> bool:
        """Whether the plugin has closed its side, as lightningd would notice it now."""
        with contextlib.suppress(TimeoutError):
            while not self._eof:
                self._wait(0.0)
        return self._eof

    def hang_up(self, timeout: float = 30.0) -> int:
        """Close the plugin's stdin, as a stopping or dying lightningd does, and return its exit code.

        A plugin that runs for longer than `timeout` seconds is killed, and AssertionError raised.
        """
        assert self.process.stdin is not None
        self.process.stdin.close()
        deadline = time.monotonic() + timeout
        while self.alive and time.monotonic() < deadline:
            # A child of the plugin may hold its stdout open for longer.
            self.listen(0.01)
            if self._eof:
                time.sleep(0.001)
        stayed = self.alive
        self.kill()
        assert not stayed, f"the plugin did not end within {timeout} s; its last logs: {self.logs[-3:]}"
        return self.process.wait()

    def kill(self) -> None:
        """Kill the plugin; what it has written before is still read. Afterwards nothing can be sent or received."""
        if self._closed:
            return
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BlockingIOError):  # while a child of the plugin holds the pipe open
            while not self._eof:
                self._read()
        self._eof = self._closed = True
        self._last_words = self._spoken()
        for file in (self.process.stdin, self.process.stdout, self._stderr):
            assert file is not None
            file.close()

    @property
    def stderr(self) -> str:
        """Everything that the plugin has written to its stderr so far."""
        return self._last_words if self._closed else self._spoken()

    def _spoken(self) -> str:
        return os.pread(self._stderr.fileno(), 1 << 24, 0).decode(errors="replace")
