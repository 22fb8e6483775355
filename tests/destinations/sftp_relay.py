"""A ProxyCommand for ssh that is far away: `python sftp_relay.py PORT MILLISECONDS` delays each way by half of them."""

import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable


def delayed(read: Callable[[], bytes], write: Callable[[bytes], object], seconds: float) -> None:
    """Pass on what is read, each piece after this time, until it ends; then end the whole process."""
    waiting: deque[tuple[float, bytes]] = deque()
    came = threading.Semaphore(0)

    def pass_on() -> None:
        while True:
            came.acquire()
            due, data = waiting.popleft()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                os._exit(0)
            write(data)

    threading.Thread(target=pass_on, daemon=True).start()
    while True:
        data = read()
        waiting.append((time.monotonic() + seconds, data))
        came.release()
        if not data:
            return


def main() -> None:
    port, seconds = int(sys.argv[1]), float(sys.argv[2]) / 2000
    server = socket.create_connection(("127.0.0.1", port))
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(
        target=delayed, args=(lambda: server.recv(1 << 16), lambda data: os.write(1, data), seconds)
    ).start()
    delayed(lambda: os.read(0, 1 << 16), server.sendall, seconds)


if __name__ == "__main__":
    main()
