"""What has been acknowledged is on the server's disk: seen in the trace of a real server, and when a sync fails."""

import os
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backends import place_at
from backends.storage.channel import Disconnected
from backends.storage.sftp.packets import Failure
from backends.storage.sftp.session import Session, SyncFailed
from backends.storage.sftp.storage import SftpStorage
from tests.destinations.sftp_servers import OpenSsh, running, storage_at
from tests.destinations.test_sftp_sentences import SFTP_SERVER

_TRACED = re.compile(r'^(?:debug1: request \d+: )?(write|fsync|fstat|posix-rename)(?: old)? "([^"]*)"', re.MULTILINE)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OpenSsh]:
    """A server that writes down what it carries out, in this order."""
    with running(OpenSsh(tmp_path, subsystem=f"{SFTP_SERVER} -l DEBUG3 -e 2>>{tmp_path}/trace")) as server:
        yield server


@pytest.fixture
def storage(server: OpenSsh) -> SftpStorage:
    storage = storage_at(server.url("lightning.bkp"))
    storage.make()
    return storage


def carried_out(server: OpenSsh) -> list[str]:
    """What the server has done since the last call: `write`, `fsync` and others, and the name of the file."""
    trace = server.directory / "trace"
    found = [f"{what} {Path(path).name}" for what, path in _TRACED.findall(trace.read_text())]
    trace.write_text("")
    return found


def test_commit_is_synced_by_the_server_before_it_answers(server: OpenSsh, storage: SftpStorage) -> None:
    with closing(storage.create("a.tmp")) as handle:
        handle.extend(0, 1 << 16)
        handle.write_durably(0, b"first")
        carried_out(server)
        handle.write_durably(5, b"second")
        assert carried_out(server) == ["write a.tmp", "fsync a.tmp", "fstat a.tmp"]


def test_published_file_is_synced_before_it_gets_its_name_and_the_name_after_that(
    server: OpenSsh, storage: SftpStorage
) -> None:
    storage.publish("manifest", b"one")
    carried_out(server)
    temporary = storage.temporary("manifest")
    storage.publish("manifest", b"two")
    done = carried_out(server)
    steps = [f"write {temporary}", f"fsync {temporary}", f"posix-rename {temporary}", "fsync lightning.bkp"]
    assert [each for each in done if each in steps] == steps


def test_failed_sync_of_the_directory_is_an_error_and_not_taken_for_one_that_is_not_supported(
    server: OpenSsh, storage: SftpStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = place_at(server.url("lightning.bkp")).storage  # it has not found out yet what the server can do
    sync = Session.sync

    def fail(session: Session, handle: bytes, name: str) -> None:
        if name.endswith("lightning.bkp"):
            raise Failure("Failure", name)
        sync(session, handle, name)

    monkeypatch.setattr(Session, "sync", fail)
    with pytest.raises(SyncFailed):
        again.publish("manifest", b"one")
    monkeypatch.undo()
    assert not any("syncs no directories" in line for line in again.about())


def test_new_name_that_a_restarted_server_lost_is_noticed_although_another_one_was_given_since(
    server: OpenSsh, storage: SftpStorage
) -> None:
    for name in ("one", "two"):
        with closing(storage.create(f"{name}.tmp")) as handle:
            handle.write(0, b"data")
            handle.sync()
    storage.rename("one.tmp", "one")
    server.drop_sessions()
    (server.served / "lightning.bkp" / "one").unlink()
    storage.rename("two.tmp", "two")
    with pytest.raises(OSError, match="has lost the file's new name"):
        storage.sync_names()


def test_new_name_that_the_first_request_gives_while_it_is_repeated_is_not_taken_for_another_writers(
    server: OpenSsh, storage: SftpStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log would go on under the next name, and the file would have both."""
    with closing(storage.create("a.tmp")) as handle:
        handle.write(0, b"data")
        handle.sync()
    here, link, asked = server.served / "lightning.bkp", Session.link, []

    def late(session: Session, old: str, new: str) -> None:
        asked.append(new)
        if len(asked) == 1:
            raise Disconnected("the first request is on its way")
        os.link(here / "a.tmp", here / "segment-1")
        link(session, old, new)

    monkeypatch.setattr(Session, "link", late)
    storage.rename_new("a.tmp", "segment-1")
    assert len(asked) == 2
    assert storage.names() == ["segment-1"]
