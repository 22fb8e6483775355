"""Two databases compared by content: every difference is found, and the comparison changes nothing."""

import shutil
import tempfile
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import BackupError
from backends.sqlite import connection as connection_module
from backends.sqlite.compare import Comparison, compare
from backends.sqlite.connection import Busy, Corrupt
from backends.sqlite.foreign_keys import foreign_key_violations
from tests.sqlite.conftest import Recording
from tests.sqlite.databases import beside, execute, made, node, rows, with_hot_journal, with_wal

SCHEMA = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, x, y TEXT COLLATE NOCASE)",
    "CREATE TABLE plain (x)",
    "CREATE TABLE w (k TEXT COLLATE NOCASE, l, v, PRIMARY KEY (k, l)) WITHOUT ROWID",
    'CREATE TABLE "odd ""name" (rowid, oid, "a ""b")',
    "CREATE INDEX i ON plain (x)",
)
CONTENT = (
    "INSERT INTO t (x, y) VALUES (1, 'a'), (2, 'b'), (NULL, NULL), (x'00ff', 'ÿ')",
    "INSERT INTO plain VALUES (5), (6), (7)",
    "INSERT INTO w VALUES ('a', 1, 'x'), ('b', 2, 'y')",
    'INSERT INTO "odd ""name" VALUES (1, 2, 3)',
)


def test_copy_of_recorded_database_has_no_differences(fresh_channel: Recording, tmp_path: Path) -> None:
    copy = Path(shutil.copy(fresh_channel.after, tmp_path / "copy"))
    assert compare(fresh_channel.after, copy) == Comparison(tables=36, rows=410, differences=[])
    assert foreign_key_violations(copy) == []


DIFFERENT = {
    "a changed value": ("UPDATE t SET x = 9 WHERE id = 2", ["table t: 1 row with other content, first row 2 (x)"]),
    "another type": ("UPDATE t SET x = 2.0 WHERE id = 2", ["table t: 1 row with other content, first row 2 (x)"]),
    "text instead of bytes": (
        "UPDATE t SET x = CAST(x AS TEXT) WHERE id = 4",
        ["table t: 1 row with other content, first row 4 (x)"],
    ),
    "a capital letter": ("UPDATE t SET y = 'B' WHERE id = 2", ["table t: 1 row with other content, first row 2 (y)"]),
    "a value instead of none": (
        "UPDATE t SET x = '', y = ''",
        ["table t: 4 rows with other content, first row 1 (x, y)"],
    ),
    "a row less": ("DELETE FROM plain WHERE x > 5", ["table plain: 2 rows only in the backup, first row 2"]),
    "a row more": ("INSERT INTO plain VALUES (8)", ["table plain: 1 row only in the node's database, first row 4"]),
    "another rowid": (
        "UPDATE plain SET rowid = 9 WHERE rowid = 1",
        [
            "table plain: 1 row only in the backup, first row 1",
            "table plain: 1 row only in the node's database, first row 9",
        ],
    ),
    "a keyed row changed": ("UPDATE w SET v = 'z' WHERE k = 'a'", ["table w: 1 row with other content"]),
    "a keyed row less": ("DELETE FROM w WHERE k = 'a'", ["table w: 1 row only in the backup"]),
    "another key": (
        "UPDATE w SET l = 3 WHERE k = 'a'",
        ["table w: 1 row only in the backup", "table w: 1 row only in the node's database"],
    ),
    "a key in capitals": ("UPDATE w SET k = 'A' WHERE k = 'a'", ["table w: 1 row with other content"]),
    "an odd table": (
        'UPDATE "odd ""name" SET "a ""b" = 4',
        ['table odd "name: 1 row with other content, first row 1 (a "b)'],
    ),
    "an automatic id": ("UPDATE sqlite_sequence SET seq = 9", ["the last automatic id of table t differs"]),
    "no automatic id": ("DELETE FROM sqlite_sequence", ["the last automatic id of table t differs"]),
    "an index more": ("CREATE INDEX j ON plain (x)", ["index j is only in the node's database"]),
    "an index less": ("DROP INDEX i", ["index i is only in the backup"]),
    "a table less": ("DROP TABLE plain", ["index i is only in the backup", "table plain is only in the backup"]),
    "a column more": ("ALTER TABLE w ADD n", ["table w is defined differently"]),
    "a view": ("CREATE VIEW v AS SELECT 1", ["view v is only in the node's database"]),
    "a trigger": (
        "CREATE TRIGGER r AFTER INSERT ON plain BEGIN SELECT 1; END",
        ["trigger r is only in the node's database"],
    ),
    "a virtual table": (
        "CREATE VIRTUAL TABLE r USING rtree(id, a, b)",
        [f"table r{part} is only in the node's database" for part in ("", "_node", "_parent", "_rowid")],
    ),
    "statistics": ("ANALYZE", []),
    "freed pages": ("CREATE TABLE z AS SELECT zeroblob(99999)", ["table z is only in the node's database"]),
}


@pytest.mark.parametrize(("change", "differences"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_difference_between_databases_is_found_and_named(tmp_path: Path, change: str, differences: list[str]) -> None:
    a = made(tmp_path / "a", *SCHEMA, *CONTENT)
    b = made(tmp_path / "b", *SCHEMA, *CONTENT, change)
    assert compare(a, b, "the backup", "the node's database").differences == differences
    there = compare(b, a, "the node's database", "the backup").differences
    assert sorted(there) == sorted(differences)


def test_same_content_in_other_pages_is_no_difference(tmp_path: Path) -> None:
    a = made(tmp_path / "a", *SCHEMA, *CONTENT)
    b = made(tmp_path / "b", "PRAGMA page_size = 1024", *reversed(SCHEMA[:4]), SCHEMA[4], *CONTENT, "VACUUM")
    assert compare(a, b) == Comparison(tables=4, rows=10, differences=[])


def test_differences_show_no_value_of_a_row(tmp_path: Path) -> None:
    a = made(tmp_path / "a", *SCHEMA, "INSERT INTO t (x) VALUES ('secret')", "INSERT INTO w VALUES ('secret', 1, 1)")
    b = made(tmp_path / "b", *SCHEMA)
    assert "secret" not in str(compare(a, b).differences)


def test_difference_in_text_that_is_not_utf8_is_found(tmp_path: Path) -> None:
    a = made(tmp_path / "a", "CREATE TABLE t (x TEXT)", "INSERT INTO t VALUES (CAST(x'fffe41' AS TEXT))")
    b = made(tmp_path / "b", "CREATE TABLE t (x TEXT)", "INSERT INTO t VALUES (CAST(x'fffe42' AS TEXT))")
    assert compare(a, a).differences == []
    assert compare(a, b).differences == ["table t: 1 row with other content, first row 1 (x)"]


def test_table_whose_columns_hide_the_rowid_is_reported_as_not_comparable(tmp_path: Path) -> None:
    path = made(tmp_path / "a", "CREATE TABLE t (rowid, oid, _rowid_)")
    other = made(tmp_path / "b", "CREATE TABLE t (rowid, oid, _rowid_)", "INSERT INTO t VALUES (1, 2, 3)")
    assert compare(path, other).differences == ["table t cannot be compared: its columns hide the rowid"]


def test_difference_in_last_of_900_columns_is_found(tmp_path: Path) -> None:
    create = f"CREATE TABLE t ({', '.join(f'c{n}' for n in range(900))})"
    a = made(tmp_path / "a", create, "INSERT INTO t (c899) VALUES (1)")
    b = made(tmp_path / "b", create, "INSERT INTO t (c899) VALUES (2)")
    assert compare(a, b).differences == ["table t: 1 row with other content, first row 1 (c899)"]


def test_table_with_computed_columns_can_be_compared(tmp_path: Path) -> None:
    path = made(tmp_path / "a", "CREATE TABLE t (x, y AS (x + 1))", "INSERT INTO t VALUES (1)")
    assert compare(path, path) == Comparison(tables=1, rows=1, differences=[])


def test_empty_file_equals_empty_database(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert compare(tmp_path / "a", made(tmp_path / "b")) == Comparison(tables=0, rows=0, differences=[])


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary directory, in which nothing may be left."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


def test_hot_journal_counts_in_comparison_and_is_left_alone(tmp_path: Path, temporary: Path) -> None:
    path = with_hot_journal(tmp_path)
    before = beside(path)
    assert len(before) == 2
    unharmed = made(tmp_path / "unharmed")
    shutil.copy(path, tmp_path / "recovered")
    shutil.copy(f"{path}-journal", tmp_path / "recovered-journal")
    assert rows(tmp_path / "recovered", "SELECT count(*) FROM blobs WHERE blob = zeroblob(1000)") == [(100,)]
    assert compare(tmp_path / "recovered", path).differences == []
    assert compare(path, tmp_path / "recovered").differences == []
    assert compare(unharmed, path).differences != []
    assert foreign_key_violations(path) == []
    assert beside(path) == before and list(temporary.iterdir()) == []


def test_wal_counts_in_comparison_and_is_left_alone(tmp_path: Path, temporary: Path) -> None:
    path = with_wal(tmp_path)
    before = beside(path)
    result = compare(path, node(tmp_path / "other", "CREATE TABLE blobs (id INTEGER PRIMARY KEY, blob BLOB)"))
    assert result.differences == ["table blobs: 100 rows only in the first, first row 1"]
    assert beside(path) == before and list(temporary.iterdir()) == []


def test_compare_makes_no_files_beside_a_database_in_wal_mode(tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "own").mkdir()
    path = node(tmp_path / "own" / "db", "PRAGMA journal_mode = WAL")
    before = beside(path)
    assert compare(path, node(tmp_path / "other")).differences == []
    assert beside(path) == before and len(before) == 1


def test_hot_journal_beside_the_target_of_a_link_counts_in_comparison(tmp_path: Path, temporary: Path) -> None:
    path = with_hot_journal(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert compare(link, path).differences == []


def test_compare_without_space_for_its_copy_names_tmpdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    path = node(tmp_path / "db", "PRAGMA journal_mode = WAL")
    with pytest.raises(BackupError, match=r"No space left on device.*TMPDIR"):
        compare(path, path)
    assert list(temporary.iterdir()) == []


def test_compare_names_the_file_that_is_missing_or_no_database(tmp_path: Path) -> None:
    whole = node(tmp_path / "whole")
    (tmp_path / "broken").write_bytes(b"broken" * 1000)
    for a, b in ((whole, tmp_path / "broken"), (tmp_path / "broken", whole)):
        with pytest.raises(Corrupt, match=r"/broken is corrupt"):
            compare(a, b)
    for a, b in ((whole, tmp_path / "missing"), (tmp_path / "missing", whole)):
        with pytest.raises(BackupError, match=r"/missing cannot be read"):
            compare(a, b)
    with pytest.raises(BackupError, match=r"/missing cannot be read"):
        foreign_key_violations(tmp_path / "missing")


def test_compare_of_damaged_database_is_refused_as_corrupt(tmp_path: Path) -> None:
    large = ("CREATE TABLE t (x)", "INSERT INTO t SELECT randomblob(500) FROM json_each('[1,2,3,4,5,6,7,8,9]')")
    a = made(tmp_path / "a", *large)
    b = Path(shutil.copy(a, tmp_path / "b"))
    with b.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(Corrupt, match=r"/a or .*/b is corrupt"):
        compare(a, b)


def test_compare_with_database_being_written_is_refused_as_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "BUSY_TIMEOUT", 20)
    a, b = node(tmp_path / "a"), node(tmp_path / "b")
    with closing(apsw.Connection(str(b))) as lightningd:
        execute(lightningd, "PRAGMA journal_mode = MEMORY", "BEGIN EXCLUSIVE")
        with pytest.raises(Busy, match=r"/b is being written"):
            compare(a, b)


def test_foreign_key_violations_are_counted_by_table(tmp_path: Path) -> None:
    path = made(
        tmp_path / "db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY)",
        "CREATE TABLE c (p REFERENCES p (id), q REFERENCES p (id))",
        "CREATE TABLE w (k PRIMARY KEY REFERENCES p (id)) WITHOUT ROWID",
        "CREATE TABLE lost (x REFERENCES nowhere (id))",
        "CREATE TABLE mismatched (x REFERENCES c (p))",
        "INSERT INTO p VALUES (1)",
        "INSERT INTO c VALUES (1, 1), (2, 1), (3, 3)",
        "INSERT INTO w VALUES (4)",
        "INSERT INTO lost VALUES (1)",
        "INSERT INTO mismatched VALUES (1)",
    )
    assert foreign_key_violations(path) == [
        "table c: 2 rows refer to missing rows of p, first in row 2",
        "table c: 1 row refers to a missing row of p, first in row 3",
        "table lost: 1 row refers to a missing row of nowhere, first in row 1",
        "the foreign keys of table mismatched cannot be checked: foreign key mismatch - mismatched referencing c",
        "table w: 1 row refers to a missing row of p",
    ]


content = st.dictionaries(
    st.integers(1, 8),
    st.one_of(st.none(), st.integers(0, 3), st.sampled_from([0.0, 1.0, "1", "a", "A", "", b"", b"a"])),
)


@settings(max_examples=60, deadline=None)
@given(content, content)
def test_random_tables_differ_exactly_when_their_rows_do(
    tmp_path_factory: pytest.TempPathFactory,
    one: dict[int, int | float | str | bytes | None],
    other: dict[int, int | float | str | bytes | None],
) -> None:
    directory = tmp_path_factory.mktemp("rows")
    for name, table in (("a", one), ("b", other)):
        with closing(apsw.Connection(str(directory / name))) as connection:
            execute(connection, "PRAGMA synchronous = OFF", "CREATE TABLE t (x COLLATE NOCASE)", "BEGIN")
            for rowid, value in table.items():
                connection.execute("INSERT INTO t (rowid, x) VALUES (?, ?)", (rowid, value))
            execute(connection, "COMMIT")
    result = compare(directory / "a", directory / "b")
    same = {key: (type(value), value) for key, value in one.items()} == {
        key: (type(value), value) for key, value in other.items()
    }
    assert (result.differences == []) == same
    assert result.rows == len(one)
