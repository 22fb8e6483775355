"""A restored database whose snapshot was checked when it was made: only what the log's changes wrote to is checked."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from backends import backup_at
from backends.base import SnapshotSource
from backends.change import Change
from backends.sqlite import rebuild as rebuilding
from backends.sqlite import touched as touching
from backends.sqlite.copy import file_pieces
from backends.sqlite.rebuild import Rebuilt, rebuild
from backends.sqlite.replay_errors import ReplayFailed
from backends.sqlite.touched import Touched
from tests.sqlite.databases import node

FILLED = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) "
TABLES = (
    "CREATE TABLE parent (id INTEGER PRIMARY KEY, x)",
    "CREATE TABLE child (id INTEGER PRIMARY KEY, p REFERENCES parent(id) ON DELETE CASCADE, x)",
    "CREATE TABLE heir (id INTEGER PRIMARY KEY, c REFERENCES child(id) ON DELETE SET NULL, x)",
    "CREATE TABLE alone (id INTEGER PRIMARY KEY, x)",
    *(f"CREATE INDEX {name}_x ON {name} (x)" for name in ("parent", "child", "heir", "alone")),
    f"INSERT INTO parent {FILLED} SELECT i, 'p' || i FROM n",
    f"INSERT INTO child {FILLED} SELECT i, i, 'c' || i FROM n",
    f"INSERT INTO heir {FILLED} SELECT i, i, 'h' || i FROM n",
    f"INSERT INTO alone {FILLED} SELECT i, 'a' || i FROM n",
)


def bump(version: int) -> str:
    return f"UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {version - 1}"


def with_wrong_index(path: Path, table: str) -> Path:
    """A database in which an entry of this table's index is not that of its row."""
    database = node(path, *TABLES)
    data = bytearray(database.read_bytes())
    text = f"{table[0]}250".encode()
    at = data.rfind(text)
    data[at : at + len(text)] = f"{table[0]}25x".encode()
    database.write_bytes(data)
    return database


def backed_up(tmp_path: Path, database: Path, changes: Sequence[Sequence[str]]) -> str:
    url = (tmp_path / "backup").as_uri()
    backup = backup_at(url)
    backup.create(SnapshotSource(file_pieces(database), 7, None))
    with closing(backup.open(lambda level, line: None, "0123456789abcdef")) as writer:
        for version, statements in enumerate(changes, 8):
            writer.append(Change(version, [*statements, bump(version)]))
    return url


def restored(tmp_path: Path, url: str, *, proven: bool = True) -> Rebuilt:
    with backup_at(url).read() as reader:
        return rebuild(reader, tmp_path / "restored", durable=False, proven=proven)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "ALWAYS_WHOLE", 0)


CHANGES = {
    "insert": ["INSERT INTO {} (id, x) VALUES (1000, 'new')"],
    "update": ["UPDATE {} SET x = 'other' WHERE id = 3"],
    "delete": ["DELETE FROM {} WHERE id = 3"],
    "replace": ["INSERT OR REPLACE INTO {} (id, x) VALUES (3, 'new')"],
    "two": ["UPDATE vars SET val = 'x' WHERE name = 'none'", "UPDATE {} SET x = 'other' WHERE id = 4;"],
}


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("change", CHANGES)
def test_wrong_index_of_a_touched_table_is_found(tmp_path: Path, change: str) -> None:
    database = with_wrong_index(tmp_path / "db", "alone")
    url = backed_up(tmp_path, database, [[text.format("alone") for text in CHANGES[change]]])
    with pytest.raises(ReplayFailed, match="fails SQLite's integrity check"):
        restored(tmp_path, url)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(
    ("wrong", "statement"),
    [("child", "DELETE FROM parent WHERE id = 3"), ("heir", "DELETE FROM parent WHERE id = 3")],
)
def test_wrong_index_of_a_table_that_foreign_keys_lead_to_is_found(tmp_path: Path, wrong: str, statement: str) -> None:
    url = backed_up(tmp_path, with_wrong_index(tmp_path / "db", wrong), [[statement]])
    with pytest.raises(ReplayFailed, match="fails SQLite's integrity check"):
        restored(tmp_path, url)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE another (x)",
        "WITH n AS (SELECT 3 AS i) UPDATE parent SET x = 'y' WHERE id IN (SELECT i FROM n)",
        "UPDATE parent SET x = 'a;b' WHERE id = 3",
        "UPDATE main.parent SET x = 'y' WHERE id = 3",
        "UPDATE \"parent\" SET x = 'y' WHERE id = 3",
    ],
)
def test_what_is_not_understood_has_the_whole_database_checked(tmp_path: Path, statement: str) -> None:
    url = backed_up(tmp_path, with_wrong_index(tmp_path / "db", "alone"), [[statement]])
    with pytest.raises(ReplayFailed, match="fails SQLite's integrity check"):
        restored(tmp_path, url)


@pytest.mark.usefixtures("large")
def test_untouched_tables_are_taken_as_they_were_when_the_snapshot_was_made(tmp_path: Path) -> None:
    url = backed_up(tmp_path, with_wrong_index(tmp_path / "db", "alone"), [["UPDATE parent SET x = 'y' WHERE id = 3"]])
    rebuilt = restored(tmp_path, url)
    assert (rebuilt.data_version, rebuilt.all_checked) == (8, False)


@pytest.mark.usefixtures("large")
def test_table_whose_definition_replaces_rows_has_the_whole_database_checked(tmp_path: Path) -> None:
    database = node(tmp_path / "db", *TABLES, "CREATE TABLE kept (x UNIQUE ON CONFLICT REPLACE)")
    url = backed_up(tmp_path, database, [["INSERT INTO kept VALUES (1)"]])
    assert restored(tmp_path, url).all_checked


@pytest.mark.usefixtures("large")
def test_snapshot_of_uncertain_origin_is_checked_as_a_whole(tmp_path: Path) -> None:
    url = backed_up(tmp_path, with_wrong_index(tmp_path / "db", "alone"), [["UPDATE parent SET x = 'y' WHERE id = 3"]])
    with pytest.raises(ReplayFailed, match="fails SQLite's integrity check"):
        restored(tmp_path, url, proven=False)


def test_small_database_is_checked_as_a_whole(tmp_path: Path) -> None:
    url = backed_up(tmp_path, with_wrong_index(tmp_path / "db", "alone"), [])
    with pytest.raises(ReplayFailed, match="fails SQLite's integrity check"):
        restored(tmp_path, url)


@pytest.mark.usefixtures("large")
def test_many_changes_have_the_whole_database_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(touching, "MAX_CHANGES", 1)
    changes = [["UPDATE parent SET x = 'y' WHERE id = 3"]] * 2
    url = backed_up(tmp_path, with_wrong_index(tmp_path / "db", "alone"), changes)
    with pytest.raises(ReplayFailed, match="fails SQLite's integrity check"):
        restored(tmp_path, url)


def test_large_touched_table_is_read_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(touching, "MAX_ROWS", 10)
    database = node(tmp_path / "db", *TABLES)
    with closing(apsw.Connection(str(database))) as connection:
        ((page,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'alone_x'").fetchall()
    with database.open("r+b") as file:
        file.seek((int(str(page)) - 1) * 4096 + 12)
        file.write(b"\xff\xff\xff\xff")
    found = Touched()
    found.note(["UPDATE alone SET x = 1"])
    with closing(apsw.Connection(str(database))) as connection:
        assert found.faults(connection) is not None
