"""Reading a node's database: beside the running node, after a crash, and when it is not what it should be."""

import resource
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from backends.base import Pieces, SnapshotSource
from backends.errors import BackupError
from backends.sqlite import connection as connection_module
from backends.sqlite.compare import compare
from backends.sqlite.copy import watched
from backends.sqlite.source import Busy, Corrupt, DatabaseState, copy_database, inspect
from tests.sqlite.conftest import Recording
from tests.sqlite.databases import NODE, VARS, beside, execute, made, node, rows, with_hot_journal, with_wal

STATE = DatabaseState(data_version=7, node_id="02ab", is_lightningd=True, empty=False)


@pytest.fixture(autouse=True)
def short_busy_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "BUSY_TIMEOUT", 20)


def test_recorded_database_is_inspected_and_copied(fresh_channel: Recording, tmp_path: Path) -> None:
    state = inspect(fresh_channel.after, writable=False)
    assert (state.data_version, state.is_lightningd, state.empty) == (1008, True, False)
    assert state.node_id is not None and len(state.node_id) == 66
    assert copy_database(fresh_channel.after, tmp_path / "copy", writable=True) == state
    assert compare(fresh_channel.after, tmp_path / "copy").differences == []


def test_database_before_upgrade_is_inspected_and_copied(upgrade: Recording, tmp_path: Path) -> None:
    assert upgrade.before is not None
    state = copy_database(upgrade.before, tmp_path / "copy", writable=False)
    assert state.is_lightningd and not state.empty
    assert (state.data_version is None) == (rows(upgrade.before, "SELECT version FROM version") == [(89,)])
    assert compare(upgrade.before, tmp_path / "copy").differences == []


@pytest.mark.parametrize("writable", [False, True])
def test_copy_of_database_is_private_and_has_nothing_beside_it(tmp_path: Path, writable: bool) -> None:
    path = node(tmp_path / "lightningd.sqlite3")
    target = tmp_path / "copy" / "copy.sqlite3"
    target.parent.mkdir()
    assert copy_database(path, target, writable=writable) == STATE
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(target.parent.iterdir()) == [target]


def test_progress_of_copy_reaches_all_pages(tmp_path: Path) -> None:
    path = node(tmp_path / "db", "CREATE TABLE large (x)", "INSERT INTO large VALUES (zeroblob(10000000))")
    seen: list[tuple[int, int]] = []
    copy_database(path, tmp_path / "copy", writable=False, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 2 and seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == rows(path, "PRAGMA page_count")[0][0]


def test_copy_beside_open_transaction_holds_committed_content(tmp_path: Path) -> None:
    path = node(tmp_path / "db")
    with closing(apsw.Connection(str(path))) as lightningd:
        execute(lightningd, "BEGIN", "UPDATE vars SET intval = 8 WHERE name = 'data_version'")
        assert copy_database(path, tmp_path / "copy", writable=False) == STATE
        execute(lightningd, "COMMIT")
    assert inspect(path, writable=False).data_version == 8


def test_copy_of_database_being_written_is_refused_and_says_to_stop_the_node(tmp_path: Path) -> None:
    path = node(tmp_path / "db")
    with closing(apsw.Connection(str(path))) as lightningd:
        execute(lightningd, "BEGIN EXCLUSIVE")
        with pytest.raises(Busy, match=r"Stop the node, then try again"):
            copy_database(path, tmp_path / "copy", writable=False)
        with pytest.raises(Busy):
            inspect(path, writable=False)
    assert not (tmp_path / "copy").exists()


def test_node_cannot_commit_between_two_steps_of_a_copy(tmp_path: Path) -> None:
    path = node(tmp_path / "db", "CREATE TABLE large (x)", "INSERT INTO large VALUES (zeroblob(10000000))")
    refused: list[str] = []
    with closing(apsw.Connection(str(path))) as lightningd:

        def commit(done: int, total: int) -> None:
            execute(lightningd, "BEGIN", "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version'")
            with pytest.raises(apsw.BusyError) as error:
                execute(lightningd, "COMMIT")
            refused.append(str(error.value))
            execute(lightningd, "ROLLBACK")

        assert copy_database(path, tmp_path / "copy", writable=False, progress=commit) == STATE
    assert len(refused) > 2


def test_copy_rolls_back_hot_journal(tmp_path: Path) -> None:
    path = with_hot_journal(tmp_path)
    assert copy_database(path, tmp_path / "copy", writable=True) == STATE
    assert rows(tmp_path / "copy", "SELECT count(*) FROM blobs WHERE blob = zeroblob(1000)") == [(100,)]
    assert list(beside(path)) == [path.name]


def test_read_only_copy_refuses_hot_journal_and_changes_nothing(tmp_path: Path) -> None:
    path = with_hot_journal(tmp_path)
    before = beside(path)
    with pytest.raises(BackupError, match=r"middle of a write.*try again"):
        copy_database(path, tmp_path / "copy", writable=False)
    assert beside(path) == before and not (tmp_path / "copy").exists()


def test_copy_of_database_with_wal_holds_its_rows_without_wal(tmp_path: Path) -> None:
    path = with_wal(tmp_path)
    target = tmp_path / "copy" / "copy.sqlite3"
    target.parent.mkdir()
    assert copy_database(path, target, writable=True) == STATE
    assert list(target.parent.iterdir()) == [target]
    assert rows(target, "SELECT count(*) FROM blobs") == [(100,)]
    assert rows(target, "PRAGMA journal_mode") == [("delete",)]


def test_copy_beside_running_node_with_wal_holds_committed_content(tmp_path: Path) -> None:
    path = node(tmp_path / "db", "PRAGMA journal_mode = WAL")
    with closing(apsw.Connection(str(path))) as lightningd:
        execute(lightningd, "UPDATE vars SET intval = 8 WHERE name = 'data_version'")
        execute(lightningd, "BEGIN", "UPDATE vars SET intval = 9 WHERE name = 'data_version'")
        assert copy_database(path, tmp_path / "copy", writable=False).data_version == 8


def test_copy_of_missing_database_is_refused_and_creates_nothing(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path, tmp_path / "no" / "where"):
        with pytest.raises(BackupError, match="no database"):
            inspect(path, writable=True)
        with pytest.raises(BackupError, match="no database"):
            copy_database(path, tmp_path / "copy", writable=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_copy_keeps_the_page_size(tmp_path: Path, page_size: int) -> None:
    path = made(tmp_path / "db", f"PRAGMA page_size = {page_size}", *NODE)
    assert copy_database(path, tmp_path / "copy", writable=False) == STATE
    assert rows(tmp_path / "copy", "PRAGMA page_size") == [(page_size,)]


def test_empty_file_is_the_database_of_a_node_that_never_started(tmp_path: Path) -> None:
    path = tmp_path / "db"
    path.touch()
    state = copy_database(path, tmp_path / "copy", writable=True)
    assert state == inspect(path, writable=False) == DatabaseState(None, None, is_lightningd=False, empty=True)


def test_database_whose_tables_were_all_dropped_is_empty(tmp_path: Path) -> None:
    path = made(tmp_path / "db", "CREATE TABLE t (x)", "DROP TABLE t")
    assert copy_database(path, tmp_path / "copy", writable=True).empty


def test_file_that_is_no_database_is_named_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "lightningd.sqlite3"
    path.write_bytes(b"alas, no database at all" * 100)
    with pytest.raises(Corrupt, match=r"lightningd\.sqlite3 is corrupt: file is not a database; nothing was written"):
        copy_database(path, tmp_path / "copy", writable=True)
    with pytest.raises(Corrupt):
        inspect(path, writable=False)
    assert not (tmp_path / "copy").exists()


def test_copy_of_database_with_damaged_index_is_refused_as_corrupt(tmp_path: Path) -> None:
    path = node(tmp_path / "db", "CREATE TABLE t (x TEXT UNIQUE)", "INSERT INTO t VALUES ('needle'), ('other')")
    _replace_last(path, b"needle", b"noodle")
    with pytest.raises(Corrupt, match=r"/db is corrupt: .*missing from index.*; nothing was written"):
        copy_database(path, tmp_path / "copy", writable=False)
    assert not (tmp_path / "copy").exists()


def test_copy_of_truncated_database_is_refused_as_corrupt(tmp_path: Path) -> None:
    path = node(tmp_path / "db", "CREATE TABLE t (x)", "INSERT INTO t VALUES (zeroblob(100000))")
    with path.open("r+b") as file:
        file.truncate(40000)
    with pytest.raises(Corrupt):
        copy_database(path, tmp_path / "copy", writable=False)
    assert not (tmp_path / "copy").exists()


def test_copy_does_not_overwrite_an_existing_file(tmp_path: Path) -> None:
    target = tmp_path / "copy"
    target.write_text("mine")
    with pytest.raises(BackupError, match="could not be created"):
        copy_database(node(tmp_path / "db"), target, writable=False)
    assert target.read_text() == "mine"


def test_copy_refused_by_the_disk_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on file sizes plays the disk that refuses a write."""
    source = node(tmp_path / "db", "CREATE TABLE big (x)", "INSERT INTO big VALUES (zeroblob(400000))")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(BackupError, match=r"failed: (the disk failed|disk I/O error); the database is unchanged"):
            copy_database(source, tmp_path / "copy", writable=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "copy").exists()


def test_interrupted_copy_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    path = node(tmp_path / "db")
    with pytest.raises(KeyboardInterrupt):
        copy_database(path, tmp_path / "copy", writable=False, progress=interrupted)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("stored", "version"),
    [
        ("4294967295", 2**32 - 1),
        ("4294967296", 0),
        ("-1", 2**32 - 1),
        ("NULL", None),
        ("'seven'", None),
        ("x'07'", None),
    ],
)
def test_data_version_is_read_as_unsigned_32_bit_or_none(tmp_path: Path, stored: str, version: int | None) -> None:
    path = node(tmp_path / "db", f"UPDATE vars SET intval = {stored} WHERE name = 'data_version'")
    assert inspect(path, writable=False).data_version == version


@pytest.mark.parametrize(
    "statements",
    [
        [VARS],
        ["CREATE TABLE version (version)"],
        ["CREATE TABLE version (version)", "CREATE VIEW vars AS SELECT 'data_version' AS name, 1 AS val, 9 AS intval"],
        ["CREATE TABLE version (x)", "CREATE TABLE vars (x)"],
        ["CREATE VIRTUAL TABLE vars USING fts5(name, val, intval)", "CREATE TABLE version (version)"],
    ],
    ids=["only vars", "only version", "a view", "other columns", "a virtual table"],
)
def test_database_that_is_not_lightningds_is_recognised(tmp_path: Path, statements: list[str]) -> None:
    path = made(tmp_path / "db", *statements)
    state = inspect(path, writable=False)
    assert (state.is_lightningd, state.empty, state.data_version) == (False, False, None)


def _replace_last(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    at = data.rindex(old)
    path.write_bytes(data[:at] + new + data[at + len(old) :])


def test_watched_source_can_be_read_again_only_if_the_source_can() -> None:
    """A writer that gives up history for a snapshot reads it once more: what was read already would be empty."""
    seen = list[int]()

    def show(done: int, total: int) -> None:
        seen.append(done)

    again = watched(SnapshotSource(Pieces(lambda: iter((b"a", b"bc"))), 1, None, size=3), show)
    assert [b"".join(again.pieces) for _ in range(2)] == [b"abc", b"abc"]
    assert seen == [1, 3, 1, 3]
    once = watched(SnapshotSource(iter((b"a", b"bc")), 1, None, size=3), show)
    assert isinstance(once.pieces, Iterator)
    assert b"".join(once.pieces) == b"abc"
