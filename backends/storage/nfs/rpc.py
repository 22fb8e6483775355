"""Remote procedure calls over TCP (RFC 5531), one at a time per connection.

After any error the connection is closed and never used again: the outcome of the current call is then unknown, and the
caller must find it out.
"""

import errno
import os
import socket
import struct
import time
from contextlib import suppress
from typing import Any

from backends.storage.channel import Disconnected, Malformed
from backends.storage.nfs import xdr
from backends.storage.nfs.xdr import Unpacker

Address = tuple[str, int]

_LAST_FRAGMENT = 1 << 31
_MAX_MESSAGE = 4 << 20
"""The largest answer accepted, in bytes. No answer to the calls made here is much larger than 1 MiB."""

_MAX_PARTS = 4096
"""The most fragments of an answer. Without a limit, a server could send empty ones forever."""

_NO_SUCH_PROCEDURE = 3
_AUTH_SYS = 1
_MAX_GROUPS = 16

_DEAD_AFTER = 15
"""Seconds after which a server whose machine acknowledges no packets is considered gone.

A slow server, whose kernel still acknowledges them, is waited for until the deadline of the call.
"""

_ATTEMPT = 10.0
"""Seconds for one attempt to connect.

Within one attempt the kernel retries after 1, 2, 4, ... 32 seconds, so a new attempt notices sooner that the server is
back.
"""

_RESERVED = range(1023, 664, -1)
"""Source ports that only root may use; many servers treat their use as proof of an honest client."""


class Refused(OSError):
    """The server understood the call and rejected it before doing anything."""


class Identity:
    """Who the client says it is: user and groups by number, as a kernel's NFS client sends them."""

    def __init__(self, uid: int | None = None, gid: int | None = None) -> None:
        own = uid is None and gid is None
        self.uid = os.geteuid() if uid is None else uid
        groups = sorted(set(os.getgroups()))[:_MAX_GROUPS] if own else []
        body = b"".join(
            (
                xdr.number(0),
                xdr.text(socket.gethostname()[:64]),
                xdr.number(self.uid),
                xdr.number(os.getegid() if gid is None else gid),
                xdr.numbers(groups),
            )
        )
        self.encoded = xdr.number(_AUTH_SYS) + xdr.opaque(body) + xdr.number(0) + xdr.opaque(b"")


class Connection:
    """One TCP connection to `address`; `until` is when (time.monotonic) to give up connecting."""

    def __init__(self, address: Address, identity: Identity, reserved: bool, until: float) -> None:
        self.address, self._identity = address, identity
        self.sent = 0
        """How many calls may have been sent, whole or in part."""
        self._next = int.from_bytes(os.urandom(4), "big")
        self._socket = _connect(address, reserved, until)

    def call(self, program: int, version: int, procedure: int, arguments: bytes, until: float) -> Unpacker:
        """Make one call and return its results. `until` (time.monotonic) is when to give up waiting for them.

        Raises Disconnected, Refused or Malformed.
        """
        self._next = self._next + 1 & 0xFFFFFFFF
        head = struct.pack(">6I", self._next, 0, 2, program, version, procedure)
        message = b"".join((head, self._identity.encoded, arguments))
        try:
            self._wait_at_most(until)
            self.sent += 1
            self._socket.sendall(struct.pack(">I", len(message) | _LAST_FRAGMENT) + message)
            while True:
                answer = Unpacker(self._receive(until))
                if answer.number() == self._next:
                    break
            return _results(answer)
        except TimeoutError:
            self.close()
            raise Disconnected(f"{_name(self.address)} has not answered in time") from None
        except OSError as error:
            if isinstance(error, Refused):
                raise
            self.close()
            raise Disconnected(f"the connection to {_name(self.address)} broke: {error.strerror or error}") from error
        except BaseException:  # whatever it is: an unread answer must not be taken for that of the next call
            self.close()
            raise

    def close(self) -> None:
        """Close the connection. Never raises."""
        with suppress(OSError):
            self._socket.close()

    def _receive(self, until: float) -> bytes:
        """Receive one message, joined from all its fragments."""
        parts: list[bytes] = []
        size = 0
        while True:
            mark = struct.unpack(">I", self._receive_exactly(4, until))[0]
            length = mark & ~_LAST_FRAGMENT
            size += length
            if size > _MAX_MESSAGE or len(parts) > _MAX_PARTS:
                raise Malformed(f"the server announces an answer of {size} bytes in {len(parts) + 1} parts")
            parts.append(self._receive_exactly(length, until))
            if mark & _LAST_FRAGMENT:
                return b"".join(parts)

    def _receive_exactly(self, length: int, until: float) -> bytes:
        data = bytearray(length)
        view, got = memoryview(data), 0
        while got < length:
            self._wait_at_most(until)
            count = self._socket.recv_into(view[got:])
            if count == 0:
                raise ConnectionResetError("the server closed it")
            got += count
        return bytes(data)

    def _wait_at_most(self, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)


def _results(answer: Unpacker) -> Unpacker:
    """Read the reply's header and return the rest. Raises Refused or Malformed."""
    if answer.number() != 1:
        raise Malformed("the server sent a call instead of an answer")
    if answer.number() != 0:
        raise Refused(errno.EACCES, "the server does not accept this client's identity")
    answer.number()
    answer.opaque()  # the verifier
    status = answer.number()
    if status != 0:
        what = {1: "does not serve this protocol", 2: "does not serve this version", 3: "does not know this procedure"}
        number = errno.EOPNOTSUPP if status == _NO_SUCH_PROCEDURE else errno.EPROTONOSUPPORT
        raise Refused(number, f"the server {what.get(status, 'could not read the call')}")
    return answer


def _connect(address: Address, reserved: bool, until: float) -> socket.socket:
    """Connect to the server. Raises Disconnected."""
    try:
        bound = _from_reserved_port(address, until) if reserved else None
        connection = bound or socket.create_connection(address, _connect_timeout(until))
    except OSError as error:
        raise Disconnected(f"{_name(address)} cannot be reached: {error.strerror or error}") from error
    options: list[tuple[int, int, int]] = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _DEAD_AFTER // 3),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _DEAD_AFTER // 3),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER * 1000),
    ]
    for level, option, value in options:
        connection.setsockopt(level, option, value)
    return connection


def _connect_timeout(until: float) -> float:
    """Seconds that one attempt to connect may take."""
    return min(_ATTEMPT, max(0.1, until - time.monotonic()))


def _from_reserved_port(address: Address, until: float) -> socket.socket | None:
    """Connect from a port below 1024; None if this user may not use one, none is free, or nobody answers."""
    for family, kind, protocol, _, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        with suppress(OSError):  # a name may have several addresses, and the server may listen on only one
            connection = _bound_low(family, kind, protocol, place, until)
            if connection is not None:
                return connection
    return None


def _bound_low(family: int, kind: int, protocol: int, place: Any, until: float) -> socket.socket | None:
    any_address = "::" if family == socket.AF_INET6 else "0.0.0.0"
    start = int.from_bytes(os.urandom(1), "big")
    for turn in range(len(_RESERVED)):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.bind((any_address, _RESERVED[(start + turn) % len(_RESERVED)]))
            connection.settimeout(_connect_timeout(until))
            connection.connect(place)
            return connection
        except PermissionError:
            connection.close()
            return None
        except OSError as error:
            connection.close()
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):  # the port, or this pair of ports, is taken
                raise
    return None


def _name(address: Address) -> str:
    return f"{address[0]} (port {address[1]})"
