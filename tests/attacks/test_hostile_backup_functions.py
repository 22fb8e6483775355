"""A backup that calls what SQLite offers: functions that crash it, hang it, take all memory, or read other files."""

import gzip
import json
import re
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from backends.sqlite.connection import READ_WRITE, connect
from backends.sqlite.functions import ALLOWED, LONGEST_SOUGHT, NODES_CALL, FunctionRefused
from backends.sqlite.replay import Replay, ReplayFailed
from tests.attacks.hostile import hostile_backup
from tests.cli.cli_asserts import assert_refused
from tests.end_to_end.world import backup_cli, command, spawned
from tests.sqlite.databases import NODE, node, rows

# End to end, in a process that may crash

CRASHING = {
    "a tokenizer without its module": ("UPDATE vars SET intval = fts3_tokenizer('simple')", "fts3_tokenizer"),
    "freed memory": ("INSERT INTO vars VALUES ('x', fts5_locale('a', 'b'), 1, NULL)", "fts5_locale"),
    "hours in one step": (
        "UPDATE vars SET intval = instr(hex(zeroblob(60000000)), hex(zeroblob(30000000)) || 1)", "zeroblob"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("statement", "name"), CRASHING.values(), ids=CRASHING.keys())
def test_verify_refuses_a_function_that_crashes_or_hangs_it(tmp_path: Path, statement: str, name: str) -> None:
    url = hostile_backup(tmp_path, [], [statement])
    said = spawned(*command("verify", url, "--scratch", tmp_path))
    assert said.code == 3, said
    assert f"contains what no node writes (FUNCTION {name})" in said.err, said
    assert "Traceback" not in said.err


def test_restore_of_a_backup_that_calls_a_crashing_function_leaves_nothing(tmp_path: Path) -> None:
    url = hostile_backup(tmp_path, [], ["UPDATE vars SET intval = fts3_tokenizer('simple')"])
    (tmp_path / "new").mkdir()
    said = spawned(*command("restore", url, tmp_path / "new"))
    assert said.code == 3 and "FUNCTION fts3_tokenizer" in said.err
    assert list((tmp_path / "new").iterdir()) == []


IN_THE_SNAPSHOT = {
    "a trigger": ["CREATE TRIGGER r AFTER INSERT ON version BEGIN SELECT hex('x'); END"],
    "a check": ["CREATE TABLE t (x CHECK (hex(x) <> ''))", "CREATE TRIGGER r AFTER INSERT ON version BEGIN "
                "INSERT INTO t VALUES (1); END"],
    "an index": ["CREATE TABLE t (x)", "INSERT INTO t VALUES (1)", "CREATE INDEX i ON t (hex(x))"],
    "a condition": ["CREATE TABLE t (x)", "INSERT INTO t VALUES (1)", "CREATE INDEX i ON t (x) WHERE hex(x) <> ''"],
    "a generated column": ["DROP TABLE vars", "CREATE TABLE vars (name, val, intval, blobval AS (hex(name)))",
                           "INSERT INTO vars VALUES ('data_version', NULL, 7)",
                           "INSERT INTO vars VALUES ('node_id', NULL, NULL)"],
}  # fmt: skip


@pytest.mark.parametrize("schema", IN_THE_SNAPSHOT.values(), ids=IN_THE_SNAPSHOT.keys())
def test_function_in_the_snapshots_schema_is_refused(tmp_path: Path, schema: list[str]) -> None:
    url = hostile_backup(tmp_path, schema, ["INSERT INTO version VALUES (1)"])
    assert_refused(backup_cli("verify", url, "--scratch", tmp_path), r"\bhex\b.*Do not start a node from it", code=3)


# Every function, everywhere

EVERYWHERE = """
import sys
from contextlib import closing
from pathlib import Path
import apsw
from backends.sqlite.connection import READ_WRITE, connect
from backends.sqlite.functions import ALLOWED

PLACES = {
    "set": ["UPDATE version SET version = {call}"],
    "inserted": ["INSERT INTO version SELECT {call}"],
    "condition": ["DELETE FROM version WHERE {call} IS 99"],
    "in another": ["UPDATE version SET version = coalesce({call}, 1)"],
    "filtered": ["SELECT {call} FILTER (WHERE 1) FROM version"],
    "window": ["SELECT {call} OVER () FROM version"],
    "order": ["SELECT version FROM version ORDER BY {call}"],
    "table as": ["CREATE TABLE x AS SELECT {call} AS y"],
    "upsert": ["INSERT INTO vars (name) VALUES ('data_version') ON CONFLICT (name) DO UPDATE SET val = {call}"],
    "returning": ["INSERT INTO version VALUES (1) RETURNING {call}"],
    "check": ["CREATE TABLE x (y, CHECK ({call} IS NOT 99))", "INSERT INTO x VALUES (1)"],
    "default": ["CREATE TABLE x (y DEFAULT ({call}), z)", "INSERT INTO x (z) VALUES (1)"],
    "generated": ["CREATE TABLE x (z, y AS ({call}))", "INSERT INTO x VALUES (1)", "SELECT y FROM x"],
    "stored": ["CREATE TABLE x (z, y AS ({call}) STORED)", "INSERT INTO x VALUES (1)"],
    "index": ["CREATE TABLE x (y)", "INSERT INTO x VALUES (1)", "CREATE INDEX i ON x ({call})"],
    "partial": ["CREATE TABLE x (y)", "INSERT INTO x VALUES (1)", "CREATE INDEX i ON x (y) WHERE {call} IS NOT 99"],
    "view": ["CREATE VIEW w AS SELECT {call} AS y", "UPDATE version SET version = (SELECT y FROM w)"],
    "trigger": ["CREATE TRIGGER r AFTER INSERT ON version BEGIN UPDATE version SET version = {call}; END",
                "INSERT INTO version VALUES (1)"],
}

with closing(apsw.Connection(":memory:")) as fresh:
    functions = {(row[0], row[4]) for row in fresh.execute("PRAGMA function_list")}
calls = {}
for name, number in functions:
    for count in [number] if number >= 0 else [1, 2, 3]:
        calls[f'"{name}"({", ".join(["1"] * count)})'] = name
calls |= {"1 LIKE 2": "like", "1 GLOB 2": "glob", "1 MATCH 2": "match", "1 -> 2": "->", "1 ->> 2": "->>",
          "CURRENT_TIME": "current_time", "CURRENT_TIMESTAMP": "current_timestamp", "hEx (1)": "hex",
          "hex/**/(1)": "hex", "[fts3_tokenizer](1)": "fts3_tokenizer", "`fts5_source_id`()": "fts5_source_id",
          "1 LIKE 2 ESCAPE 3": "like"}
for encoding in sys.argv[2:]:
    path = Path(sys.argv[1], encoding)
    with closing(apsw.Connection(str(path))) as new:
        new.execute(f"PRAGMA encoding = '{encoding}'")
        for statement in ["CREATE TABLE version (version)", "INSERT INTO version VALUES (1)",
                          "CREATE TABLE vars (name PRIMARY KEY, val)", "INSERT INTO vars VALUES ('data_version', 1)"]:
            new.execute(statement)
    with closing(connect(path, READ_WRITE)) as connection:
        for call, name in calls.items():
            if name in ALLOWED:
                continue
            for place, statements in PLACES.items():
                connection.execute("BEGIN")
                try:
                    for statement in statements:
                        list(connection.execute(statement.format(call=call)))
                    print("passed:", encoding, place, call)
                except (apsw.AuthError, apsw.SQLError):
                    pass
                if not connection.get_autocommit():
                    connection.execute("ROLLBACK")
print(len(calls), "calls")
"""


def test_every_forbidden_function_of_sqlite_is_refused_in_every_place(tmp_path: Path) -> None:
    """In a process of its own: before functions were refused, the first of these calls crashed it."""
    told = subprocess.run(
        [sys.executable, "-c", EVERYWHERE, str(tmp_path), "UTF-8", "UTF-16"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-500:]
    assert re.fullmatch(r"\d{3} calls\n", told.stdout), told.stdout[-500:]


def test_forbidden_function_is_refused_with_any_number_of_arguments(tmp_path: Path) -> None:
    """SQLite prefers an extension's function for one argument to ours that refuses any number of them."""
    with closing(connect(node(tmp_path / "db"), READ_WRITE)) as connection:
        for call in ("fts3_tokenizer('simple')", "fts3_tokenizer('simple', x'00')", "fts5_source_id()", "fts5(1)"):
            with pytest.raises(FunctionRefused):
                connection.execute(f"SELECT {call}")


# Functions that a node does call

RECORDINGS = Path(__file__).parents[2] / "backup_cli" / "drill" / "recordings"

TEXT = re.compile(r"[xX]?'(?:[^']|'')*'")


def test_allowed_functions_are_exactly_those_that_recorded_nodes_call() -> None:
    """Every statement of a node from its first start, through all migrations, prepared and asked about."""
    called: set[str] = set()
    now = ""

    def ask(action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if action == apsw.SQLITE_FUNCTION and not now.startswith("ALTER"):  # SQLite's own
            called.add(str(second))
        return apsw.SQLITE_OK

    with (
        closing(apsw.Connection(":memory:")) as connection,
        gzip.open(RECORDINGS / "fresh-channel.jsonl.gz", "rt") as file,
    ):
        connection.set_authorizer(ask)
        for line in file:
            for now in json.loads(line)["writes"]:
                connection.execute(now)
    assert called == NODES_CALL


def test_alter_table_may_still_use_sqlites_internal_functions(tmp_path: Path) -> None:
    with Replay(tmp_path / "db") as replay:
        replay.execute(NODE, 7)
        replay.execute(["CREATE TABLE t (a INTEGER, b TEXT) STRICT", "CREATE INDEX i ON t (b)"], 8)
        replay.execute(["INSERT INTO t VALUES (1, 'x')", "ALTER TABLE t ADD COLUMN c TEXT DEFAULT 'a;b'"], 9)
        replay.execute(
            ["ALTER TABLE t RENAME TO u", "ALTER TABLE u RENAME COLUMN a TO d", "ALTER TABLE u DROP COLUMN c"]
        )
        replay.finish()
    assert rows(tmp_path / "db", "SELECT d, b FROM u") == [(1, "x")]


def test_replace_function_equals_sqlites_own_for_short_patterns(tmp_path: Path) -> None:
    values = ["'1:2:3'", "NULL", "15", "1.5", "x'313a32'", "''"]
    with closing(connect(node(tmp_path / "db"), READ_WRITE)) as ours, closing(apsw.Connection(":memory:")) as sqlite:
        for value in values:
            for sought in ("':'", "''", "'1'"):
                query = f"SELECT replace({value}, {sought}, 'x'), typeof(replace({value}, {sought}, 'x'))"
                assert list(ours.execute(query)) == list(sqlite.execute(query)), query


def test_replace_function_with_a_long_pattern_is_refused(tmp_path: Path) -> None:
    with Replay(tmp_path / "db") as replay:
        replay.execute(NODE, 7)
        replay.execute([f"UPDATE vars SET val = replace('a:a', '{':' * LONGEST_SOUGHT}', 'x')"], 8)
        long = "a" * 2_000_000
        began = time.monotonic()
        with pytest.raises(ReplayFailed, match=r"what no node writes \(FUNCTION replace\)"):
            replay.execute([f"UPDATE vars SET val = replace('{long}', '{long[:1_000_000]}b', 'x')"], 9)
        assert time.monotonic() - began < 20


def test_function_call_with_too_many_arguments_is_refused(tmp_path: Path) -> None:
    """Each argument is copied for the function that refuses, and no limit of SQLite's counts that memory."""
    with Replay(tmp_path / "db") as replay:
        replay.execute(NODE, 7)
        with pytest.raises(ReplayFailed, match="too many arguments"):
            replay.execute(["UPDATE vars SET val = concat(val, val, val, val, val)"], 8)


def test_refusal_of_a_function_names_it_but_its_finding_does_not(tmp_path: Path) -> None:
    with Replay(tmp_path / "db") as replay:
        replay.execute(NODE, 7)
        with pytest.raises(ReplayFailed) as caught:
            replay.execute(["UPDATE vars SET val = hex(zeroblob(9))"], 8)
    assert str(caught.value).startswith("the change with data version 8 contains what no node writes (FUNCTION ")
    assert caught.value.exit_code == 3
    assert caught.value.finding == "the change with data version 8 contains what no node writes"


def test_allowed_functions_include_none_that_costs_time_or_memory() -> None:
    costly = {"hex", "instr", "like", "glob", "printf", "format", "randomblob", "zeroblob", "group_concat", "concat",
              "quote", "unistr", "json", "trim"}  # fmt: skip
    assert not ALLOWED & costly


# Virtual tables that SQLite makes when they are named

MADE_WHEN_NAMED = (
    "json_each('[1]')", "json_tree('[1]')", "jsonb_each('[1]')", "jsonb_tree('[1]')", "carray(1, 1)", "pragma_optimize",
    "pragma_database_list", "pragma_function_list", "pragma_integrity_check", "pragma_compile_options", "sqlite_dbpage",
    "dbstat", "generate_series(1, 3)", "bytecode('SELECT 1')", "sqlite_stmt", "fts3tokenize('simple')",
)  # fmt: skip

ROADS = {
    "plain": ["INSERT INTO version SELECT 1 FROM {}"],
    "guarded": [" INSERT INTO version SELECT 1 FROM {}"],
    "the second of two": ["INSERT INTO version VALUES (1); INSERT INTO version SELECT 1 FROM {}"],
    "after an ALTER": ["ALTER TABLE version ADD COLUMN y INTEGER; INSERT INTO version (version) SELECT 1 FROM {}"],
    "a new table": ["CREATE TABLE t AS SELECT 1 AS x FROM {}"],
    "a view": ["CREATE VIEW v AS SELECT 1 AS x FROM {}", "INSERT INTO version SELECT x FROM v"],
    "a trigger": [
        "CREATE TRIGGER r AFTER INSERT ON version BEGIN UPDATE vars SET val = (SELECT 1 FROM {}); END",
        "INSERT INTO version VALUES (1)",
    ],
    "a trigger on the bump": [
        "CREATE TRIGGER r AFTER UPDATE ON vars BEGIN INSERT INTO version SELECT 1 FROM {}; END",
        "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = 7",
    ],
}


@pytest.mark.parametrize("statements", ROADS.values(), ids=ROADS.keys())
def test_virtual_table_made_by_naming_it_is_refused(tmp_path: Path, statements: list[str]) -> None:
    """SQLite registers them when they are named, also after `drop_modules`."""
    for number, table in enumerate(MADE_WHEN_NAMED):
        with Replay(node(tmp_path / f"{number}.sqlite3")) as replay, pytest.raises(ReplayFailed) as refused:
            replay.execute([statement.format(table) for statement in statements], 8)
        said = str(refused.value)
        assert "no such table" in said or "contains what no node writes (READ " in said


def test_alter_table_of_a_strict_table_is_executed(tmp_path: Path) -> None:
    with Replay(node(tmp_path / "db")) as replay:
        replay.execute(["CREATE TABLE s (x INTEGER) STRICT", "ALTER TABLE s ADD COLUMN y INTEGER NOT NULL DEFAULT 0"])
