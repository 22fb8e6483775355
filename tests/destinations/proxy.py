"""A TCP proxy in front of a server; and one for NFS, which counts calls and can cut connections at the worst moment."""

import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress


class TcpProxy(ABC):
    """Listens on `port` of the loopback; what it passes on to the port `target`, and how, is up to `_pass_on`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self._live: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no further connections, and cut all that are open."""
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut every connection."""
        live, self._live = self._live, []
        for each in live:
            end(each)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    client.close()
                    continue
                self.connections += 1
                self._live += [client, server]
                self._pass_on(client, server)

    @abstractmethod
    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        """Begin to pass on what comes from either side, in threads."""


class Proxy(TcpProxy):
    """In front of an NFS server."""

    def __init__(self, target: int) -> None:
        self.calls = 0
        self.before: Callable[[bytes], str] = lambda message: ""
        """Decides for each call: "" passes it on, "drop" cuts before it, "answerless" once the server has done it."""
        super().__init__(target)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        mute, answered = threading.Event(), threading.Event()
        threading.Thread(target=self._forward, args=(client, server, mute, answered), daemon=True).start()
        threading.Thread(target=self._back, args=(client, server, mute, answered), daemon=True).start()

    def _forward(
        self, client: socket.socket, server: socket.socket, mute: threading.Event, answered: threading.Event
    ) -> None:
        waiting = b""
        with suppress(OSError):
            while data := client.recv(1 << 20):
                waiting += data
                while len(waiting) >= 4 and len(waiting) >= 4 + (_length(waiting)):
                    stop = 4 + _length(waiting)
                    message, waiting = waiting[:stop], waiting[stop:]
                    self.calls += 1
                    what = self.before(message)
                    if what == "answerless":
                        mute.set()
                    if what != "drop":
                        server.sendall(message)
                    if what == "answerless":
                        answered.wait(10)
                    if what:
                        end(client)
                        end(server)
                        return
        end(server)

    def _back(
        self, client: socket.socket, server: socket.socket, mute: threading.Event, answered: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 20):
                if mute.is_set():
                    answered.set()
                else:
                    client.sendall(data)
        end(client)


def _length(message: bytes) -> int:
    return int(struct.unpack(">I", message[:4])[0] & 0x7FFFFFFF)


def end(each: socket.socket) -> None:
    """Cut a connection."""
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
