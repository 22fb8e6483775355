"""Server processes that are frozen, and later carry out what they were sent: whatever comes late must be harmless.

The client gives a frozen process up after a while and finds a new one; so does the next writer. SIGSTOP stands for a
server whose disk hangs for minutes.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from backends.errors import BackupError, Fenced
from backends.storage import deadline
from backends.storage.base import FileFenced, Storage
from backends.storage.sftp.packets import Attributes, Failure
from backends.storage.sftp.session import Session
from backends.storage.sftp.storage import SftpStorage
from tests.destinations.places import Places
from tests.destinations.second_writer import created, notes, opener
from tests.destinations.sftp_servers import OpenSsh, SftpServer, frozen, storage_at
from tests.destinations.tools import wait_until
from tests.fake_lightningd.calls import History
from tests.log.histories import change, noise, silent

TIMEOUT = 5
"""The commit timeout here, in seconds. A process that does not answer is given up after a third of it."""


@pytest.fixture(params=["openssh", "proftpd"] if os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN") else ["openssh"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(places: Places, kind: str) -> SftpServer:
    return places.sftp(kind)


@pytest.fixture
def url(places: Places, kind: str) -> str:
    return f"{places.url(kind)}&timeout={TIMEOUT}"


@pytest.fixture
def storage(url: str) -> SftpStorage:
    made = storage_at(url)
    made.make()
    return made


def elsewhere(url: str) -> SftpStorage:
    """The same place, as another machine sees it: over connections of its own."""
    return storage_at(url.replace(f"timeout={TIMEOUT}", f"timeout={TIMEOUT + 1}"))


def put(storage: Storage, name: str, data: bytes) -> None:
    with closing(storage.create(name)) as handle:
        handle.write(0, data)
        handle.sync()


def here(url: str) -> Path:
    """The directory of the backup, on the server's own disk."""
    return Path("/" + url.partition("?")[0].split("/", 3)[3])


def hidden(url: str) -> list[str]:
    """The hidden names of files that are open for writing."""
    return [path.name for path in here(url).iterdir() if path.name.startswith(".open-")]


@contextmanager
def frozen_sessions(server: SftpServer, storage: SftpStorage, *, commits: bool = False) -> Iterator[Callable[[], None]]:
    """Freeze the process that carries out what this storage asks for, but not the sshd in front of it.

    The function that is yielded lets it go on, and returns when it has carried out what it was sent.
    """
    channel = storage._commits if commits else storage._rest
    process = server.session_that_serves(lambda: channel.do(lambda session: session.followed(".")))
    with frozen([process]):

        def go_on() -> None:
            with suppress(psutil.NoSuchProcess):
                process.resume()
            psutil.wait_procs([process], timeout=10)

        yield go_on


# A commit


def test_commit_to_frozen_process_is_done_by_another_and_again_by_the_frozen_one(
    server: SftpServer, storage: SftpStorage, url: str
) -> None:
    with closing(storage.create("a.tmp")) as handle:
        handle.extend(0, 1 << 16)
        storage.rename_new("a.tmp", "segment-1")
        handle.write_durably(0, b"first ")
        with frozen_sessions(server, storage, commits=True) as go_on:
            began = time.monotonic()
            handle.write_durably(6, b"second ")
            assert TIMEOUT / 3 - 1 < time.monotonic() - began < TIMEOUT
            handle.write_durably(13, b"third")
            go_on()
        handle.write_durably(18, b".")
    assert (here(url) / "segment-1").read_bytes().rstrip(b"\0") == b"first second third."


def test_commit_does_not_wait_for_that_of_another_member_on_the_same_account(
    server: SftpServer, storage: SftpStorage, url: str
) -> None:
    beside = storage_at(url.replace("/lightning.bkp?", "/beside.bkp?"))
    beside.make()
    with closing(storage.create("a.tmp")) as hangs, closing(beside.create("a.tmp")) as works:
        for handle in (hangs, works):
            handle.write_durably(0, b"first ")
        with frozen_sessions(server, storage, commits=True):
            worker = threading.Thread(target=lambda: hangs.write_durably(6, b"second"))
            worker.start()
            time.sleep(0.2)
            began = time.monotonic()
            works.write_durably(6, b"second")
            assert time.monotonic() - began < TIMEOUT / 6
            worker.join()


def test_nothing_is_sent_to_a_file_after_a_commit_whose_outcome_is_unknown(
    server: SftpServer, storage: SftpStorage, url: str
) -> None:
    """A late cut would remove a record that the next start has found, and went on from."""
    handle = storage.create("segment-1")
    handle.extend(0, 4096)
    handle.write_durably(0, b"first ")
    with frozen([server.everything()[0], *server.sessions()]):
        with pytest.raises(TimeoutError):
            handle.write_durably(6, b"second ")
        with pytest.raises(OSError, match="may still come"):
            handle.truncate(6)
        with pytest.raises(OSError, match="may still come"):
            handle.write_durably(6, b"other")
    wait_until(lambda: b"second" in (here(url) / "segment-1").read_bytes(), "the late write")
    handle.close()


# Zeros


def test_zeros_in_doubt_keep_records_out_and_the_log_goes_on_in_another_segment(
    server: SftpServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ = created(opener(url))
    writer, history = open_().open(silent, "session"), History(1)
    storage = writer.storage
    assert isinstance(storage, SftpStorage)
    segment = writer._segments.current
    with frozen_sessions(server, storage) as go_on:
        monkeypatch.setattr(type(writer._options), "preallocated", lambda self, end: 1 << 20)
        writer.preallocate()  # given up after a while: the zeros are in doubt
        assert segment.handle.safe_to == segment.allocated
        for number in range(60):
            writer.append(change(history.note(noise(5000, number))))
            writer.preallocate()
        assert writer.segment_index > segment.index
        go_on()
    for _ in range(3):
        writer.append(change(history.note()))
    position = writer.position
    writer.close()
    assert open_().open(silent, "next").position.data_version == position.data_version


def test_record_that_waits_for_zeros_that_come_in_doubt_goes_into_another_segment(
    server: SftpServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did not fit into the preallocated space. The node stopped, in 1 of 2 streams whose connections were cut."""
    open_ = created(opener(url))
    writer, history = open_().open(silent, "session"), History(1)
    storage, segment = writer.storage, writer._segments.current
    assert isinstance(storage, SftpStorage)
    with frozen_sessions(server, storage):
        monkeypatch.setattr(type(writer._options), "preallocated", lambda self, end: 1 << 20)
        worker = threading.Thread(target=writer.preallocate)
        worker.start()
        wait_until(segment._preallocating.locked, "the preallocating")
        writer.append(change(history.note(noise(300_000, 1))))
        worker.join()
        assert writer.segment_index > segment.index
        writer.append(change(history.note()))
    position = writer.position
    writer.close()
    assert open_().open(silent, "next").position.data_version == position.data_version


def test_zeros_in_doubt_keep_records_out_although_the_file_cannot_be_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without hard links, preallocating failed with another error, and the next records were written into the doubt."""
    server = OpenSsh(tmp_path, subsystem="internal-sftp -P hardlink")
    server.start()
    open_ = created(opener(server.url("lightning.bkp", timeout=str(TIMEOUT))))
    writer, history = open_().open(silent, "session"), History(1)
    storage, segment = writer.storage, writer._segments.current
    assert isinstance(storage, SftpStorage)
    try:
        with frozen_sessions(server, storage) as go_on:
            monkeypatch.setattr(type(writer._options), "preallocated", lambda self, end: 140_000)
            writer.preallocate()
            assert segment.handle.safe_to == segment.allocated
            for number in range(40):
                writer.append(change(history.note(noise(5000, number))))
                with suppress(OSError):  # the first file cannot be opened again, to be shortened
                    writer.preallocate()
            assert writer.segment_index > segment.index
            go_on()
        position = writer.position
        writer.close()
        assert open_().open(silent, "next").position.data_version == position.data_version
    finally:
        server.kill()


# Names


def test_late_removal_does_not_remove_the_next_file_of_that_name(
    server: SftpServer, storage: SftpStorage, url: str
) -> None:
    put(storage, "segment-7", b"old")
    storage.remove("segment-7")  # the trash of this connection exists now
    put(storage, "segment-7", b"old")
    assert storage.seal("segment-7")
    with frozen_sessions(server, storage) as go_on:
        worker = threading.Thread(target=lambda: storage._names.remove("segment-7"))
        worker.start()
        worker.join(TIMEOUT)  # another process of the server has done it
        assert storage.names() == []
        put(storage, "b.tmp", b"new")
        storage.rename_new("b.tmp", "segment-7")
        storage.sync_names()
        go_on()
    assert (here(url) / "segment-7").read_bytes() == b"new"


def test_late_removal_by_a_dead_writer_does_not_remove_its_successors_file(
    server: SftpServer, storage: SftpStorage, url: str
) -> None:
    put(storage, "segment-7", b"old")
    put(storage, "segment-8", b"")
    storage.remove("segment-8")
    taker = elsewhere(url)
    taker.names()
    with frozen_sessions(server, storage) as go_on:
        _send_only(storage, lambda: storage._names.remove("segment-7"))
        taker.stop_late_changes()
        taker.remove("segment-7")
        put(taker, "b.tmp", b"new")
        taker.rename_new("b.tmp", "segment-7")
        go_on()
    assert (here(url) / "segment-7").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["manifest", "segment-7"])
def test_late_renaming_by_a_dead_writer_changes_nothing_after_a_take_over(
    name: str, server: SftpServer, storage: SftpStorage, url: str
) -> None:
    put(storage, "a.tmp", b"of the dead one")
    before = storage._attributes("a.tmp")
    taker = elsewhere(url)
    taker.names()
    with frozen_sessions(server, storage) as go_on:
        if name == "manifest":
            _send_only(storage, lambda: storage._names.rename("a.tmp", name, before))
        else:
            _send_only(storage, lambda: storage._names.rename_new("a.tmp", name))
        taker.stop_late_changes()
        taker.publish(name, b"of the living one")
        if name == "segment-7":
            taker.remove(name)
        go_on()
    assert not (here(url) / "a.tmp").exists()
    if name == "manifest":
        assert (here(url) / name).read_bytes() == b"of the living one"
    else:
        assert not (here(url) / name).exists()


def test_renaming_in_doubt_never_publishes_the_beginning_of_another_file(
    server: SftpServer, storage: SftpStorage, url: str
) -> None:
    """The session marker is published again and again: its temporary name is another one each time."""
    storage.publish("session", b"one")
    used = storage.temporary("session")
    with frozen_sessions(server, storage) as go_on:
        storage.publish("session", b"two")
        assert storage.temporary("session") != used
        storage.publish("session", b"three")
        go_on()
    assert storage.read_small("session") == b"three"
    assert storage.names() == ["session"]


def _send_only(storage: SftpStorage, operation: Callable[[], object]) -> None:
    """Send what this operation sends to a process that does not answer; then this writer dies."""
    session = storage._rest.do(lambda session: session)
    session.until = time.monotonic() + 1
    connection, until = session.connection, time.monotonic() + 1

    def give_up(why: BaseException) -> None:
        raise OSError("this writer is dead") from why

    session.reconnect = give_up  # type: ignore[method-assign]
    worker = threading.Thread(target=lambda: _quietly(operation), daemon=True)
    worker.start()
    worker.join(TIMEOUT)
    assert time.monotonic() > until
    del session.reconnect
    connection.close()


def _quietly(operation: Callable[[], object]) -> None:
    with suppress(OSError):
        operation()


# Files that are open


def test_reconnected_writer_never_writes_to_the_file_that_replaced_its_own(
    server: SftpServer, storage: SftpStorage, url: str
) -> None:
    handle = storage.create("a.tmp")
    handle.extend(0, 4096)
    storage.rename_new("a.tmp", "segment-1")
    handle.write_durably(0, b"first ")
    _file(here(url) / "other", b"another").replace(here(url) / "segment-1")
    server.drop_sessions()
    handle.write_durably(6, b"second ")  # its own file has no public name any more, but is not sealed
    assert (here(url) / "segment-1").read_bytes() == b"another"
    handle.close()
    assert hidden(url) == []


def test_commit_to_a_file_that_was_sealed_since_the_last_one_is_refused(storage: SftpStorage, url: str) -> None:
    """Over the same connection: the answer to the commit alone says it."""
    with closing(storage.create("segment-1")) as handle:
        handle.write_durably(0, b"first ")
        assert elsewhere(url).seal("segment-1")
        with pytest.raises(FileFenced):
            handle.write_durably(6, b"second ")


def test_reconnected_writer_of_a_sealed_file_is_fenced(server: SftpServer, storage: SftpStorage, url: str) -> None:
    handle = storage.create("a.tmp")
    handle.extend(0, 4096)
    storage.rename_new("a.tmp", "segment-1")
    handle.write_durably(0, b"first ")
    assert elsewhere(url).seal("segment-1")
    assert handle.is_fenced()
    server.drop_sessions()
    with pytest.raises(FileFenced):
        handle.write_durably(6, b"second ")
    handle.close()


def test_names_that_dead_writers_left_are_removed_at_a_take_over(server: SftpServer, url: str) -> None:
    open_ = created(opener(url))
    open_().open(silent, "one")  # never closed
    left = hidden(url)
    assert left
    second = opener(url.replace(f"timeout={TIMEOUT}", "timeout=60"))().open(silent, "two")
    now = hidden(url)
    assert not set(left) & set(now)
    second.close()
    assert hidden(url) == []


def test_writer_whose_commit_got_no_answer_closes_at_once_and_its_hidden_names_are_removed_later(
    server: SftpServer, url: str
) -> None:
    """It asked the server to remove the hidden name of each open file, and waited for the whole timeout each time."""
    writer, history = created(opener(url))().open(silent, "session"), History(1)
    writer.append(change(history.first()))
    writer._segments.prepare()
    with frozen([server.everything()[0], *server.sessions()]):
        with pytest.raises(BackupError, match="not answered in time"):
            writer.append(change(history.note()))
        began = time.monotonic()
        writer.close()
        assert time.monotonic() - began < TIMEOUT / 5
    assert len(hidden(url)) == 2
    put(writer.storage, "a.tmp", b"text")
    writer.storage.rename("a.tmp", "a")  # the next change of a name in this process
    assert hidden(url) == []


def test_reader_goes_on_after_a_reconnect_and_never_in_another_file(
    server: SftpServer, storage: SftpStorage, url: str
) -> None:
    put(storage, "snapshot", b"one" * 1000)
    with closing(storage.open("snapshot")) as reader:
        server.drop_sessions()
        assert reader.read(2997, 10) == b"one"
        _file(here(url) / "other", b"two" * 1000).replace(here(url) / "snapshot")
        server.drop_sessions()
        with pytest.raises(OSError, match="another file"):
            reader.read(0, 3)


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# Two writers


def test_frozen_writers_last_change_is_not_acknowledged_and_its_late_write_is_ignored(
    server: SftpServer, url: str
) -> None:
    """The whole server is frozen for the first writer; the second one has taken over when it goes on."""
    open_ = created(opener(url))
    first, history = open_().open(silent, "first"), History(1)
    for _ in range(3):
        first.append(change(history.note()))
    storage = first.storage
    assert isinstance(storage, SftpStorage)
    second_opener = opener(url.replace(f"timeout={TIMEOUT}", "timeout=60"))
    second_opener().storage.names()
    with frozen_sessions(server, storage, commits=True) as go_on:
        error: list[BaseException] = []

        def commit() -> None:
            try:
                first.append(change(history.note()))
            except BackupError as raised:
                error.append(raised)

        worker = threading.Thread(target=commit)
        worker.start()
        time.sleep(0.5)
        second = second_opener().open(silent, "second")
        assert second.position.data_version == 4
        other = History(second.position.data_version)
        for _ in range(3):
            second.append(change(other.note("of the second")))
        worker.join(3 * TIMEOUT)
        assert error, "the first writer acknowledged a change that the second one has not seen"
        go_on()
    for _ in range(3):
        second.append(change(other.note("of the second")))
    second.close()
    assert second_opener().open(silent, "third").position.data_version == 10
    assert notes(second_opener())


# A commit that the server refuses, and does not answer any more


def _refuse_commits(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def refuse(session: Session, handle: bytes, offset: int, data: bytes, name: str) -> Attributes:
        raise error

    monkeypatch.setattr(Session, "commit", refuse)


def test_refused_commit_and_all_that_follows_it_take_one_timeout(
    server: SftpServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server was asked for its free space, then to cut the record off, then to remove a name: a timeout each."""
    writer, history = created(opener(url))().open(silent, "session"), History(1)
    writer.append(change(history.note()))
    _refuse_commits(monkeypatch, Failure("Failure", "segment"))
    with frozen([server.everything()[0], *server.sessions()]):
        began = time.monotonic()
        with pytest.raises(BackupError, match="Failure"):
            writer.append(change(history.note()))
        writer.close()
        assert time.monotonic() - began < 1.5 * TIMEOUT


def test_fenced_writer_says_so_although_the_server_does_not_answer_who_it_was(
    server: SftpServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "FOR_A_MESSAGE", 1.0)
    writer, history = created(opener(url))().open(silent, "session"), History(1)
    writer.append(change(history.note()))
    _refuse_commits(monkeypatch, FileFenced("segment"))
    with frozen([server.everything()[0], *server.sessions()]):
        began = time.monotonic()
        with pytest.raises(Fenced, match="another process has taken over"):
            writer.append(change(history.note()))
        assert time.monotonic() - began < TIMEOUT / 2
    writer.close()
