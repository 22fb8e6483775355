"""The user-space NFS client against servers that behave oddly; none of them is a real one."""

import errno
import socket
import time
from contextlib import closing
from typing import Any, cast

import pytest

from backends.storage.nfs import rpc
from backends.storage.nfs.channel import Channel
from backends.storage.nfs.files import Reader
from backends.storage.nfs.protocol import Protocol, TryLater
from backends.storage.nfs.rpc import Connection, Disconnected, Identity


class Spoken:
    """A protocol that has what a test needs of one."""

    largest_read = 1000
    until = 0.0


def spoken(what: Spoken | None = None) -> Protocol:
    return cast(Protocol, what or Spoken())


def test_a_name_of_several_addresses_of_which_the_server_answers_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from a reserved port (only root has one): a NAS with an IPv6 address need not serve NFS there."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        real = socket.getaddrinfo

        def both(host: str, *more: Any, **others: Any) -> list[Any]:
            return [*real("::1", port, type=socket.SOCK_STREAM), *real("127.0.0.1", port, type=socket.SOCK_STREAM)]

        monkeypatch.setattr(socket, "getaddrinfo", both)
        Connection(("nas.local", port), Identity(), True, time.monotonic() + 5).close()


def test_a_silent_machine_is_tried_anew_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel would ask it more and more rarely, and hear of its return up to half a minute late."""
    monkeypatch.setattr(rpc, "_ATTEMPT", 0.2)
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(3)]  # more than it lets in: whoever comes then hears nothing
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        began = time.monotonic()
        with pytest.raises(Disconnected, match="cannot be reached"):
            Connection(address, Identity(), False, began + 60)
        assert time.monotonic() - began < 5
        for each in waiting:
            each.close()


def test_a_server_that_asks_for_patience_at_the_first_call_gets_it() -> None:
    """Linux does so after a start, until its mountd has said who may have what."""
    attempts = 0

    def connect(until: float) -> Protocol:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise TryLater("/")
        return spoken()

    assert Channel(connect, 10.0).do(lambda protocol: protocol.largest_read) == 1000


def test_a_server_that_was_never_there_is_not_waited_for() -> None:
    def connect(until: float) -> Protocol:
        raise Disconnected("nas.local (port 2049) cannot be reached")

    began = time.monotonic()
    with pytest.raises(TimeoutError, match="cannot be reached"):
        Channel(connect, 60.0).do(lambda protocol: None)
    assert time.monotonic() - began < 5


def test_more_bytes_than_were_asked_for_are_not_believed() -> None:
    class Generous(Spoken):
        def read(self, handle: bytes, offset: int, length: int) -> tuple[bytes, bool]:
            return bytes(length + 1), False

    with pytest.raises(OSError, match="1001 bytes where 1000") as caught:
        Reader(Channel(lambda until: spoken(Generous()), 10.0), b"handle", "segment").read(0, 5000)
    assert caught.value.errno == errno.EPROTO
