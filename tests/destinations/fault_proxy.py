"""An HTTP proxy in front of an object store that delays, repeats, answers for the store, cuts and swallows answers."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    """Path and query, as sent."""

    conditional: bool
    """Whether it has If-None-Match or If-Match."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """What is done with one request."""

    delay: float = 0.0
    """Seconds before it is passed on."""

    times: int = 1
    """How often it is passed on; the last answer counts. 0: never."""

    answer: bytes = b""
    """What the client gets instead of the store's answer: a whole HTTP response."""

    silent: bool = False
    """The client gets no answer: the connection is cut once the store has answered."""

    hang: float = 0.0
    """Seconds without an answer, after which the connection is cut."""

    cut_after: int = -1
    """Bytes of the store's answer that the client gets before the connection is cut."""

    cut_request: bool = False
    """The store gets half of the request, and then the connection is cut."""

    late: float = 0.0
    """Seconds after which it is passed on, with nobody waiting: the client's connection is cut at once."""


PASS = Treatment()


def status(number: int, code: str) -> bytes:
    """A store's answer that is an error."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>as the test wants</Message></Error>'.encode()
    return f"HTTP/1.1 {number} Error\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass(slots=True)
class Seen:
    """What the proxy has seen."""

    asked: list[Asked] = field(default_factory=list)
    at_once: int = 0
    """The most requests that were being answered at the same time."""

    def by_method(self) -> Counter[str]:
        return Counter(each.method for each in self.asked)


class FaultProxy:
    """Listens on the loopback and passes requests on to `target`, as `treat` says for each."""

    def __init__(self, target: int, treat: Callable[[Asked], Treatment] = lambda asked: PASS) -> None:
        self._target, self.treat, self.seen = target, treat, Seen()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._lock, self._busy = threading.Lock(), 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no further connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, _Upstream(self._target) as upstream:
            waiting = _Reader(client)
            while (message := waiting.message()) is not None:
                with self._lock:
                    self._busy += 1
                    self.seen.at_once = max(self.seen.at_once, self._busy)
                    asked = _asked(message)
                    self.seen.asked.append(asked)
                try:
                    answer, goes_on = self._treated(upstream, message, self.treat(asked))
                finally:  # before the client has its answer, and may send the next request
                    with self._lock:
                        self._busy -= 1
                client.sendall(answer)
                if not goes_on:
                    return

    def _treated(self, upstream: "_Upstream", message: bytes, how: Treatment) -> tuple[bytes, bool]:
        """Do with a request what the test wants. What the client is to get, and whether its connection goes on."""
        if how.late:
            threading.Thread(target=self._later, args=(message, how.late), daemon=True).start()
            return b"", False
        time.sleep(how.delay)
        if how.cut_request:
            upstream.send(message[: len(message) // 2])
            return b"", False
        answer = how.answer
        for _ in range(how.times):
            answer = upstream.ask(message)
        time.sleep(how.hang)
        if how.silent or how.hang:
            return b"", False
        if how.cut_after >= 0:
            return answer[: how.cut_after], False
        return how.answer or answer, True

    def _later(self, message: bytes, seconds: float) -> None:
        time.sleep(seconds)
        with suppress(OSError), _Upstream(self._target) as upstream:
            upstream.ask(message)


class _Upstream:
    """A connection to the store, made when it is first needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._reader: _Reader | None = None

    def __enter__(self) -> "_Upstream":
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def send(self, message: bytes) -> "_Reader":
        if self._socket is None or self._reader is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._reader = _Reader(self._socket)
        self._socket.sendall(message)
        return self._reader

    def ask(self, message: bytes) -> bytes:
        """Pass a request on; returns the whole answer. Raises OSError."""
        answer = self.send(message).message(of_head=message.startswith(b"HEAD "))
        if answer is None:
            raise ConnectionResetError
        return answer


class _Reader:
    """Whole HTTP messages from a socket."""

    def __init__(self, source: socket.socket) -> None:
        self._source, self._waiting = source, b""

    def message(self, *, of_head: bool = False) -> bytes | None:
        """The next message; None at the end of the connection."""
        while (end := self._waiting.find(b"\r\n\r\n")) < 0:
            if not self._more():
                return None
        head = self._waiting[: end + 4].lower()
        end += 4
        if b"\r\ntransfer-encoding: chunked" in head:
            while (last := self._waiting.find(b"\r\n0\r\n\r\n", end - 2)) < 0:
                if not self._more():
                    return None
            end = last + 7
        elif b"\r\ncontent-length:" in head and not of_head:
            end += int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
            while len(self._waiting) < end:
                if not self._more():
                    return None
        message, self._waiting = self._waiting[:end], self._waiting[end:]
        return message

    def _more(self) -> bool:
        data = self._source.recv(1 << 18)
        self._waiting += data
        return bool(data)


def _asked(message: bytes) -> Asked:
    head = message.partition(b"\r\n\r\n")[0].decode("latin-1").lower()
    method, path, _ = message.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)
    return Asked(method, path, "\nif-none-match:" in head or "\nif-match:" in head)
