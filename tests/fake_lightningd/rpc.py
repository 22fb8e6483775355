"""lightningd's own RPC socket, `lightning-rpc` in the node's directory; the fake one has a single method."""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_UNKNOWN = {"code": -32601, "message": "Unknown command"}


def bind(listening: socket.socket, path: Path) -> None:
    """Bind a socket, also to a path longer than the system's limit of 107 bytes, as below some users' homes."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listening.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


class RpcSocket:
    """A context manager that answers `listconfigs` from a thread of its own.

    `wallet` is the setting, None if there is none. `version` is lightningd's: before 23.08 the settings were at the top
    of the answer. The first `fails` answers are errors; each answer takes `delay` seconds.
    """

    def __init__(
        self,
        directory: Path,
        wallet: str | None,
        *,
        version: tuple[int, int] = (26, 6),
        fails: int = 0,
        delay: float = 0.0,
    ) -> None:
        self.path = directory / "lightning-rpc"
        self._wallet, self._version, self._fails, self._delay = wallet, version, fails, delay
        self.asked: list[tuple[str, Any]] = []
        """Methods and parameters of all requests so far, answered or not."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "RpcSocket":
        bind(self._socket, self.path)
        self._socket.listen()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self.path.unlink()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._socket.accept()
                with connection, suppress(OSError, ValueError):
                    request = json.loads(self._read(connection))
                    self.asked.append((request["method"], request["params"]))
                    time.sleep(self._delay)
                    reply = {"jsonrpc": "2.0", "id": request["id"], **self._answer(request)}
                    connection.sendall(json.dumps(reply).encode() + b"\n\n")

    def _read(self, connection: socket.socket) -> bytes:
        """Read one request: lightningd, too, reads until it has a whole JSON document."""
        data = b""
        while piece := connection.recv(1 << 16):
            data += piece
            with suppress(ValueError):
                json.loads(data)
                return data
        return data

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["method"] != "listconfigs":
            return {"error": _UNKNOWN}
        if len(self.asked) <= self._fails:
            return {"error": {"code": -1, "message": "lightningd is still starting"}}
        if self._version < (23, 8):
            return {"result": {} if self._wallet is None else {"wallet": self._wallet}}
        setting = {"value_str": self._wallet, "source": "/etc/lightning/config:3"}
        return {"result": {"configs": {} if self._wallet is None else {"wallet": setting}}}
