"""A backup from an attacker's disk: what its changes and its snapshot may not do."""

import time
from contextlib import suppress
from pathlib import Path

import pytest

from backends.sqlite import authorizer as authorizer_module
from backends.sqlite.replay import Replay, ReplayFailed
from tests.sqlite.databases import NODE, made, node, rows

ATTACKS = {
    "attach": ("ATTACH 'other.sqlite3' AS other", "ATTACH"),
    "detach": ("DETACH main", "DETACH"),
    "load an extension": ("SELECT load_extension('/lib/evil.so')", "FUNCTION load_extension"),
    "replace a tokenizer": ("SELECT fts3_tokenizer('simple', x'4141414141414141')", "FUNCTION fts3_tokenizer"),
    "write a file": ("SELECT writefile('stolen', 'secret')", "cannot be executed"),
    "read a file": ("SELECT readfile('/etc/passwd')", "cannot be executed"),
    "a full-text table": ("CREATE VIRTUAL TABLE x USING fts5(y)", "CREATE_VTABLE"),
    "a table of pages": ("SELECT * FROM dbstat", "cannot be executed"),
    "write the schema": ("PRAGMA writable_schema = ON", "PRAGMA writable_schema"),
    "change the schema": ("UPDATE sqlite_schema SET sql = 'x'", "cannot be executed"),
    "change the journal": ("PRAGMA journal_mode = WAL", "PRAGMA journal_mode"),
    "change the temporary directory": ("PRAGMA temp_store_directory = '/'", "PRAGMA temp_store_directory"),
    "trust the schema": ("PRAGMA trusted_schema = ON", "PRAGMA trusted_schema"),
    "begin": ("BEGIN", "TRANSACTION BEGIN"),
    "commit": ("COMMIT", "TRANSACTION COMMIT"),
    "roll back": ("ROLLBACK", "TRANSACTION ROLLBACK"),
    "a savepoint": ("SAVEPOINT s", "SAVEPOINT"),
    "a copy elsewhere": ("VACUUM INTO 'stolen'", "cannot be executed"),
    "a temporary table": ("CREATE TEMP TABLE vars (x)", "CREATE_TEMP_TABLE"),
    "a temporary trigger": ("CREATE TEMP TRIGGER r AFTER INSERT ON vars BEGIN SELECT 1; END", "CREATE_TEMP_TRIGGER"),
    "behind a row": ("INSERT INTO version VALUES (1); ATTACH 'other.sqlite3' AS other", "ATTACH"),
    "behind a definition": ("CREATE TABLE x (y); PRAGMA writable_schema = ON", "PRAGMA writable_schema"),
    "behind a comment": ("/* */ ATTACH 'other.sqlite3' AS other", "ATTACH"),
    "in a row": ("INSERT INTO version SELECT load_extension('/lib/evil.so')", "FUNCTION load_extension"),
    "in a definition": ("CREATE TABLE x AS SELECT load_extension('/lib/evil.so')", "FUNCTION load_extension"),
}


@pytest.mark.parametrize(("statement", "refused"), ATTACKS.values(), ids=ATTACKS.keys())
def test_hostile_statement_in_a_change_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, refused: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with Replay(tmp_path / "db") as replay:
        replay.execute(NODE, 7)
        with pytest.raises(ReplayFailed) as caught:
            replay.execute(["INSERT INTO version VALUES (3)", statement, "INSERT INTO version VALUES (4)"], 8)
    assert refused in str(caught.value) and "data version 8" in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["db"]


def test_lone_pragma_that_would_have_no_effect_is_refused(tmp_path: Path) -> None:
    """On the node it had an effect, so ignoring it would replay something else."""
    with Replay(tmp_path / "db") as replay, pytest.raises(ReplayFailed, match="PRAGMA foreign_keys"):
        replay.execute(["PRAGMA foreign_keys = 0"], 5)


def test_refusal_of_hostile_statement_names_its_data_version_and_outline(tmp_path: Path) -> None:
    with Replay(tmp_path / "db") as replay, pytest.raises(ReplayFailed) as caught:
        replay.execute(["ATTACH '/other/lightningd.sqlite3' AS x"], 5)
    assert str(caught.value).startswith(
        "the change with data version 5 contains what no node writes (ATTACH ...), in: ATTACH"
    )
    assert caught.value.exit_code == 3


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE version SET version = ({ENDLESS} SELECT max(i) FROM n)",
        f"{ENDLESS} INSERT INTO version SELECT i FROM n WHERE i < 0",
        f"SELECT count(*) FROM ({ENDLESS} SELECT i FROM n)",
    ],
)
def test_endless_statement_in_a_change_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    monkeypatch.setattr(authorizer_module, "MAX_STEPS", 5_000_000)
    with Replay(tmp_path / "db") as replay:
        replay.execute(NODE, 7)
        began = time.monotonic()
        with pytest.raises(ReplayFailed, match="a statement that does not end"):
            replay.execute([statement], 8)
        assert time.monotonic() - began < 30


def test_long_changes_are_each_allowed_the_maximum_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorizer_module, "MAX_STEPS", 5_000_000)
    three_million = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 250000) "
    with Replay(tmp_path / "db") as replay:
        replay.execute(NODE)
        for _ in range(4):
            replay.execute([f"UPDATE version SET version = ({three_million} SELECT max(i) FROM n)"])
        replay.finish()


def test_plain_changes_are_executed_after_a_guarded_one(tmp_path: Path) -> None:
    with Replay(tmp_path / "db") as replay:
        replay.execute(NODE)
        replay.execute(["INSERT INTO vars VALUES ('a', 'x;y', 1, NULL)"])
        replay.execute(["INSERT INTO version VALUES (1)"])
        with pytest.raises(ReplayFailed, match="in: DELETE FROM nowhere;"):
            replay.execute(["DELETE FROM version", "DELETE FROM nowhere", "DELETE FROM version"])


def test_virtual_table_in_snapshot_cannot_be_used(tmp_path: Path) -> None:
    path = node(tmp_path / "db", "CREATE VIRTUAL TABLE f USING fts5(x)")
    with Replay(path) as replay, pytest.raises(ReplayFailed, match=r"no such (module|table)"):
        replay.execute(["INSERT INTO f VALUES ('x')"])


def test_trigger_in_snapshot_cannot_load_an_extension(tmp_path: Path) -> None:
    trigger = "CREATE TRIGGER r AFTER INSERT ON version BEGIN SELECT load_extension('/lib/evil.so'); END"
    path = node(tmp_path / "db", trigger)
    with Replay(path) as replay, pytest.raises(ReplayFailed):
        replay.execute(["INSERT INTO version VALUES (1)"])


def test_view_in_snapshot_cannot_load_an_extension(tmp_path: Path) -> None:
    path = made(tmp_path / "db", *NODE, "CREATE VIEW w AS SELECT load_extension('/lib/evil.so') AS x")
    with Replay(path) as replay, pytest.raises(ReplayFailed):
        replay.execute(["UPDATE version SET version = (SELECT x FROM w)"])
    assert rows(path, "SELECT version FROM version") == [(282,)]


@pytest.mark.parametrize(
    ("statement", "plain"),
    [
        ("INSERT INTO t VALUES ('*/ /* --')", True),
        ("DELETE FROM t;", True),
        ("CREATE TABLE t (x);", True),
        ("DELETE FROM t; ", False),
        ("INSERT INTO t VALUES (';')", False),
        (" INSERT INTO t VALUES (1)", False),
        (";INSERT INTO t VALUES (1)", False),
        ("insert into t values (1)", False),
        ("ALTER TABLE t ADD x", True),
        ("CREATE TEMP TABLE t (x)", False),
        ("CREATE VIRTUAL TABLE t USING fts5(x)", False),
        ("CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; END", False),
        ("DROP TABLE t; ATTACH 'x' AS y", False),
        ("PRAGMA writable_schema = 1", False),
        ("WITH n AS (SELECT 1) DELETE FROM t", False),
        ("", False),
    ],
)
def test_only_plain_statements_are_executed_unguarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, plain: bool
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Replay, "_execute_guarded", lambda replay, statement: asked.append(statement))
    with Replay(tmp_path / "db") as replay, suppress(ReplayFailed):  # some fail: the table exists already
        replay.execute(["CREATE TABLE t (x)", statement])
    assert asked == ([] if plain else [statement])
