"""A backup whose database holds objects that no lightningd makes, and that would run inside lightningd."""

import gzip
import os
import re
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.sqlite.connection import READ_WRITE, connect
from backends.sqlite.functions import allow_only_known
from backends.sqlite.replay import Replay, ReplayFailed
from backends.sqlite.schema import SHOWN, UnknownObjects, unknown_objects
from tests.attacks.hostile import hostile_backup
from tests.cli.cli_asserts import assert_refused
from tests.end_to_end.world import Said, World, backup_cli
from tests.fake_lightningd import History
from tests.legacy.written import Written
from tests.sqlite.databases import execute, node, rows

CAMPAIGN = 20 if os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN", "0") != "0" else 1

TABLE = "CREATE TABLE t (x, y)"

STEAL = "CREATE TRIGGER steal AFTER INSERT ON version BEGIN DELETE FROM version; END"

UNKNOWN = {
    "a trigger": ([STEAL], "trigger steal on version"),
    "a view": (["CREATE VIEW w AS SELECT 1 AS x"], "view w"),
    "a view for a table": (["DROP TABLE version", "CREATE VIEW version AS SELECT 1 AS version"], "view version"),
    "a virtual table": (["CREATE VIRTUAL TABLE f USING fts5(x)"], r"table f \(virtual\)"),
    "a check": (["CREATE TABLE t (x CHECK (x > 0))"], r"table t \(CHECK\)"),
    "a check of the table": (["CREATE TABLE t (x, CONSTRAINT c CHECK (x <> ''))"], r"table t \("),
    "a generated column": (["CREATE TABLE t (x, y AS (x || 1))"], r"table t \("),
    "one in more words": (["CREATE TABLE t (x, y GENERATED ALWAYS AS (x) STORED)"], r"table t \(a generated column\)"),
    "a default": (["CREATE TABLE t (x DEFAULT (1 + 1))"], r"table t \(an expression as a default\)"),
    "the time as a default": (["CREATE TABLE t (x DEFAULT CURRENT_TIMESTAMP)"], r"table t \(an expression"),
    "an index of an expression": ([TABLE, "CREATE INDEX i ON t (x + y)"], r"index i \(an expression\)"),
    "an index of a function": ([TABLE, "CREATE INDEX i ON t (lower(x))"], r"index i \(an expression\)"),
    "a condition that calls": ([TABLE, "CREATE INDEX i ON t (x) WHERE length(x) > 1"], r"index i \(its condition\)"),
    "a condition that calls in quotes": ([TABLE, 'CREATE INDEX i ON t (x) WHERE "length"(x) > 1'], r"index i \("),
    "a condition that matches": ([TABLE, "CREATE INDEX i ON t (x) WHERE x LIKE 'a%'"], r"index i \("),
    "behind a comment": (["CREATE TABLE t (x /* ' */ CHECK (x > 0) /* ' */)"], r"table t \("),
    "behind a name in quotes": (["CREATE TABLE t (\"'\" CHECK (1), \"'' \" TEXT)"], r"table t \(CHECK\)"),
    "behind a mark that SQLite skips": (["CREATE TABLE t (x \ufeffCHECK (x > 0))"], r"table t \(its definition\)"),
}  # fmt: skip


@pytest.mark.parametrize(("schema", "told"), UNKNOWN.values(), ids=UNKNOWN.keys())
def test_restore_and_verify_refuse_an_unknown_schema_object_by_name(
    tmp_path: Path, schema: list[str], told: str
) -> None:
    url = hostile_backup(tmp_path, schema)
    (tmp_path / "new").mkdir()
    for said in (restore(url, tmp_path / "new"), verify(url, tmp_path)):
        assert_refused(said, rf"holds objects that no lightningd makes, and they would run inside the node: {told}")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    "made", [["CREATE TRIGGER r AFTER INSERT ON version BEGIN SELECT 1; END"], ["CREATE VIEW r AS SELECT 1"]]
)
def test_schema_object_made_by_a_change_in_the_log_is_refused(tmp_path: Path, made: list[str]) -> None:
    assert_refused(verify(hostile_backup(tmp_path, [], made), tmp_path), "holds objects that no lightningd makes.* r")


def test_import_of_a_legacy_backup_with_a_trigger_is_refused(tmp_path: Path) -> None:
    database = node(tmp_path / "db", "CREATE TRIGGER steal AFTER INSERT ON version BEGIN SELECT 1; END")
    written = Written().snapshot(7, database)
    old = tmp_path / "old.bkp"
    old.write_bytes(written.header + written.records)
    before = set(tmp_path.iterdir())
    said = backup_cli("import", old, f"file://{tmp_path / 'new.bkp'}", "--scratch", tmp_path)
    assert said.code == 1 and "trigger steal on version" in said.err and "nothing was created" in said.err, said
    assert set(tmp_path.iterdir()) == before
    said = backup_cli("import", old, f"file://{tmp_path / 'new.bkp'}", "--scratch", tmp_path, "--accept-schema")
    assert said.code == 0, said


def test_change_that_makes_a_schema_object_is_not_replayed_into_the_nodes_database(tmp_path: Path) -> None:
    """Whoever owns the destination could append a change; at the next start it would be replayed into the node's own
    file."""
    for number, made in enumerate([STEAL, "CREATE VIEW r AS SELECT 1", "CREATE TABLE r (x CHECK (x > 0))"]):
        database = node(tmp_path / f"db{number}")
        before = database.read_bytes()
        with Replay(database, in_place=True) as replay, pytest.raises(ReplayFailed):
            replay.execute([made, "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = 7"], 8)
        assert database.read_bytes() == before


# The operator knows better


def test_accept_schema_option_restores_the_unknown_object(tmp_path: Path) -> None:
    url = hostile_backup(tmp_path, ["CREATE VIEW mine AS SELECT 1 AS x"])
    assert verify(url, tmp_path).code == 1
    said = verify(url, tmp_path, "--accept-schema")
    assert said.code == 0 and "you accepted: view mine" in said.err and "is whole" in said.out
    (tmp_path / "new").mkdir()
    assert restore(url, tmp_path / "new", "--accept-schema").code == 0
    assert rows(tmp_path / "new" / "lightningd.sqlite3", "SELECT x FROM mine") == [(1,)]


def test_accept_schema_option_without_unknown_objects_changes_nothing(tmp_path: Path) -> None:
    assert verify(hostile_backup(tmp_path, []), tmp_path, "--accept-schema").code == 0


def test_unknown_schema_object_is_not_noted_as_damage(tmp_path: Path) -> None:
    """Noted as damage, it would make the node take snapshot after snapshot of its own view."""
    url = hostile_backup(tmp_path, ["CREATE VIEW mine AS SELECT 1 AS x"])
    assert verify(url, tmp_path).code == 1
    assert not (tmp_path / "hostile.bkp" / "damage").exists()


def test_init_and_check_config_warn_of_an_unknown_schema_object(world: World, history: History) -> None:
    world.run_without_plugin([history.first(), *history.notes(3)])
    with closing(apsw.Connection(str(world.database))) as connection:
        execute(connection, "CREATE VIEW payments_by_day AS SELECT 1 AS x")
    said = backup_cli("init", "--lightning-dir", world.directory, world.url)
    assert said.code == 0
    assert re.search(r"warning: .*no lightningd makes: view payments_by_day.*--accept-schema", said.err)
    said = backup_cli("check-config", "--lightning-dir", world.directory)
    assert "view payments_by_day" in said.text
    assert "--accept-schema" in backup_cli("verify", world.url).err
    assert backup_cli("verify", world.url, "--accept-schema").code == 0


def test_init_of_a_database_whose_index_calls_a_forbidden_function_names_it(world: World, history: History) -> None:
    """An expression index of the operator's: the log could never be replayed, and the database is not corrupt."""
    world.run_without_plugin([history.first(), *history.notes(3)])
    with closing(apsw.Connection(str(world.database))) as connection:
        execute(connection, "CREATE INDEX mine ON vars (hex(name))")
    said = backup_cli("init", "--lightning-dir", world.directory, world.url)
    assert_refused(
        said,
        "calls the function hex, which no lightningd database does; nothing was written. If you added it, stop the "
        "node, drop it",
    )


# Names


def test_hostile_name_of_a_schema_object_is_one_printable_line(tmp_path: Path) -> None:
    evil = 'CREATE VIEW "\x1b[2J\nerror: all is well\u202e' + "x" * 500 + '" AS SELECT 1'
    said = verify(hostile_backup(tmp_path, [evil]), tmp_path)
    assert said.code == 1 and r"view \x1b[2J\x0aerror: all is well\u202exx" in said.err
    assert "\x1b[2J" not in said.err and "\u202e" not in said.err and "x" * 100 not in said.err


def test_thousands_of_unknown_schema_objects_are_counted_and_not_all_listed(tmp_path: Path) -> None:
    views = [f"CREATE VIEW w{number} AS SELECT 1" for number in range(2000)]
    with closing(apsw.Connection(str(node(tmp_path / "db", "BEGIN", *views, "COMMIT")))) as connection:
        found = unknown_objects(connection)
    assert found.count == 2000 and len(found.objects) == SHOWN and "and 1980 more" in found.sentence()


def test_schema_definition_of_megabytes_is_unknown_without_being_parsed(tmp_path: Path) -> None:
    with closing(apsw.Connection(str(node(tmp_path / "db", f"CREATE TABLE t (x {' ' * 5_000_000})")))) as connection:
        assert unknown_objects(connection).objects == ("table t (its definition)",)


# What lightningd makes

KNOWN = [
    ["CREATE TABLE t (x INTEGER DEFAULT -1, y TEXT DEFAULT 'a (CHECK) AS', z BLOB DEFAULT x'00', PRIMARY KEY (x))"],
    ["CREATE TABLE payments (id INTEGER PRIMARY KEY AUTOINCREMENT) STRICT", "ANALYZE"],
    [TABLE, "ALTER TABLE t RENAME TO u", "CREATE UNIQUE INDEX i ON u (x, y DESC)"],
    [TABLE, "CREATE INDEX i ON t (x)    -- why\n WHERE y NOT IN (9, 19);"],
    ['CREATE TABLE "check" ("as" TEXT, x REFERENCES version (version) ON DELETE SET NULL, UNIQUE (x, "as"))'],
]


@pytest.mark.parametrize("schema", KNOWN)
def test_schema_that_lightningd_might_make_is_known(tmp_path: Path, schema: list[str]) -> None:
    with closing(apsw.Connection(str(node(tmp_path / "db", *schema)))) as connection:
        assert unknown_objects(connection) == UnknownObjects()


def test_recorded_nodes_schema_is_known() -> None:
    recording = Path(__file__).parents[2] / "backup_cli" / "drill" / "recordings" / "fresh-channel.sqlite3.gz"
    with closing(apsw.Connection(":memory:")) as connection:
        connection.deserialize("main", gzip.decompress(recording.read_bytes()))
        assert len(list(connection.execute("SELECT 1 FROM sqlite_schema"))) == 71
        assert not unknown_objects(connection)


# At random: whatever SQLite runs is reported

GAPS = st.sampled_from(
    [" ", "\n", "\t", "/**/", "/*'*/", '/*"*/', "/* ] */", "--'\n", '--"\n', " /* -- */ ", "\f", "\ufeff"]
)
NAMES = st.sampled_from(["a", '"a b"', "[c']", '`d"`', '"check"', "[as]", '"e""\'"', "_f", "'g'"])
CALLS = st.sampled_from(
    ["probe(1)", "probe ( 1 )", '"probe"(1)', "[probe](1)", "`probe`(1)", "PROBE/**/(1)", "(probe(1))"]
)
VALUES = st.sampled_from(["1", "-1", "'x'", "''''", "x'00'", "NULL", "'CHECK (1)'", '"quoted"', "1.5e3"])


@st.composite
def columns(draw: st.DrawFn) -> str:
    """One column, perhaps with something that runs."""
    call, gap = draw(CALLS), draw(GAPS)
    clause = draw(st.sampled_from([
        "", "INTEGER", f"DEFAULT{gap}{draw(VALUES)}", f"CHECK{gap}({call})", f"ChEcK({call})", f"AS{gap}({call})",
        f"GENERATED ALWAYS{gap}AS({call}) STORED", f"DEFAULT{gap}({call})", "COLLATE NOCASE", "UNIQUE",
        f"CONSTRAINT{gap}{draw(NAMES)}{gap}CHECK{gap}({call})", f"REFERENCES{gap}version",
    ]))  # fmt: skip
    return f"{draw(NAMES)}{draw(GAPS)}{clause}"


@st.composite
def schemas(draw: st.DrawFn) -> list[str]:
    """A table, perhaps with an index, a trigger or a view."""
    gap, call = draw(GAPS), draw(CALLS)
    table = (
        f"CREATE{gap}TABLE t (k{gap}INTEGER, {f',{draw(GAPS)}'.join(draw(st.lists(columns(), max_size=3)) or ['z'])})"
    )
    more = draw(st.sampled_from([
        "", f"CREATE INDEX i ON t{gap}(k)", f"CREATE INDEX i ON t{gap}({call})",
        f"CREATE INDEX i ON t (k){gap}WHERE{gap}{call}",
        f"CREATE INDEX i ON t (k) WHERE k NOT IN (9,{gap}{call})", f"CREATE INDEX i ON t (k) WHERE k IN{gap}(9)",
        f"CREATE TRIGGER{gap}r AFTER INSERT ON t BEGIN SELECT {call}; END",
        f"CREATE UNIQUE{gap}INDEX i ON t(k, {call})",
        f"CREATE VIEW{gap}v AS SELECT {call}",
    ]))  # fmt: skip
    return [table, more] if more else [table]


@given(schemas())
@settings(max_examples=150 * CAMPAIGN, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_schema_that_runs_a_function_is_reported_as_unknown(schema: list[str]) -> None:
    ran: list[int] = []

    def probe(*values: "apsw.SQLiteValue") -> int:
        ran.append(1)
        return 1

    with closing(apsw.Connection(":memory:")) as connection:
        connection.create_scalar_function("probe", probe, 1, deterministic=True)
        execute(connection, "CREATE TABLE version (version PRIMARY KEY)")
        try:
            execute(connection, *schema)
        except apsw.Error:
            return  # SQLite does not accept it as a schema
        for statement in (
            "INSERT INTO t (k) VALUES (1)", "INSERT INTO t DEFAULT VALUES", "UPDATE t SET k = 2", "SELECT * FROM t",
            "PRAGMA integrity_check", "SELECT * FROM v", "REINDEX",
        ):  # fmt: skip
            try:
                execute(connection, statement)
            except apsw.Error:
                continue
        if ran:
            assert unknown_objects(connection), schema


@given(schemas())
@settings(max_examples=50 * CAMPAIGN, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_schema_calls_no_forbidden_function_on_our_connections(schema: list[str]) -> None:
    """The same definitions, with a function of SQLite's instead of the probe, made elsewhere and opened by us."""
    with closing(apsw.Connection(":memory:")) as connection:
        try:
            execute(connection, "CREATE TABLE version (version PRIMARY KEY)")
            execute(connection, *(re.sub("probe", "hex", text, flags=re.IGNORECASE) for text in schema))
        except apsw.Error:
            return
        unknown = unknown_objects(connection)
        allow_only_known(connection)
        for statement in ("INSERT INTO t (k) VALUES (1)", "SELECT * FROM t", "SELECT * FROM v"):
            try:
                execute(connection, statement)
            except apsw.Error:
                assert unknown or "v" in statement, schema


def restore(url: str, dest: Path, *options: str) -> Said:
    return backup_cli("restore", url, dest, *options)


def verify(url: str, scratch: Path, *options: str) -> Said:
    return backup_cli("verify", url, "--scratch", scratch, *options)


def test_schema_of_a_plain_node_has_no_unknown_objects_on_our_connection(tmp_path: Path) -> None:
    with closing(connect(node(tmp_path / "db"), READ_WRITE)) as connection:
        assert not unknown_objects(connection)
