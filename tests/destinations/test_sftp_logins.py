"""A server that lets this machine in no more is not asked every second: it would ban the machine for that."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from backends.storage.base import WriteHandle
from backends.storage.channel import Refused
from backends.storage.sftp import logins
from backends.storage.sftp.logins import Logins
from backends.storage.sftp.storage import SftpStorage
from tests.destinations.sftp_servers import OpenSsh, running, storage_at
from tests.destinations.tools import run, wait_until

TIMEOUT = 20
TEN_MINUTES = 600


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OpenSsh]:
    with running(OpenSsh(tmp_path)) as server:
        yield server


@pytest.fixture
def storage(server: OpenSsh) -> SftpStorage:
    storage = storage_at(server.url("lightning.bkp", timeout=str(TIMEOUT)))
    storage.make()
    return storage


def _attempts(server: OpenSsh) -> int:
    return server.log().count("Connection closed by")


def _lock_out_by_key(server: OpenSsh) -> None:
    (server.directory / "user.pub").write_text("")


def _lock_out_by_host_key(server: OpenSsh) -> None:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", server.directory / "other")
    server.known.write_text(f"[127.0.0.1]:{server.port} {(server.directory / 'other.pub').read_text()}")


@contextmanager
def _locked_out_writer(
    server: OpenSsh, storage: SftpStorage, lock_out: Callable[[OpenSsh], None]
) -> Iterator[WriteHandle]:
    """A file with a first record, whose server has ended all sessions and lets nobody in any more."""
    with closing(storage.create("segment-1")) as handle:
        handle.write_durably(0, b"first ")
        lock_out(server)
        server.drop_sessions()
        wait_until(lambda: server.sessions() == [], "the end of the sessions")
        yield handle


@pytest.mark.parametrize(
    ("lock_out", "said"),
    [(_lock_out_by_key, "accepts no key of this user"), (_lock_out_by_host_key, "another host key than before")],
    ids=["key refused", "host key changed"],
)
def test_writer_that_is_let_in_no_more_tries_a_few_times_and_ends(
    lock_out: Callable[[OpenSsh], None],
    said: str,
    server: OpenSsh,
    storage: SftpStorage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logins, "_PAUSES", (0.5, 1.0, 600.0))
    with _locked_out_writer(server, storage, lock_out) as handle:
        before, began = _attempts(server), time.monotonic()
        with pytest.raises(TimeoutError, match=said):
            handle.write_durably(6, b"second")
        assert 1.5 < time.monotonic() - began < TIMEOUT / 2
        for _ in range(5):  # the other connection is one to the same account
            with pytest.raises(TimeoutError, match=said):
                storage.names()
        assert _attempts(server) - before == 3


def test_writer_that_is_let_in_again_goes_on(
    server: OpenSsh, storage: SftpStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "_PAUSES", (1.0, 600.0))
    key = (server.directory / "user.pub").read_text()
    with _locked_out_writer(server, storage, _lock_out_by_key) as handle:
        before, began = _attempts(server), time.monotonic()

        def let_in() -> None:
            wait_until(lambda: _attempts(server) > before, "the refusal")
            (server.directory / "user.pub").write_text(key)

        helper = threading.Thread(target=let_in)
        helper.start()
        handle.write_durably(6, b"second")
        assert time.monotonic() - began > 1
        helper.join()
    assert (server.served / "lightning.bkp" / "segment-1").read_bytes() == b"first second"


def test_server_is_asked_at_most_four_times_in_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two connections ask whenever they may; both of them at once in the first moment."""
    now = 0.0
    monkeypatch.setattr("backends.storage.sftp.logins.time.monotonic", lambda: now)
    account, asked = Logins(), []
    for now in range(TEN_MINUTES):
        allowed = []
        for _ in range(2):
            try:
                account.begin()
            except Refused as error:
                assert "no" in str(error)
            else:
                allowed.append(now)
        asked += allowed
        for _ in allowed:
            account.refuse("no")
    assert len(asked) == 4, asked


def test_server_that_restarts_after_a_refusal_is_asked_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("backends.storage.sftp.logins.time.monotonic", lambda: now)
    account = Logins()
    account.refuse("no")
    now = 10.0
    account.begin()
    account.fail()  # nothing accepts connections just then
    account.begin()
    account.succeed()
    account.begin()


# What was never sent


def test_failure_of_another_connection_does_not_end_the_pause_after_a_refusal() -> None:
    account = Logins()
    with pytest.raises(OSError, match="no route"), account.attempt():
        account.refuse("the key is refused")  # another connection, which began at the same time
        raise OSError("no route")
    with pytest.raises(Refused, match="the key is refused"):
        account.begin()


def test_commit_after_the_server_ended_an_idle_connection_is_in_no_doubt(server: OpenSsh, storage: SftpStorage) -> None:
    """ProFTPD does so after some minutes. A commit in doubt would be read back, and forbid to shorten the file."""
    with closing(storage.create("a.tmp")) as handle:
        handle.extend(0, 4096)
        storage.rename_new("a.tmp", "segment-1")
        handle.write_durably(0, b"first ")
        ssh = [each.do(lambda session: session.connection._ssh._process) for each in (storage._commits, storage._rest)]
        server.drop_sessions()
        wait_until(lambda: all(each.poll() is not None for each in ssh), "the end of both connections")
        handle.write_durably(6, b"second")
        handle.truncate(6)
        handle.write_durably(6, b"third")
        handle.truncate(11)
    assert (server.served / "lightning.bkp" / "segment-1").read_bytes() == b"first third"
