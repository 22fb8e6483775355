"""The sync point says that the database holds the backup's last change: soon after each commit, and never wrongly."""

import errno
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from backends import backup_at
from backends.base import Report
from backends.change import DATABASE_HEADER, Change
from backends.log.writer.writer import Writer
from backends.node.memory import sync_point_of
from backends.node.sync_point import OpenSyncPoint, SavedEnd, look, read_sync_point, write_sync_point
from backends.sqlite.copy import nothing
from backends.sqlite.source import inspect
from plugin import sync_point as module
from plugin.doubt import record_failure, why_doubted
from plugin.sync_point import MAX_DEAD, SyncPointThread
from tests.fake_lightningd import (
    Call,
    Database,
    History,
    SeparateDatabase,
    committed_version,
    contents,
    run_without_plugin,
    transaction,
)

NAME = "lightningd.sqlite3"


class Hook:
    """What the sync point sees of the hook, and lightningd's calls to it."""

    def __init__(self, directory: Path, backup_id: str, writer: Writer) -> None:
        self.directory, self.backup_id = directory, backup_id
        self.writer: Writer | None = writer
        self.refusal: str | None = None
        self.database_header: bytes | None = None
        self.reading_database = threading.Lock()
        self.noting = threading.Lock()
        self.begins: SavedEnd | None = None
        self.said: list[tuple[str, str]] = []
        self.report: Report = lambda level, line: self.said.append((level, line))
        self.begun = -1e9  # this lightningd is seen alive by its pipe alone
        self._file = os.open(directory / NAME, os.O_RDONLY | os.O_CREAT, 0o600)

    def ask(self, call: Call) -> None:
        """What the hook does between call and answer."""
        self.database_header = os.pread(self._file, DATABASE_HEADER, 0)
        assert self.writer is not None
        self.writer.append(Change(call.data_version, call.writes))

    def close(self) -> None:
        os.close(self._file)


class Rig:
    """A node's directory, its backup, a pipe that lightningd holds, and a sync point that looks when it is told to."""

    def __init__(self, root: Path) -> None:
        self.root, self.directory = root, root / "regtest"
        self.directory.mkdir()
        backup = backup_at((root / "lightning.bkp").as_uri())
        backup.create(nothing())
        self.writer = backup.open(lambda level, line: None, "a session")
        self.hook = Hook(self.directory, backup.id(), self.writer)
        self.input, self.lightningd = os.pipe()
        self.points = SyncPointThread(self.hook, self.hook, self.input)
        self.history = History()

    def doubt(self) -> str | None:
        """Why a start would doubt the database, if both were killed at this moment; None if it would not."""
        return why_doubted(self.directory, look(self.directory), self.hook.backup_id, self.writer.position)

    def noted(self) -> bool:
        """Whether there is a note about the backup's very last change."""
        sync_point = read_sync_point(self.directory)
        return sync_point is not None and sync_point.sequence == self.writer.position.sequence

    def commit(self, database: Database | SeparateDatabase, call: Call) -> None:
        database.execute(call.writes, transaction=True)
        self.hook.ask(call)
        database.commit()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.hook.close()
    os.close(made.input)


@pytest.fixture(params=["OFF", "FULL"])
def database(request: pytest.FixtureRequest, rig: Rig) -> Iterator[SeparateDatabase]:
    """The node's database with its schema, at version 1. In a process of its own, as lightningd's is."""
    made = SeparateDatabase(rig.directory, synchronous=request.param)
    rig.commit(made, rig.history.first())
    yield made
    made.die()


# What is noted


def test_commit_is_noted_at_next_look(rig: Rig, database: SeparateDatabase) -> None:
    for _ in range(5):
        rig.commit(database, rig.history.note())
        assert rig.doubt() is not None
        rig.points.look()
        assert rig.doubt() is None


def test_very_first_commit_of_a_node_is_noted(rig: Rig, database: SeparateDatabase) -> None:
    rig.points.look()
    assert rig.doubt() is None


def test_commit_is_noted_while_the_next_transaction_runs(rig: Rig) -> None:
    """Its journal is there, but nothing of it is on the disk or in the database."""
    with closing(Database(rig.directory, synchronous="FULL")) as database:
        rig.commit(database, rig.history.first())
        database.execute(rig.history.note().writes, transaction=True)
        assert (rig.directory / f"{NAME}-journal").exists()
        rig.points.look()
        assert rig.noted()
        database.die()
    assert rig.doubt() is None


def test_commit_to_a_database_behind_a_link_is_noted(rig: Rig, tmp_path: Path) -> None:
    """SQLite puts the journal beside the file that the link leads to."""
    path = rig.directory / NAME
    path.rename(tmp_path / "elsewhere.sqlite3")
    path.symlink_to(tmp_path / "elsewhere.sqlite3")
    with closing(Database(rig.directory)) as database:
        rig.commit(database, rig.history.first())
        rig.points.look()
        assert rig.doubt() is None
        call = rig.history.note()
        database.execute(call.writes, transaction=True)
        rig.hook.ask(call)
        rig.points.look()
        assert rig.doubt() is not None


def test_end_of_session_notes_the_last_commit(rig: Rig, database: SeparateDatabase) -> None:
    rig.commit(database, rig.history.note())
    rig.points.stop()
    assert rig.doubt() is None


def test_thread_notes_commit_within_a_moment(rig: Rig, database: SeparateDatabase) -> None:
    rig.points.start()
    for _ in range(10):
        rig.commit(database, rig.history.note())
        until = time.monotonic() + 5
        while rig.doubt() is not None:
            assert time.monotonic() < until
            time.sleep(0.001)
    rig.points.stop()


# What must not be noted


def test_answered_and_uncommitted_change_is_not_noted(rig: Rig, database: SeparateDatabase) -> None:
    """Not now, and not when a run without the plugin has committed another change with its version."""
    rig.commit(database, rig.history.note())
    rig.points.look()
    call = rig.history.note("one")
    database.execute(call.writes, transaction=True)
    rig.hook.ask(call)
    rig.points.look()
    assert rig.doubt() is not None
    database.die()
    rig.points.look()
    assert rig.doubt() is not None
    run_without_plugin(
        rig.directory, [transaction(call.data_version, "DELETE FROM vars WHERE substr(name, 1, 4) = 'note'")]
    )
    assert rig.doubt() is not None


def test_change_by_another_run_after_lightningd_died_is_not_noted(rig: Rig, database: SeparateDatabase) -> None:
    """The other change has the version of the one that was never committed. This plugin was frozen meanwhile, and
    wakes."""
    rig.points.look()
    call = rig.history.note("one")
    database.execute(call.writes, transaction=True)
    rig.hook.ask(call)
    rig.points.look()
    os.close(rig.lightningd)
    database.die()
    run_without_plugin(
        rig.directory, [transaction(call.data_version, "DELETE FROM vars WHERE substr(name, 1, 4) = 'note'")]
    )
    time.sleep(MAX_DEAD)
    rig.points.look()
    rig.points.stop()
    assert not rig.noted()


def test_change_committed_before_lightningd_died_is_noted(rig: Rig, database: SeparateDatabase) -> None:
    rig.points.look()
    rig.commit(database, rig.history.note())
    os.close(rig.lightningd)
    database.die()
    rig.points.stop()
    assert rig.doubt() is None


def test_nothing_is_noted_once_another_lightningd_has_started(
    rig: Rig, database: SeparateDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "lightningd_has_started", lambda directory: directory == rig.directory)
    rig.points.look()
    rig.commit(database, rig.history.note())
    os.close(rig.lightningd)
    rig.points.stop()
    assert not rig.noted()


def test_two_commits_since_the_last_call_are_not_noted(rig: Rig, database: SeparateDatabase) -> None:
    """lightningd goes on without its plugin: the second one was in no hook."""
    rig.commit(database, rig.history.note())
    late = rig.history.note()
    database.execute(late.writes, transaction=True)
    database.commit()
    rig.points.look()
    assert not rig.noted()


def test_commit_whose_header_could_not_be_read_is_not_noted(rig: Rig, database: SeparateDatabase) -> None:
    rig.commit(database, rig.history.note())
    rig.hook.database_header = None
    rig.points.look()
    assert not rig.noted()


def test_commit_to_a_replaced_database_file_is_not_noted(rig: Rig, database: SeparateDatabase) -> None:
    """lightningd would work on the old one, and the next start finds the new one."""
    rig.points.look()
    rig.commit(database, rig.history.note())
    shutil.copy(rig.directory / NAME, rig.directory / "copy")
    (rig.directory / "copy").rename(rig.directory / NAME)
    rig.points.look()
    assert not rig.noted()


def test_recorded_failure_is_not_overwritten_by_later_notes(rig: Rig, database: SeparateDatabase) -> None:
    rig.points.look()
    rig.commit(database, rig.history.note())
    rig.hook.refusal = "the disk is full"
    record_failure(rig.directory, rig.hook.backup_id, rig.writer.position, "the disk is full")
    rig.points.look()
    rig.points.stop()
    sync_point = read_sync_point(rig.directory)
    assert sync_point is not None
    assert sync_point.failure == "the disk is full"


def test_failure_recorded_during_a_look_is_not_overwritten(
    rig: Rig, database: SeparateDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look has found that nothing was refused, and writes a moment later."""
    rig.points.look()
    rig.commit(database, rig.history.note())
    write = OpenSyncPoint.write

    def slowly(*arguments: object) -> None:
        rig.hook.refusal = "the disk is full"
        record_failure(rig.directory, rig.hook.backup_id, rig.writer.position, "the disk is full")
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(OpenSyncPoint, "write", slowly)
    rig.points.look()
    assert "the disk is full" in str(rig.doubt())


def test_failure_recorded_before_the_first_note_is_not_overwritten(
    rig: Rig, database: SeparateDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that is then opened for writing is the one with the failure in it."""
    opened = OpenSyncPoint.__init__

    def slowly(file: OpenSyncPoint, directory: Path) -> None:
        rig.hook.refusal = "the disk is full"
        record_failure(rig.directory, rig.hook.backup_id, rig.writer.position, "the disk is full")
        opened(file, directory)

    monkeypatch.setattr(OpenSyncPoint, "__init__", slowly)
    rig.points.look()
    assert "the disk is full" in str(rig.doubt())


class _Watched(apsw.VFS):
    """SQLite's files, where something happens before each step that changes one."""

    def __init__(self, step: Callable[[], None]) -> None:
        self.step = step
        super().__init__("watched", "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> "_WatchedFile":  # noqa: N802
        return _WatchedFile(self.step, name, flags)

    def xDelete(self, name: str, sync: bool) -> None:  # noqa: N802
        self.step()
        super().xDelete(name, sync)


class _WatchedFile(apsw.VFSFile):
    def __init__(self, step: Callable[[], None], name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self.step = step
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self.step()
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self.step()
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self.step()
        super().xSync(flags)


@pytest.mark.parametrize("cache_pages", [-2000, 10], ids=["in one go", "with a cache that spills"])
@pytest.mark.parametrize("synchronous", ["OFF", "FULL"])
def test_notes_at_every_step_of_a_commit_are_true_after_a_kill(rig: Rig, synchronous: str, cache_pages: int) -> None:
    """Whatever is noted there is true of the database that is left when both are killed at that step."""
    noted: list[str | None] = []

    def step() -> None:
        rig.points.look()
        if rig.doubt() is None:
            noted.append(None)
            assert version_after_a_kill(rig) == rig.writer.position.data_version

    watched = _Watched(step)
    with closing(apsw.Connection(str(rig.directory / NAME), vfs="watched")) as connection:
        connection.execute(f"PRAGMA synchronous = {synchronous}; PRAGMA cache_size = {cache_pages}")
        rows = "UPDATE vars SET blobval = randomblob(20000) WHERE substr(name, 1, 3) = 'big'"
        history = rig.history
        calls = [history.first(), history.big(), *history.notes(3), history.transaction(rows), history.note()]
        for call in calls:
            connection.execute("BEGIN")
            for sql in call.writes:
                connection.execute(sql)
            rig.hook.ask(call)
            connection.execute("COMMIT")
        rig.points.look()
        assert rig.doubt() is None
    del watched
    if synchronous == "FULL":
        assert noted, "between two transactions there are steps at which the first one is known to be committed"


def version_after_a_kill(rig: Rig) -> int | None:
    """The version of the database after whoever opens it next has rolled back a hot journal."""
    copy = rig.root / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for path in rig.directory.glob(f"{NAME}*"):
        shutil.copy(path, copy)
    return committed_version(copy)


# At the next start


def test_sync_point_beside_a_hot_journal_proves_nothing(rig: Rig, database: SeparateDatabase) -> None:
    """A power cut brings the journal of the last commit back, beside a database file that looks as it was noted."""
    journal = rig.directory / f"{NAME}-journal"
    rig.points.look()
    before = contents(rig.directory / NAME)
    call = rig.history.note()
    database.execute(call.writes, transaction=True)
    rig.hook.ask(call)
    kept = journal_of_commit(rig, call)
    database.commit()
    rig.points.look()
    assert rig.doubt() is None
    journal.write_bytes(kept)
    assert rig.doubt() is not None
    database.die()
    assert contents(rig.directory / NAME) == before  # so would lightningd find it


def journal_of_commit(rig: Rig, call: Call) -> bytes:
    """What the journal of this call holds when all of it is on the disk; made with a copy."""
    found: list[bytes] = []
    copy = rig.root / "twin" / NAME
    copy.parent.mkdir()
    shutil.copy(rig.directory / NAME, copy)

    def step() -> None:
        path = copy.with_name(f"{NAME}-journal")
        found.append(path.read_bytes() if path.exists() else b"")

    watched = _Watched(step)
    with closing(apsw.Connection(str(copy), vfs="watched")) as connection:
        connection.execute("BEGIN")
        for sql in call.writes:
            connection.execute(sql)
        connection.execute("COMMIT")
    del watched
    return found[-1]


def test_sync_point_beside_an_empty_or_zeroed_journal_is_valid(rig: Rig, database: SeparateDatabase) -> None:
    """Left by a kill before the next transaction wrote anything, or zeroed as SQLite may do instead of removing it."""
    rig.points.look()
    (rig.directory / f"{NAME}-journal").write_bytes(bytes(512))
    assert rig.doubt() is None


# The slow way


def test_commit_in_wal_mode_is_noted_when_idle(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """In WAL mode the database's header does not change."""
    run_without_plugin(rig.directory, [])
    with closing(sqlite3.connect(rig.directory / NAME)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    database = SeparateDatabase(rig.directory)
    rig.commit(database, rig.history.first())
    rig.points.look()
    assert not rig.noted()
    monkeypatch.setattr(module, "IDLE", 0.0)
    rig.points.look()
    assert rig.doubt() is None
    rig.commit(database, rig.history.note())
    assert rig.doubt() is not None
    database.die()


def test_lone_pragma_is_noted_when_idle(rig: Rig, database: SeparateDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lone PRAGMA leaves the database file as it was."""
    pragma = rig.history.foreign_keys(on=False)
    rig.hook.ask(pragma)
    database.execute(pragma.writes, transaction=False)
    rig.points.look()
    assert not rig.noted()
    monkeypatch.setattr(module, "IDLE", 0.0)
    rig.points.look()
    assert rig.doubt() is None


def test_sync_point_opens_an_unchanged_database_once(
    rig: Rig, database: SeparateDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To learn whose it is; never again while nothing changes."""
    opened: list[Path] = []

    def counted(path: Path, *, writable: bool) -> object:
        opened.append(path)
        return inspect(path, writable=writable)

    monkeypatch.setattr(module, "inspect", counted)
    monkeypatch.setattr(module, "IDLE", 0.0)
    for _ in range(5):
        rig.points.look()
    assert len(opened) == 1


# Writing it down


def test_note_costs_no_sync_before_the_node_is_idle(
    rig: Rig, database: SeparateDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[OpenSyncPoint] = []

    def sync(file: OpenSyncPoint) -> None:
        synced.append(file)

    monkeypatch.setattr(OpenSyncPoint, "sync", sync)
    inode = 0
    for _ in range(10):
        rig.commit(database, rig.history.note())
        rig.points.look()
        found = (rig.directory / "backup.witness").stat()
        assert inode in (0, found.st_ino)
        inode = found.st_ino
    assert synced == []
    monkeypatch.setattr(module, "IDLE", 0.0)
    for _ in range(3):
        rig.points.look()
    assert len(synced) == 1


def test_node_directory_is_synced_soon_after_commits_and_not_too_often(
    rig: Rig, database: SeparateDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(module, "sync_directory", synced.append)
    began = time.monotonic()
    for _ in range(40):
        rig.commit(database, rig.history.note())
        rig.points.look()
    assert 1 <= len(synced) <= 1 + (time.monotonic() - began) / module.SYNC_EVERY
    monkeypatch.setattr(module, "SYNC_EVERY", 0.0)
    rig.points.look()
    done = len(synced)
    rig.points.look()
    assert len(synced) == done
    assert set(synced) == {rig.directory}


def test_directory_that_cannot_be_synced_is_logged_once(
    rig: Rig, database: SeparateDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(directory: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module, "sync_directory", fails)
    monkeypatch.setattr(module, "SYNC_EVERY", 0.0)
    for _ in range(3):
        rig.commit(database, rig.history.note())
        rig.points.look()
        assert rig.doubt() is None
    [(level, line)] = rig.hook.said
    assert level == "unusual"
    assert "cannot be synced (Input/output error)" in line


def test_longer_note_of_an_earlier_run_is_replaced(rig: Rig, database: SeparateDatabase) -> None:
    write_sync_point(rig.directory, sync_point_of("0" * 32, rig.writer.position, None, "x" * 4000))
    (rig.directory / "backup.witness").open("ab").write(b"more" * 2000)
    rig.points.look()
    assert rig.doubt() is None
