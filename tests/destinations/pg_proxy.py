"""A TCP proxy in front of a PostgreSQL server: it delays, and can lose answers or cut a message in two."""

import socket
import threading
import time
from contextlib import suppress

from tests.destinations.proxy import TcpProxy, end


class PgProxy(TcpProxy):
    """In front of a PostgreSQL server."""

    def __init__(self, target: int) -> None:
        self.delay = 0.0
        """Seconds that each answer is delayed; answers that follow each other are delayed together."""
        self.lose_answers = 0
        """How many times, from now on, a request is passed on and its connection cut instead of its answer."""
        self.cut_requests = 0
        """How many times, from now on, only the first half of a request is passed on before the connection is cut."""
        self.lost = 0
        super().__init__(target)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
        end(source)
        end(sink)
