"""A TCP proxy in front of a PostgreSQL server: it delays, and can lose answers or cut a message in two."""

import socket
import threading
import time
from contextlib import suppress


class PgProxy:
    """Listens on `port` of the loopback and passes everything on to the port `target`."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.delay = 0.0
        """Seconds that each answer is delayed; answers that follow each other are delayed together."""
        self.lose_answers = 0
        """How many times, from now on, a request is passed on and its connection cut instead of its answer."""
        self.cut_requests = 0
        """How many times, from now on, only the first half of a request is passed on before the connection is cut."""
        self.lost = 0
        self._live: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no further connections, and cut all that are open."""
        self._listener.close()
        for each in self._live:
            _end(each)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    client.close()
                    continue
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._live += [client, server]
                for source, sink, back in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._forward, args=(source, sink, back), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                if back and self.delay:
                    time.sleep(self.delay)
                if back and self.lose_answers:
                    self.lose_answers -= 1
                    self.lost += 1
                    break
                if not back and self.cut_requests:
                    self.cut_requests -= 1
                    self.lost += 1
                    sink.sendall(data[: len(data) // 2])
                    break
                sink.sendall(data)
        _end(source)
        _end(sink)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
