"""The user-space NFS client against fake servers that behave oddly."""

import errno
import socket
import struct
import threading
import time
from contextlib import closing, suppress
from typing import Any, cast

import pytest

from backends.storage.channel import Channel, Disconnected, Malformed, TryLater
from backends.storage.nfs import rpc
from backends.storage.nfs.files import NfsReadHandle
from backends.storage.nfs.protocol import Protocol
from backends.storage.nfs.rpc import Connection, Identity, Refused
from backends.storage.nfs.xdr import Unpacker, number


class FakeProtocol:
    """The part of a protocol that these tests need."""

    largest_read = 1000
    until = 0.0
    sent = 0

    def know_limits(self, handle: bytes) -> None:
        pass


def fake_protocol(what: FakeProtocol | None = None) -> Protocol:
    return cast(Protocol, what or FakeProtocol())


def test_nfs_host_with_several_addresses_is_reached_on_the_one_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from a reserved port, which only root may use: a NAS with an IPv6 address need not serve NFS on it."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        real = socket.getaddrinfo

        def both(host: str, *more: Any, **others: Any) -> list[Any]:
            return [*real("::1", port, type=socket.SOCK_STREAM), *real("127.0.0.1", port, type=socket.SOCK_STREAM)]

        monkeypatch.setattr(socket, "getaddrinfo", both)
        Connection(("nas.local", port), Identity(), True, time.monotonic() + 5).close()


def test_silent_nfs_host_is_given_up_after_a_short_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel would try it less and less often, and notice its return up to half a minute late."""
    monkeypatch.setattr(rpc, "_ATTEMPT", 0.2)
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(3)]  # more than its backlog takes: later connections get no answer
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        began = time.monotonic()
        with pytest.raises(Disconnected, match="cannot be reached"):
            Connection(address, Identity(), False, began + 60)
        assert time.monotonic() - began < 5
        for each in waiting:
            each.close()


def test_nfs_server_that_answers_try_later_to_first_call_is_waited_for() -> None:
    """Linux does so after a start, until its mountd has said who may access what."""
    attempts = 0

    def connect(until: float) -> Protocol:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise TryLater("/")
        return fake_protocol()

    assert Channel(connect, 10.0).do(lambda protocol: protocol.largest_read) == 1000


def test_nfs_server_that_was_never_there_is_not_waited_for() -> None:
    def connect(until: float) -> Protocol:
        raise Disconnected("nas.local (port 2049) cannot be reached")

    began = time.monotonic()
    with pytest.raises(TimeoutError, match="cannot be reached"):
        Channel(connect, 60.0).do(lambda protocol: None)
    assert time.monotonic() - began < 5


def answering(answer: bytes) -> tuple[str, int]:
    """The address of a server that answers one call with `answer`, in which NMBR stands for the call's number."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with listener, connection, suppress(ConnectionResetError):
            call = connection.recv(1 << 16)
            connection.sendall(answer.replace(b"NMBR", call[4:8]))
            connection.recv(1)

    threading.Thread(target=serve, daemon=True).start()
    host, port = listener.getsockname()
    return host, port


def called(answer: bytes, seconds: float = 5) -> Unpacker:
    until = time.monotonic() + seconds
    with closing(Connection(answering(answer), Identity(), False, until)) as connection:
        return connection.call(100003, 3, 0, b"", until)


def fragment(data: bytes, last: bool = True, length: int | None = None) -> bytes:
    return struct.pack(">I", (len(data) if length is None else length) | last << 31) + data


ACCEPTED = b"NMBR" + struct.pack(">5I", 1, 0, 0, 0, 0)


def test_rpc_answer_in_fragments_is_put_together() -> None:
    answer = ACCEPTED + b"results."
    pieces = [fragment(answer[at : at + 5], last=False) for at in range(0, len(answer), 5)]
    assert called(fragment(b"", last=False) + b"".join(pieces) + fragment(b"")).fixed(8) == b"results."


def test_rpc_answer_to_another_call_is_skipped() -> None:
    assert called(fragment(b"old " + ACCEPTED[4:]) + fragment(ACCEPTED + b"new.")).fixed(4) == b"new."


@pytest.mark.parametrize("pieces", [1, 1000])
def test_rpc_answer_of_impossible_length_is_refused_at_once(pieces: int) -> None:
    announced = fragment(b"", length=0x7FFFFFFF)
    if pieces > 1:
        announced = fragment(bytes(8192), last=False) * pieces
    began = time.monotonic()
    with pytest.raises(Malformed, match="announces an answer of"):
        called(announced, 30)
    assert time.monotonic() - began < 5


def test_rpc_answer_that_never_ends_times_out() -> None:
    with pytest.raises(Disconnected, match="has not answered in time"):
        called(fragment(ACCEPTED, length=100), 0.5)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"NMBR" + struct.pack(">3I", 1, 1, 1), "identity"),
        (ACCEPTED[:-4] + number(2), "does not serve this version"),
        (ACCEPTED[:-4] + number(5), "could not read the call"),
    ],
)
def test_rpc_call_refused_by_server_says_why(answer: bytes, said: str) -> None:
    with pytest.raises(Refused, match=said):
        called(fragment(answer))


def test_nfs_read_that_returns_too_many_bytes_is_an_error() -> None:
    class Generous(FakeProtocol):
        def read(self, handle: bytes, offset: int, length: int) -> tuple[bytes, bool]:
            return bytes(length + 1), False

    with pytest.raises(OSError, match="1001 bytes where 1000") as caught:
        NfsReadHandle(Channel(lambda until: fake_protocol(Generous()), 10.0), b"handle", "segment").read(0, 5000)
    assert caught.value.errno == errno.EPROTO
