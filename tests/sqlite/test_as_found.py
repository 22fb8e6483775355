"""A database examined as SQLite would find it: the answer is SQLite's own, and not a byte is changed."""

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.sqlite import as_found as module
from backends.sqlite.as_found import AsFound, Unclear, as_found
from backends.sqlite.connection import READ_WRITE, opened
from backends.sqlite.source import state_of
from tests.end_to_end.statements import first_call, some_calls
from tests.end_to_end.world import tree
from tests.fake_lightningd import Call, History, has_hot_journal
from tests.fake_lightningd.database import SeparateDatabase

DATABASE = "lightningd.sqlite3"


def found_by_sqlite(directory: Path, scratch: Path) -> AsFound:
    """What SQLite finds in a copy that it may write to."""
    shutil.copytree(directory, scratch)
    with opened(scratch / DATABASE, READ_WRITE) as connection:
        state = state_of(connection)
    header = (scratch / DATABASE).read_bytes()[:96]
    shutil.rmtree(scratch)
    return AsFound(state, header)


def killed_in(directory: Path, *calls: Call, cache_pages: int = 10) -> None:
    """Commit all but the last of these calls; the last one's pages are in the file, and its journal beside it."""
    database = SeparateDatabase(directory, cache_pages)
    *committed, last = calls
    for call in committed:
        database.execute(call.writes, transaction=not call.outside_transaction)
        database.commit()
    database.execute(last.writes, transaction=True)
    database.die()


def test_missing_database_is_found_as_empty(tmp_path: Path) -> None:
    found = as_found(tmp_path / DATABASE)
    assert isinstance(found, AsFound)
    assert (found.header, found.state.empty, found.state.data_version) == (b"", True, None)
    assert list(tmp_path.iterdir()) == []


def test_hot_journal_is_rolled_back_in_memory_only(tmp_path: Path, history: History) -> None:
    node = tmp_path / "node"
    node.mkdir()
    killed_in(node, history.first(), *history.notes(300), history.transaction("DELETE FROM vars WHERE val = ''"))
    before = tree(node)
    assert has_hot_journal(node)
    found = as_found(node / DATABASE)
    assert tree(node) == before
    assert found == found_by_sqlite(node, tmp_path / "copy")
    assert isinstance(found, AsFound)
    assert found.state.data_version == 301


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), cache_pages=st.sampled_from((1, 10, 100)), cut=st.integers(0, 1 << 20))
def test_database_after_any_crash_is_found_as_sqlite_finds_it(
    tmp_path: Path, seed: int, cache_pages: int, cut: int
) -> None:
    """Also when a power cut has left only a part of the journal."""
    chance, node = random.Random(seed), tmp_path / "node"
    shutil.rmtree(node, ignore_errors=True)
    node.mkdir()
    calls = [first_call()]
    for _ in range(3):
        calls += [call for call in some_calls(chance, calls[-1].data_version) if not call.outside_transaction]
    killed_in(node, *calls, History(calls[-1].data_version).big(1 << 16), cache_pages=cache_pages)
    journal = node / f"{DATABASE}-journal"
    if cut % 2 and journal.exists():
        with journal.open("r+b") as file:
            file.truncate(cut % (journal.stat().st_size + 1))
    before = tree(node)
    found = as_found(node / DATABASE)
    assert tree(node) == before
    assert found == found_by_sqlite(node, tmp_path / "copy")


def test_unfinished_first_transaction_is_found_as_empty_database(tmp_path: Path, history: History) -> None:
    node = tmp_path / "node"
    node.mkdir()
    first, big = history.first(), history.big()
    killed_in(node, Call(1, (*first.writes[:-1], *big.writes[:-1])))
    assert (node / DATABASE).stat().st_size > 0
    found = as_found(node / DATABASE)
    assert isinstance(found, AsFound)
    assert (found.header, found.state.empty) == (b"", True)


def test_database_being_written_is_found_locked(tmp_path: Path, history: History) -> None:
    database = SeparateDatabase(tmp_path)
    try:
        database.execute(history.first().writes, transaction=True)
        assert as_found(tmp_path / DATABASE) is Unclear.LOCKED
    finally:
        database.die()


def test_database_with_wal_is_left_unclear(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / DATABASE)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE vars (name)")
    assert as_found(tmp_path / DATABASE) is Unclear.WAL


def test_database_with_large_journal_is_left_unclear(
    tmp_path: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_in(tmp_path, history.first(), *history.notes(300), history.transaction("DELETE FROM vars WHERE val = ''"))
    monkeypatch.setattr(module, "MAX_JOURNAL", 5000)
    assert as_found(tmp_path / DATABASE) is Unclear.LARGE_JOURNAL


@pytest.mark.parametrize("content", [b"no database at all, by far" * 9, b"SQLite format 3\0" + bytes(4080)])
def test_file_that_is_no_database_is_found_as_that(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATABASE).write_bytes(content)
    assert as_found(tmp_path / DATABASE) is Unclear.NO_DATABASE


def test_directory_in_place_of_the_database_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / DATABASE).mkdir()
    assert as_found(tmp_path / DATABASE) is Unclear.UNREADABLE


def test_database_on_failing_disk_is_unreadable(
    tmp_path: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_in(tmp_path, history.first(), history.note())

    def fails(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module._File, "_from_disk", fails)
    assert as_found(tmp_path / DATABASE) is Unclear.UNREADABLE


def test_link_to_database_with_hot_journal_is_followed(tmp_path: Path, history: History) -> None:
    """SQLite looks for the journal beside the file itself."""
    node = tmp_path / "node"
    node.mkdir()
    killed_in(node, history.first(), *history.notes(300), history.transaction("DELETE FROM vars WHERE val = ''"))
    link = tmp_path / "link"
    link.symlink_to(node / DATABASE)
    found = as_found(link)
    assert isinstance(found, AsFound)
    assert found.state.data_version == 301
