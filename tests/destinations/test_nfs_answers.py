"""The user-space NFS client, given answers that real servers give only on their worst days."""

import errno
import time
from collections.abc import Sequence
from typing import Any, cast

import pytest

from backends.storage.channel import Disconnected, TryLater
from backends.storage.nfs.rpc import Connection
from backends.storage.nfs.session41 import Operation, Session, SessionLost
from tests.destinations.scripted_nfs import Scripted, Server, writer


def test_sync_fails_when_nfs_server_restarted_since_the_write() -> None:
    """Its verifier changes: what it had only in memory is gone, although COMMIT succeeds."""
    server = Server()
    handle = writer(server)
    handle.write(0, bytes(100))
    server.boot = b"boot 2  "
    with pytest.raises(OSError, match="restarted in between") as caught:
        handle.sync()
    assert caught.value.errno == errno.EIO


def test_sync_fails_when_nfs_server_restarted_between_two_writes() -> None:
    server = Server()
    handle = writer(server)
    handle.write(0, bytes(100))
    server.boot = b"boot 2  "
    handle.write(100, bytes(100))
    with pytest.raises(OSError, match="restarted in between"):
        handle.sync()


def test_sync_succeeds_when_nfs_server_restarted_only_after_the_last_sync() -> None:
    server = Server()
    handle = writer(server)
    for boot in (b"boot 1  ", b"boot 2  "):  # a restart after a sync loses nothing
        server.boot = boot
        handle.write(0, bytes(100))
        handle.sync()
    assert server.commits == 2


def test_nfs_write_answered_as_unstable_is_followed_by_commit() -> None:
    """The protocol forbids answering a stable write with UNSTABLE; if a server does, only a COMMIT is believed."""
    server = Server(obeys=False)
    writer(server).write_durably(0, b"record")
    assert server.commits == 1
    assert bytes(server.content) == b"record"


def test_nfs_write_answered_as_unstable_fails_when_server_then_restarts() -> None:
    class Restarting(Server):
        def commit(self, handle: bytes) -> bytes:
            self.boot = b"boot 2  "
            return super().commit(handle)

    with pytest.raises(OSError, match="restarted in between"):
        writer(Restarting(obeys=False)).write_durably(0, b"record")


@pytest.mark.parametrize("durably", [True, False])
def test_partial_nfs_writes_are_continued(durably: bool) -> None:
    server, data = Server(most=7), bytes(range(250)) * 9
    handle = writer(server)
    (handle.write_durably if durably else handle.write)(0, data)
    assert bytes(server.content) == data
    assert server.commits == 0


def test_nfs_write_that_takes_nothing_is_an_error() -> None:
    with pytest.raises(OSError, match="wrote nothing"):
        writer(Server(most=0)).write_durably(0, b"record")


def begun() -> tuple[Session, Scripted]:
    connection = Scripted()
    return Session(cast(Connection, connection), 0.0), connection


BADSESSION, CONN_NOT_BOUND, SEQ_MISORDERED, FALSE_RETRY, UNCACHED = 10052, 10055, 10063, 10076, 10068


def call(session: Session) -> Any:
    nothing: Sequence[Operation] = []
    return session.call(nothing, "", 0.0)


def test_nfs_call_that_was_put_off_keeps_its_sequence_number() -> None:
    """The server has not counted the call, and a skipped number would end the session."""
    session, connection = begun()
    call(session)
    connection.busy = 2
    for _ in range(2):
        with pytest.raises(TryLater):
            call(session)
    call(session)
    call(session)
    assert connection.numbers == [1, 2, 3, 3, 3, 4]


def test_nfs_sequence_numbers_wrap_to_zero() -> None:
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
    """Break the connection; the server answers the number that is sent again with this status."""
    connection.busy, connection.status = 1, status
    session.resume(cast(Connection, connection), 0.0, Disconnected("the connection broke"))


@pytest.mark.parametrize("status", [FALSE_RETRY, UNCACHED])
def test_nfs_session_continues_after_a_call_that_was_carried_out(status: int) -> None:
    session, connection = begun()
    call(session)
    cut(session, connection, status)
    call(session)
    assert connection.numbers == [1, 2, 2, 3]
    assert session.fences


def test_nfs_session_that_is_over_keeps_late_calls_out() -> None:
    session, connection = begun()
    call(session)
    cut(session, connection, BADSESSION)
    assert connection.numbers == [1, 2, 2, 1]
    assert session.fences


@pytest.mark.parametrize("status", [CONN_NOT_BOUND, SEQ_MISORDERED])
def test_nfs_session_that_may_still_live_is_replaced_and_no_longer_fences(status: int) -> None:
    """A new session begins, but zeros sent in the old one may still arrive: it must not claim to keep them out."""
    session, connection = begun()
    cut(session, connection, status)
    call(session)
    assert not session.fences
    cut(session, connection, BADSESSION)
    assert not session.fences


def test_nfs_session_lost_during_a_call_is_replaced_by_a_new_one() -> None:
    session, connection = begun()
    connection.busy, connection.status = 1, BADSESSION
    with pytest.raises(SessionLost) as caught:
        call(session)
    session.resume(cast(Connection, connection), 0.0, caught.value)
    call(session)
    assert connection.numbers == [1, 2, 1, 2]


@pytest.mark.parametrize("fences", [False, True])
def test_zeros_that_were_not_answered_in_time_keep_records_away_where_they_may_come_late(
    monkeypatch: pytest.MonkeyPatch, fences: bool
) -> None:
    server = Server()
    monkeypatch.setattr(server, "fences", fences)
    handle = writer(server, timeout=0.01)
    handle.write_durably(0, bytes(100))

    def silent(*_: object) -> Any:
        raise Disconnected("no answer")

    with monkeypatch.context() as patched, pytest.raises(TimeoutError):
        patched.setattr(server, "write", silent)
        handle.extend(100, 100)
    monkeypatch.setattr(server, "reconnect", lambda why: None, raising=False)
    if fences:
        handle.write_durably(100, bytes(100))
        return
    with pytest.raises(OSError, match="while the file was preallocated"):
        handle.write_durably(100, bytes(100))


def test_refused_nfs_commit_and_the_cut_after_it_take_one_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """lightningd waits for the answer, and its peers for lightningd."""
    server, timeout = Server(), 1.0
    handle = writer(server, timeout)

    def refuse(*_: object) -> Any:
        time.sleep(0.8 * timeout)
        raise OSError(errno.EIO, "the disk fails")

    def silent(*_: object) -> Any:
        raise Disconnected("no answer")

    for name, does in (("write", refuse), ("resize", silent), ("reconnect", silent)):
        monkeypatch.setattr(server, name, does, raising=False)
    began = time.monotonic()
    with pytest.raises(OSError, match="the disk fails"):
        handle.write_durably(0, b"record")
    with pytest.raises(TimeoutError):
        handle.truncate(0)
    assert time.monotonic() - began < 1.4 * timeout
