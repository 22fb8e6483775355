"""Reading a node's database: beside the running node, after its crash, and when it is not what it should be."""

import resource
import stat
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from backends.errors import BackupError
from backends.sqlite import connection as connection_module
from backends.sqlite.compare import compare
from backends.sqlite.source import Busy, Corrupt, DatabaseState, copy_database, inspect
from tests.sqlite.conftest import Recording
from tests.sqlite.databases import NODE, VARS, beside, execute, made, node, rows, with_hot_journal, with_wal

STATE = DatabaseState(data_version=7, node_id="02ab", is_lightningd=True, empty=False)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "BUSY_TIMEOUT", 20)


def test_the_recorded_node(fresh_channel: Recording, tmp_path: Path) -> None:
    state = inspect(fresh_channel.after, writable=False)
    assert (state.data_version, state.is_lightningd, state.empty) == (1008, True, False)
    assert state.node_id is not None and len(state.node_id) == 66
    assert copy_database(fresh_channel.after, tmp_path / "copy", writable=True) == state
    assert compare(fresh_channel.after, tmp_path / "copy").differences == []


def test_old_nodes(upgrade: Recording, tmp_path: Path) -> None:
    assert upgrade.before is not None
    state = copy_database(upgrade.before, tmp_path / "copy", writable=False)
    assert state.is_lightningd and not state.empty
    assert (state.data_version is None) == (rows(upgrade.before, "SELECT version FROM version") == [(89,)])
    assert compare(upgrade.before, tmp_path / "copy").differences == []


@pytest.mark.parametrize("writable", [False, True])
def test_a_copy_is_private_and_alone(tmp_path: Path, writable: bool) -> None:
    path = node(tmp_path / "lightningd.sqlite3")
    target = tmp_path / "copy" / "copy.sqlite3"
    target.parent.mkdir()
    assert copy_database(path, target, writable=writable) == STATE
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(target.parent.iterdir()) == [target]


def test_progress_goes_up_to_all_pages(tmp_path: Path) -> None:
    path = node(tmp_path / "db", "CREATE TABLE large (x)", "INSERT INTO large VALUES (zeroblob(10000000))")
    seen: list[tuple[int, int]] = []
    copy_database(path, tmp_path / "copy", writable=False, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 2 and seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == rows(path, "PRAGMA page_count")[0][0]


def test_beside_an_open_transaction_the_committed_content_is_copied(tmp_path: Path) -> None:
    path = node(tmp_path / "db")
    with closing(apsw.Connection(str(path))) as lightningd:
        execute(lightningd, "BEGIN", "UPDATE vars SET intval = 8 WHERE name = 'data_version'")
        assert copy_database(path, tmp_path / "copy", writable=False) == STATE
        execute(lightningd, "COMMIT")
    assert inspect(path, writable=False).data_version == 8


def test_a_writing_node_is_told_to_stop(tmp_path: Path) -> None:
    path = node(tmp_path / "db")
    with closing(apsw.Connection(str(path))) as lightningd:
        execute(lightningd, "BEGIN EXCLUSIVE")
        with pytest.raises(Busy, match=r"Stop the node, then try again"):
            copy_database(path, tmp_path / "copy", writable=False)
        with pytest.raises(Busy):
            inspect(path, writable=False)
    assert not (tmp_path / "copy").exists()


def test_a_node_cannot_commit_between_two_steps(tmp_path: Path) -> None:
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


def test_a_hot_journal_is_rolled_back(tmp_path: Path) -> None:
    path = with_hot_journal(tmp_path)
    assert copy_database(path, tmp_path / "copy", writable=True) == STATE
    assert rows(tmp_path / "copy", "SELECT count(*) FROM blobs WHERE blob = zeroblob(1000)") == [(100,)]
    assert list(beside(path)) == [path.name]


def test_a_hot_journal_cannot_be_rolled_back_by_reading_alone(tmp_path: Path) -> None:
    path = with_hot_journal(tmp_path)
    before = beside(path)
    with pytest.raises(BackupError, match=r"middle of a write.*try again"):
        copy_database(path, tmp_path / "copy", writable=False)
    assert beside(path) == before and not (tmp_path / "copy").exists()


def test_a_wal_is_recovered_and_left_behind(tmp_path: Path) -> None:
    path = with_wal(tmp_path)
    target = tmp_path / "copy" / "copy.sqlite3"
    target.parent.mkdir()
    assert copy_database(path, target, writable=True) == STATE
    assert list(target.parent.iterdir()) == [target]
    assert rows(target, "SELECT count(*) FROM blobs") == [(100,)]
    assert rows(target, "PRAGMA journal_mode") == [("delete",)]


def test_a_running_node_with_a_wal(tmp_path: Path) -> None:
    path = node(tmp_path / "db", "PRAGMA journal_mode = WAL")
    with closing(apsw.Connection(str(path))) as lightningd:
        execute(lightningd, "UPDATE vars SET intval = 8 WHERE name = 'data_version'")
        execute(lightningd, "BEGIN", "UPDATE vars SET intval = 9 WHERE name = 'data_version'")
        assert copy_database(path, tmp_path / "copy", writable=False).data_version == 8


def test_nothing_there(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path, tmp_path / "no" / "where"):
        with pytest.raises(BackupError, match="no database"):
            inspect(path, writable=True)
        with pytest.raises(BackupError, match="no database"):
            copy_database(path, tmp_path / "copy", writable=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_any_page_size(tmp_path: Path, page_size: int) -> None:
    path = made(tmp_path / "db", f"PRAGMA page_size = {page_size}", *NODE)
    assert copy_database(path, tmp_path / "copy", writable=False) == STATE
    assert rows(tmp_path / "copy", "PRAGMA page_size") == [(page_size,)]


def test_an_empty_file_is_the_database_of_a_node_that_never_started(tmp_path: Path) -> None:
    path = tmp_path / "db"
    path.touch()
    state = copy_database(path, tmp_path / "copy", writable=True)
    assert state == inspect(path, writable=False) == DatabaseState(None, None, is_lightningd=False, empty=True)


def test_a_database_whose_tables_are_all_gone(tmp_path: Path) -> None:
    path = made(tmp_path / "db", "CREATE TABLE t (x)", "DROP TABLE t")
    assert copy_database(path, tmp_path / "copy", writable=True).empty


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lightningd.sqlite3"
    path.write_bytes(b"alas, no database at all" * 100)
    with pytest.raises(Corrupt, match=r"lightningd\.sqlite3 is corrupt: file is not a database; nothing was written"):
        copy_database(path, tmp_path / "copy", writable=True)
    with pytest.raises(Corrupt):
        inspect(path, writable=False)
    assert not (tmp_path / "copy").exists()


def test_a_damaged_index_is_found_and_the_source_named(tmp_path: Path) -> None:
    path = node(tmp_path / "db", "CREATE TABLE t (x TEXT UNIQUE)", "INSERT INTO t VALUES ('needle'), ('other')")
    _replace_last(path, b"needle", b"noodle")
    with pytest.raises(Corrupt, match=r"/db is corrupt: .*missing from index.*; nothing was written"):
        copy_database(path, tmp_path / "copy", writable=False)
    assert not (tmp_path / "copy").exists()


def test_a_file_that_lost_its_end(tmp_path: Path) -> None:
    path = node(tmp_path / "db", "CREATE TABLE t (x)", "INSERT INTO t VALUES (zeroblob(100000))")
    with path.open("r+b") as file:
        file.truncate(40000)
    with pytest.raises(Corrupt):
        copy_database(path, tmp_path / "copy", writable=False)
    assert not (tmp_path / "copy").exists()


def test_an_existing_target_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "copy"
    target.write_text("mine")
    with pytest.raises(BackupError, match="could not be created"):
        copy_database(node(tmp_path / "db"), target, writable=False)
    assert target.read_text() == "mine"


def test_a_copy_that_the_disk_refuses_says_why(tmp_path: Path) -> None:
    """A limit on the size of files takes the disk's part."""
    source = node(tmp_path / "db", "CREATE TABLE big (x)", "INSERT INTO big VALUES (zeroblob(400000))")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(BackupError, match=r"failed: (the disk failed|disk I/O error); the database is unchanged"):
            copy_database(source, tmp_path / "copy", writable=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "copy").exists()


def test_an_interrupted_copy_leaves_nothing(tmp_path: Path) -> None:
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
def test_versions(tmp_path: Path, stored: str, version: int | None) -> None:
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
def test_what_is_not_a_lightningd(tmp_path: Path, statements: list[str]) -> None:
    path = made(tmp_path / "db", *statements)
    state = inspect(path, writable=False)
    assert (state.is_lightningd, state.empty, state.data_version) == (False, False, None)


def _replace_last(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    at = data.rindex(old)
    path.write_bytes(data[:at] + new + data[at + len(old) :])
