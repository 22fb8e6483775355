"""The user-space NFS client and answers that real servers give only on their worst days."""

import errno
from collections.abc import Sequence
from typing import Any, cast

import pytest

from backends.storage.nfs.protocol import TryLater
from backends.storage.nfs.rpc import Connection, Disconnected
from backends.storage.nfs.session41 import Operation, Session, SessionLost
from tests.destinations.scripted import Scripted, Server, writer


def test_what_a_server_forgot_by_restarting_is_not_synced() -> None:
    """Its verifier tells: what it had only in memory is gone, though COMMIT succeeds."""
    server = Server()
    handle = writer(server)
    handle.write(0, bytes(100))
    server.boot = b"boot 2  "
    with pytest.raises(OSError, match="restarted in between") as caught:
        handle.sync()
    assert caught.value.errno == errno.EIO


def test_a_restart_between_two_writes_is_noticed_though_the_last_one_is_synced() -> None:
    server = Server()
    handle = writer(server)
    handle.write(0, bytes(100))
    server.boot = b"boot 2  "
    handle.write(100, bytes(100))
    with pytest.raises(OSError, match="restarted in between"):
        handle.sync()


def test_a_sync_without_a_restart() -> None:
    server = Server()
    handle = writer(server)
    for boot in (b"boot 1  ", b"boot 2  "):  # a restart after a sync loses nothing
        server.boot = boot
        handle.write(0, bytes(100))
        handle.sync()
    assert server.commits == 2


def test_a_server_that_does_less_than_was_asked_is_made_to_commit() -> None:
    """A stable write may be answered with UNSTABLE only against the rules; nothing is believed until a COMMIT."""
    server = Server(obeys=False)
    writer(server).write_durably(0, b"record")
    assert server.commits == 1
    assert bytes(server.content) == b"record"


def test_a_server_that_does_less_and_restarts_has_saved_nothing() -> None:
    class Restarting(Server):
        def commit(self, handle: bytes) -> bytes:
            self.boot = b"boot 2  "
            return super().commit(handle)

    with pytest.raises(OSError, match="restarted in between"):
        writer(Restarting(obeys=False)).write_durably(0, b"record")


@pytest.mark.parametrize("durably", [True, False])
def test_writes_that_take_a_part_only_are_gone_on_with(durably: bool) -> None:
    server, data = Server(most=7), bytes(range(250)) * 9
    handle = writer(server)
    (handle.write_durably if durably else handle.write)(0, data)
    assert bytes(server.content) == data
    assert server.commits == 0


def test_a_write_that_takes_nothing_is_not_repeated_for_ever() -> None:
    with pytest.raises(OSError, match="wrote nothing"):
        writer(Server(most=0)).write_durably(0, b"record")


def begun() -> tuple[Session, Scripted]:
    connection = Scripted()
    return Session(cast(Connection, connection), 0.0), connection


BADSESSION, CONN_NOT_BOUND, SEQ_MISORDERED, FALSE_RETRY, UNCACHED = 10052, 10055, 10063, 10076, 10068


def call(session: Session) -> Any:
    nothing: Sequence[Operation] = []
    return session.call(nothing, "", 0.0)


def test_a_call_that_was_put_off_keeps_its_number() -> None:
    """The server has not counted it; a number left out would end the session."""
    session, connection = begun()
    call(session)
    connection.busy = 2
    for _ in range(2):
        with pytest.raises(TryLater):
            call(session)
    call(session)
    call(session)
    assert connection.numbers == [1, 2, 3, 3, 3, 4]


def test_numbers_begin_anew_after_the_last_one() -> None:
    session, connection = begun()
    session._sequence = 0xFFFFFFFE
    call(session)
    connection.busy = 1
    with pytest.raises(TryLater):
        call(session)
    call(session)
    call(session)
    assert connection.numbers[1:] == [0xFFFFFFFF, 0, 0, 1]


def cut(session: Session, connection: Scripted, status: int) -> None:
    """The connection breaks, and the server answers the number that is sent again with this status."""
    connection.busy, connection.status = 1, status
    session.resume(cast(Connection, connection), 0.0, Disconnected("the connection broke"))


@pytest.mark.parametrize("status", [FALSE_RETRY, UNCACHED])
def test_a_session_goes_on_after_a_call_that_was_carried_out(status: int) -> None:
    session, connection = begun()
    call(session)
    cut(session, connection, status)
    call(session)
    assert connection.numbers == [1, 2, 2, 3]
    assert session.fences


def test_a_session_that_is_over_takes_late_calls_with_it() -> None:
    session, connection = begun()
    call(session)
    cut(session, connection, BADSESSION)
    assert connection.numbers == [1, 2, 2, 1]
    assert session.fences


@pytest.mark.parametrize("status", [CONN_NOT_BOUND, SEQ_MISORDERED])
def test_a_session_that_may_live_on_does_not(status: int) -> None:
    """A new one is begun, but zeros that were sent in the old one may still arrive: nobody may rely on the contrary."""
    session, connection = begun()
    cut(session, connection, status)
    call(session)
    assert not session.fences
    cut(session, connection, BADSESSION)
    assert not session.fences


def test_a_session_lost_in_the_middle_is_begun_anew() -> None:
    session, connection = begun()
    connection.busy, connection.status = 1, BADSESSION
    with pytest.raises(SessionLost) as caught:
        call(session)
    session.resume(cast(Connection, connection), 0.0, caught.value)
    call(session)
    assert connection.numbers == [1, 2, 1, 2]
