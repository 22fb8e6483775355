"""Rebuilding a database from its changes: exactly as the node had it, or not at all."""

import stat
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import BackupError
from backends.sqlite import replay as replay_module
from backends.sqlite.compare import compare
from backends.sqlite.replay import Replay, ReplayFailed
from backends.sqlite.source import DatabaseState
from backends.sqlite.statement_outline import outline
from tests.sqlite.conftest import Recording
from tests.sqlite.databases import NODE, made, node, rows


def replayed(path: Path, *changes: Iterable[str]) -> Path:
    with Replay(path) as replay:
        for number, change in enumerate(changes):
            replay.execute(change, number)
        replay.finish()
    return path


def test_recorded_node_is_replayed_to_equal_database(fresh_channel: Recording, tmp_path: Path) -> None:
    with Replay(tmp_path / "rebuilt") as replay:
        for version, writes in fresh_channel.changes():
            replay.execute(writes, version)
        assert replay.finish().data_version == 1008
    result = compare(tmp_path / "rebuilt", fresh_channel.after)
    assert (result.tables, result.differences) == (36, [])


def test_recorded_upgrade_is_replayed_to_equal_database(upgrade: Recording) -> None:
    assert upgrade.before is not None
    with Replay(upgrade.before) as replay:
        for version, writes in upgrade.changes():
            replay.execute(writes, version)
        state = replay.finish()
    assert state.data_version == version
    result = compare(upgrade.before, upgrade.after)
    assert (result.tables, result.differences) == (36, [])


def test_replayed_file_has_settings_of_lightningd_and_private_mode(tmp_path: Path) -> None:
    path = tmp_path / "new"
    with Replay(path) as replay:
        assert replay.foreign_keys
        replay.execute(NODE, 7)
        assert replay.finish() == DatabaseState(7, "02ab", is_lightningd=True, empty=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    pragmas = [rows(path, f"PRAGMA {name}")[0][0] for name in ("page_size", "journal_mode", "auto_vacuum", "encoding")]
    assert pragmas == [4096, "delete", 0, "UTF-8"]


def test_replay_of_no_changes_leaves_an_empty_file(tmp_path: Path) -> None:
    assert replayed(tmp_path / "new").stat().st_size == 0
    (tmp_path / "empty").touch()
    with Replay(tmp_path / "empty") as replay:
        replay.execute([])
        assert replay.finish().empty


def test_replay_makes_no_files_beside_the_database(tmp_path: Path) -> None:
    with Replay(tmp_path / "new") as replay:
        replay.execute([*NODE, "CREATE TABLE t (x)", f"INSERT INTO t VALUES ('{'x' * 50_000_000}')"])
        replay.execute([f"UPDATE t SET x = '{'y' * 40_000_000}'"])
        assert [file.name for file in tmp_path.iterdir()] == ["new"]


def test_replay_keeps_all_changes_across_its_own_transactions(tmp_path: Path) -> None:
    changes = [[f"INSERT INTO t VALUES ({n})"] for n in range(2 * replay_module.CHANGES_PER_TRANSACTION + 7)]
    path = replayed(tmp_path / "db", ["CREATE TABLE t (x)"], *changes)
    assert rows(path, "SELECT count(*), sum(x) FROM t") == [(len(changes), sum(range(len(changes))))]


def test_replayed_schema_keeps_the_text_of_each_statement(tmp_path: Path) -> None:
    """Joined with other statements, a CREATE without its own ';' would be stored with another end."""
    written = [
        "CREATE TABLE t (x)",
        "CREATE INDEX i ON t (x);",
        "CREATE UNIQUE INDEX u  ON t(x) -- why",
        "DROP INDEX i",
    ]
    path = replayed(tmp_path / "db", written, ["CREATE TABLE v (x)", "INSERT INTO t VALUES (1)"])
    reference = made(tmp_path / "reference", *written, "CREATE TABLE v (x)", "INSERT INTO t VALUES (1)")
    assert rows(path, "SELECT sql FROM sqlite_schema") == rows(reference, "SELECT sql FROM sqlite_schema")
    assert compare(path, reference).differences == []


REPRODUCED = {
    "rowids with gaps": ["CREATE TABLE t (x)", "INSERT INTO t VALUES (1), (2), (3)", "DELETE FROM t WHERE x <> 2"],
    "sqlite_sequence": [
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, x)",
        "INSERT INTO t VALUES (41, 'x')",
        "DELETE FROM t",
        "INSERT INTO t (x) VALUES ('y')",
    ],
    "a table without rowids": [
        "CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY, v) WITHOUT ROWID",
        "INSERT INTO t VALUES ('b', 1), ('A', 2)",
        "INSERT INTO t VALUES ('a', 3) ON CONFLICT (k) DO UPDATE SET v = excluded.v",
    ],
    "a strict table altered": [
        "CREATE TABLE t (x INTEGER) STRICT",
        "INSERT INTO t VALUES (1)",
        "ALTER TABLE t ADD y INTEGER CHECK (y IS NULL OR y > 0);",
        "ALTER TABLE t RENAME COLUMN x TO z",
        "ALTER TABLE t RENAME TO u",
        "ALTER TABLE u DROP COLUMN y",
    ],
    "text in double quotes": [
        'CREATE TABLE t (x DEFAULT "text", y CHECK (y <> "never"))',
        'INSERT INTO t (y) VALUES ("also text")',
        'UPDATE t SET y = "other" WHERE x = "text"',
    ],
    "comments at the end": [
        "CREATE TABLE t (x)",
        "INSERT INTO t VALUES (1) -- not the end",
        "INSERT INTO t VALUES (2) /* open to the end",
        "INSERT INTO t VALUES (3)",
    ],
    "text like SQL": [
        "CREATE TABLE t (x)",
        "INSERT INTO t VALUES ('a;\n;DROP TABLE t;--')",
        "INSERT INTO t VALUES ('it''s /*')",
        "INSERT INTO t VALUES ('*/ x'')')",
        "INSERT INTO t VALUES ('ÿ 漢 🎉 \u202e')",
    ],
    "rows that are returned": [
        "CREATE TABLE t (x)",
        "INSERT INTO t VALUES (1), (2) RETURNING x",
        "UPDATE t SET x = x + 10 RETURNING x",
        "SELECT x FROM t",
        "INSERT INTO t VALUES (5)",
    ],
    "many semicolons": ["CREATE TABLE t (x);;", ";", "", "INSERT INTO t VALUES (1); ", "INSERT INTO t VALUES (2);"],
    "a large value": ["CREATE TABLE t (x)", f"INSERT INTO t VALUES ('{'x' * 3_000_000}')", "INSERT INTO t VALUES (2)"],
    "a trigger": [
        "CREATE TABLE t (x)",
        "CREATE TABLE log (x)",
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.x); END",
        "INSERT INTO t VALUES (1)",
    ],
    "cascades": [
        "CREATE TABLE p (id INTEGER PRIMARY KEY)",
        "CREATE TABLE c (p REFERENCES p (id) ON DELETE CASCADE, q REFERENCES p (id) ON DELETE SET NULL)",
        "INSERT INTO p VALUES (1), (2)",
        "INSERT INTO c VALUES (1, 2), (2, 1)",
        "DELETE FROM p WHERE id = 1",
    ],
}


@pytest.mark.parametrize("statements", REPRODUCED.values(), ids=REPRODUCED.keys())
@pytest.mark.parametrize("given_as", ["a list", "an iterator", "a change each"])
def test_statements_are_replayed_to_equal_database(tmp_path: Path, statements: list[str], given_as: str) -> None:
    changes: list[Iterable[str]] = [[statement] for statement in statements]
    if given_as != "a change each":
        changes = [statements] if given_as == "a list" else [iter(statements)]
    path = replayed(tmp_path / "db", *changes)
    reference = made(tmp_path / "reference", "PRAGMA foreign_keys = ON", *statements)
    assert compare(path, reference).differences == []


MIGRATION = [
    ["CREATE TABLE p (id INTEGER PRIMARY KEY)", "CREATE TABLE c (p REFERENCES p (id) ON DELETE CASCADE)"],
    ["INSERT INTO p VALUES (1)", "INSERT INTO c VALUES (1)"],
    ["PRAGMA foreign_keys = OFF;"],
    ["CREATE TABLE n (id INTEGER PRIMARY KEY)", "INSERT INTO n SELECT id FROM p", "DROP TABLE p"],
    ["ALTER TABLE n RENAME TO p"],
    ["PRAGMA foreign_keys = ON;"],
]


def test_lone_pragma_takes_effect_between_transactions(tmp_path: Path) -> None:
    path = replayed(tmp_path / "db", *MIGRATION)
    assert rows(path, "SELECT count(*) FROM c") == [(1,)]


def test_migration_without_its_lone_pragma_would_delete_child_rows(tmp_path: Path) -> None:
    path = replayed(tmp_path / "db", *(change for change in MIGRATION if not change[0].startswith("PRAGMA")))
    assert rows(path, "SELECT count(*) FROM c") == [(0,)]


def test_lone_pragma_given_as_iterator_takes_effect(tmp_path: Path) -> None:
    path = replayed(tmp_path / "db", *(iter(change) for change in MIGRATION))
    assert rows(path, "SELECT count(*) FROM c") == [(1,)]


def test_foreign_keys_of_replay_can_be_read_and_set(tmp_path: Path) -> None:
    with Replay(tmp_path / "db") as replay:
        replay.execute(MIGRATION[0])
        replay.foreign_keys = False
        assert not replay.foreign_keys
        replay.execute(["INSERT INTO c VALUES (5)"])
        replay.execute(["PRAGMA foreign_keys = ON"])
        assert replay.foreign_keys
        with pytest.raises(ReplayFailed, match="FOREIGN KEY constraint failed"):
            replay.execute(["INSERT INTO c VALUES (6)"])


TABLE = "CREATE TABLE t (x UNIQUE)"

FAILING = {
    "a broken constraint": (
        ["INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (1), (1)", "INSERT INTO t VALUES (3)"],
        1,
    ),
    "the first": (["INSERT INTO nowhere VALUES (1)", "INSERT INTO t VALUES (3)"], 0),
    "a missing table": (["INSERT INTO t VALUES (2);", "UPDATE nowhere SET x = 1", "DELETE FROM nobody"], 1),
    "the last": (["INSERT INTO t VALUES (2);", "DELETE FROM t", "INSERT INTO t SELECT x FROM nowhere"], 2),
    "one before another": (["INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (2)", "DELETE FROM nowhere"], 1),
    "bad syntax": (["DELETE FROM t", "UPDATE t SETx = 1"], 1),
    "bad syntax among definitions": (["CREATE TABLE u (x)", "CREATE TABLE v (x", "CREATE TABLE w (x)"], 1),
    "an unterminated text": (["DELETE FROM t", "DELETE FROM t WHERE x = '", "INSERT INTO t VALUES (1)"], 1),
}


@pytest.mark.parametrize(("statements", "failing"), FAILING.values(), ids=FAILING.keys())
def test_failing_statement_is_named_with_its_data_version(tmp_path: Path, statements: list[str], failing: int) -> None:
    with Replay(tmp_path / "db") as replay:
        replay.execute([TABLE], 1)
        replay.execute(["INSERT INTO t VALUES (77)"], 2)
        with pytest.raises(ReplayFailed) as caught:
            replay.execute(statements, 4242)
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert "the change with data version 4242 cannot be executed" in message
    assert f"in: {outline(statements[failing])};" in message
    assert statements[failing] in caught.value.withheld
    assert "backup-cli resync" in message


def test_message_of_failing_statement_shows_no_value(tmp_path: Path) -> None:
    secret = "c0ffee" * 20
    with Replay(tmp_path / "db") as replay, pytest.raises(ReplayFailed) as caught:
        replay.execute([f"INSERT INTO nowhere VALUES (x'{secret}', '{'long' * 100}')"])
    assert "c0ffee" not in str(caught.value)
    assert "in: INSERT INTO nowhere;" in str(caught.value)
    assert "longlong" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_message_of_failing_statement_shows_no_value_quoted_by_sqlite(tmp_path: Path) -> None:
    secret = "c0ffee" * 20
    for statement in (f"INSERT INTO t VALUES ('long{secret * 10}", f"INSERT INTO t VALUES (x'{secret}0')"):
        with Replay(tmp_path / "db") as replay, pytest.raises(ReplayFailed) as caught:
            replay.execute(["CREATE TABLE IF NOT EXISTS t (x)", statement])
        assert "c0ffee" * 10 not in str(caught.value)


def test_statement_with_surrogate_or_nul_is_refused(tmp_path: Path) -> None:
    for statement in ("INSERT INTO t VALUES ('\ud800')", "INSERT INTO t VALUES ('\0')"):
        with Replay(tmp_path / "db") as replay, pytest.raises(ReplayFailed):
            replay.execute(["CREATE TABLE IF NOT EXISTS t (x)", statement])


@pytest.mark.parametrize(
    "number", ["9" * 5000, "7\u00a0", "\u0667"], ids=["5000 digits", "no-break space", "Arabic seven"]
)
def test_statement_that_only_looks_like_the_version_bump_does_not_count_as_one(tmp_path: Path, number: str) -> None:
    """To SQLite the first is a number that is no data version, and the others are not numbers."""
    statement = f"UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {number}"
    with Replay(tmp_path / "db") as replay:
        replay.execute(NODE, 7)
        if number.isascii():
            replay.execute([statement], 8)
            assert replay.finish().data_version == 7
        else:
            with pytest.raises(ReplayFailed, match="data version 8 cannot be executed"):
                replay.execute([statement], 8)


def test_foreign_key_violation_at_commit_names_the_last_data_version(tmp_path: Path) -> None:
    deferred = "CREATE TABLE c (p REFERENCES p (id) DEFERRABLE INITIALLY DEFERRED)"
    with Replay(tmp_path / "db") as replay:
        replay.execute(["CREATE TABLE p (id INTEGER PRIMARY KEY)", deferred])
        replay.execute(["INSERT INTO c VALUES (1)"], 9)
        with pytest.raises(ReplayFailed, match=r"data version 9 .*FOREIGN KEY"):
            replay.finish()


def test_full_disk_during_replay_is_not_blamed_on_the_backup(tmp_path: Path) -> None:
    with Replay(tmp_path / "db") as replay:
        list(replay._connection.execute("PRAGMA max_page_count = 20"))
        with pytest.raises(BackupError, match=r"the disk with .* is full") as caught:
            replay.execute(["CREATE TABLE t (x)", f"INSERT INTO t VALUES ('{'x' * 1_000_000}')"])
    assert caught.value.exit_code == 1


def test_snapshot_that_is_no_database_is_refused_by_replay(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"no database at all, " * 1000)
    with pytest.raises(ReplayFailed, match="snapshot in this backup is not an intact database"):
        Replay(tmp_path / "db")


def test_damaged_snapshot_is_refused_at_the_end_of_replay(tmp_path: Path) -> None:
    path = node(tmp_path / "db", "CREATE TABLE t (x TEXT UNIQUE)", "INSERT INTO t VALUES ('needle')")
    data = path.read_bytes()
    at = data.rindex(b"needle")
    path.write_bytes(data[:at] + b"noodle" + data[at + 6 :])
    with Replay(path) as replay:
        replay.execute(["UPDATE vars SET intval = 8 WHERE name = 'data_version'"])
        with pytest.raises(ReplayFailed, match=r"this backup fails SQLite's integrity check: .*missing from index"):
            replay.finish()


def test_snapshot_in_wal_mode_is_replayed_to_a_database_without_wal(tmp_path: Path) -> None:
    path = node(tmp_path / "db", "PRAGMA journal_mode = WAL")
    replayed(path, ["UPDATE vars SET intval = 8 WHERE name = 'data_version'"])
    assert list(tmp_path.iterdir()) == [path]
    assert rows(path, "PRAGMA journal_mode") == [("delete",)]
    assert rows(path, "SELECT intval FROM vars WHERE name = 'data_version'") == [(8,)]


def test_replay_may_be_closed_twice_after_finish(tmp_path: Path) -> None:
    replay = Replay(tmp_path / "db")
    replay.execute(NODE)
    assert replay.finish().data_version == 7
    replay.close()
    replay.close()


def test_replay_where_no_file_can_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="could not be created"):
        Replay(tmp_path / "missing" / "db")


def literal(value: int | float | str | bytes | None) -> str:
    return str(apsw.format_sql_value(value))


values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.binary(max_size=40),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(["'", "''", ";", "\n;", "--", "/*", "*/", '"', "x'", "');", "\\"]),
).map(literal)
keys = st.integers(1, 6)
statements_ = st.one_of(
    st.builds("INSERT OR REPLACE INTO t (id, a, b) VALUES ({}, {}, {})".format, keys, values, values),
    st.builds("INSERT INTO u (a) VALUES ({});".format, values),
    st.builds("UPDATE t SET a = {} WHERE id = {}".format, values, keys),
    st.builds("UPDATE u SET a = {} WHERE a IS {}".format, values, values),
    st.builds("DELETE FROM t WHERE id = {} -- gone".format, keys),
    st.builds("DELETE FROM u WHERE rowid % {} = 0;".format, keys),
    st.builds("INSERT INTO c (t, v) SELECT id, {} FROM t WHERE id = {}".format, values, keys),
    st.builds("INSERT OR IGNORE INTO w VALUES ({}, {}) /* open".format, values, values),
)
SCHEMA = [
    "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a, b TEXT)",
    "CREATE TABLE u (a)",
    "CREATE TABLE c (t REFERENCES t (id) ON DELETE CASCADE, v BLOB)",
    "CREATE TABLE w (a NOT NULL PRIMARY KEY, b) WITHOUT ROWID",
    "CREATE INDEX i ON u (a);",
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(statements_, min_size=1, max_size=6), max_size=12), st.integers(1, 5))
def test_random_changes_are_replayed_to_equal_database(
    tmp_path_factory: pytest.TempPathFactory, changes: list[list[str]], per_transaction: int
) -> None:
    directory = tmp_path_factory.mktemp("any")
    with closing(apsw.Connection(str(directory / "reference"))) as reference:
        for pragma in ("synchronous = OFF", "journal_mode = MEMORY", "foreign_keys = ON"):
            list(reference.execute(f"PRAGMA {pragma}"))
        for change in [SCHEMA, *changes]:
            with reference:
                for statement in change:
                    list(reference.execute(statement))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay_module, "CHANGES_PER_TRANSACTION", per_transaction)
        replayed(directory / "rebuilt", SCHEMA, *changes)
    assert compare(directory / "rebuilt", directory / "reference").differences == []
