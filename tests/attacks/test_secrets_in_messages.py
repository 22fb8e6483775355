"""A statement that fails holds a rune and an invoice's description: no message, log, mail or note contains any of it.

People paste what they see into issues and chats. Only --show-statements shows the statement, to whoever asks for it.
"""

import json
import random
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from subprocess import PIPE

import apsw
import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import BackupError
from backends.log.format.documents import SESSION
from backends.log.known_damage import DAMAGE
from backends.sqlite.error_text import FOREIGN_JOURNAL, MANY_ROWS, NOT_UTF8, SEVERAL_ROWS, sqlite_words
from backends.sqlite.replay import Replay
from backends.sqlite.statement_outline import outline
from backends.system.interpreter import python
from backup_cli.main import cli
from plugin.compaction import _COMPACTOR
from tests.attacks.hostile_text import append_change, some
from tests.end_to_end.world import Said, World, backup_cli
from tests.fake_lightningd import History, Refused, transaction
from tests.legacy.written import written
from tests.log.histories import CAMPAIGN

RUNE = "tU-RLjMiDpY2U0o3W1oFowar36RFGpWloPbW9-RuZdo9MyZpZD0w"
TOLD = "coffee for Mallory"
SECRETS = (RUNE, RUNE[:12], RUNE[-12:], TOLD, "Mallory", "coffee")

STATEMENTS = {
    "a missing table": f"INSERT INTO runes VALUES ('{RUNE}', '{TOLD}')",
    "a missing column": f"UPDATE vars SET rune = '{RUNE} {TOLD}'",
    "a value taken for a column": "INSERT INTO vars (name, val) VALUES (Mallory, coffee)",
    "two values in a row": f"INSERT INTO vars (name, val) VALUES ('a' '{RUNE}' '{TOLD}')",
    "an open text": f"INSERT INTO vars (name, val) VALUES ('{RUNE} {TOLD}",
    "an open name": f'UPDATE vars SET "{RUNE} {TOLD}',
    "the end of another": f"{TOLD}', '{RUNE}')",
    "nothing but a value": f"'{RUNE} {TOLD}'",
    "an unknown function": f"INSERT INTO vars (name) VALUES (Mallory('{RUNE}'))",
    "a row that is there": f"INSERT INTO vars (name, val) VALUES ('data_version', '{RUNE} {TOLD}')",
    "a value of the wrong kind": f"INSERT INTO version VALUES ('{RUNE} {TOLD}')",
    "a file to attach": f"ATTACH '{TOLD} {RUNE}' AS x",
    "a setting": f"PRAGMA user_version = '{RUNE} {TOLD}'",
    "a setting of that name": f'PRAGMA "{RUNE}" = "{TOLD}"',
    "a function of that name": f"SELECT load_extension('{RUNE} {TOLD}')",
    "a table of that name": f'INSERT INTO "{RUNE}" VALUES ("{TOLD}")',
    "a comment": f"/* {TOLD} {RUNE} */ DELETE FROM nowhere",
    "a table's definition": f"CREATE TABLE vars (x DEFAULT '{RUNE} {TOLD}')",
    "an index that cannot be": f"CREATE UNIQUE INDEX i ON nowhere (x) WHERE x = '{RUNE} {TOLD}'",
    "too much memory": f"INSERT INTO vars (name, val) VALUES ('{RUNE} {TOLD}', zeroblob(999999999) || 'x')",
}
UNKNOWN = {name: text for name, text in STATEMENTS.items() if text.startswith(("ATTACH", "PRAGMA"))}
"""Statements that lightningd never sends."""

each_statement = some(STATEMENTS, "two values in a row", "a file to attach")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a temporary directory: a statement that is really executed (`ATTACH`) makes its file there."""
    monkeypatch.chdir(tmp_path)


def assert_no_secret(text: str) -> None:
    assert not [secret for secret in SECRETS if secret.lower() in text.lower()], text


def assert_no_secret_in(said: Said, *codes: int) -> Said:
    assert said.code in codes, said
    assert_no_secret(said.out)
    assert_no_secret(said.err)
    return said


def assert_nothing_noted(world: World) -> None:
    """No secret in the files that the tool has written for people and programs, here and at the destination."""
    noted = [file for file in (*world.backup.iterdir(), *world.directory.iterdir()) if file.is_file()]
    for file in noted:
        if not file.name.startswith(("segment", "snapshot", "lightningd.sqlite3")):
            assert_no_secret(file.read_bytes().decode(errors="replace"))
    assert SESSION in [file.name for file in noted]


@each_statement
def test_commands_on_a_backup_with_a_failing_statement_show_no_value(
    lived: World, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr("backup_cli.commands.compact.segments_freed", lambda storage: 1)  # however little that is
    statement = case
    append_change(lived, statement)
    for _ in range(20):  # or nothing can be compacted
        append_change(lived, "DELETE FROM version")
    new = lived.root / "new.sqlite3"
    reading = (["verify", lived.url], ["restore", lived.url, new], ["compact", lived.url])
    for words in (*reading, ["drill", "--lightning-dir", lived.directory, lived.url]):
        (lived.backup / DAMAGE).unlink(missing_ok=True)
        said = assert_no_secret_in(backup_cli(*words), 3)
        assert "--show-statements" in said.err
        assert_nothing_noted(lived)
        (lived.backup / DAMAGE).unlink(missing_ok=True)
        assert "the change with data version 7" in said.err
        asked = backup_cli(*words, "--show-statements")
        assert asked.code == 3
        assert asked.err.count("in full, may be secret: ") == 1
        assert statement in asked.err
        assert statement not in asked.out
    assert_no_secret_in(backup_cli("verify", lived.url), 3)
    assert_no_secret_in(backup_cli("status", lived.url), 3)
    assert_no_secret_in(backup_cli("status", "--json", lived.url), 3)
    assert_no_secret_in(backup_cli("status", "--prometheus", lived.url), 3)
    assert_no_secret_in(backup_cli("versions", lived.url), 0, 3)
    assert_no_secret_in(backup_cli("check-config", "--lightning-dir", lived.directory), 1)
    assert_nothing_noted(lived)


def test_failing_statement_is_named_by_kind_and_table(lived: World) -> None:
    append_change(lived, f"INSERT INTO payments (description) VALUES ('{TOLD}')")
    said = assert_no_secret_in(backup_cli("verify", lived.url), 3)
    assert "cannot be executed: no such table: payments, in: INSERT INTO payments; the backup" in said.err


@each_statement
def test_node_whose_backup_has_a_failing_statement_logs_no_value(lived: World, history: History, case: str) -> None:
    """The node is killed before it had committed, so that the plugin tries to bring it forward; then it compacts. Both
    log."""
    statement = case
    append_change(lived, statement)
    mail = lived.directory / "backup.notify"
    mail.write_text('#!/bin/sh\necho "$@" "$LIGHTNINGD_BACKUP_SENTENCE" >> mail\n')
    mail.chmod(0o700)
    node = lived.node()
    try:
        with node:
            node.play([history.note()])
    except Refused as refused:
        assert_no_secret(str(refused))
    assert node.logs
    for _, line in node.logs:
        assert_no_secret(line)
    assert_no_secret(node.stderr)
    assert_nothing_noted(lived)


@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS.keys())
def test_error_of_any_failing_statement_shows_no_value(statement: str) -> None:
    error = _failure(statement)
    assert error is not None
    assert_no_secret(str(error))
    assert_no_secret(getattr(error, "finding", ""))
    assert statement in error.withheld


@each_statement
def test_compaction_of_a_failing_statement_logs_no_value(lived: World, case: str) -> None:
    """The plugin's compaction process: what it prints goes to the node's log."""
    statement = case
    append_change(lived, statement)
    for _ in range(20):
        append_change(lived, "DELETE FROM version")
    words = [*python(_COMPACTOR), lived.url]
    with subprocess.Popen(words, cwd=lived.directory, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = process.stdout.read(), process.stderr.read()
    assert "the change with data version 7" in err
    assert_no_secret(out)
    assert_no_secret(err)


@pytest.mark.parametrize("statement", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_refusal_of_an_unknown_statement_shows_no_value(
    lived: World, history: History, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lived.root)  # the node itself attaches the file
    with pytest.raises(Refused, match="does not know") as caught, lived.node() as node:
        node.play([history.transaction(statement)])
    assert_no_secret(str(caught.value))
    for _, line in node.logs:
        assert_no_secret(line)
    assert_nothing_noted(lived)


@each_statement
def test_refusal_of_a_malformed_call_shows_no_value(lived: World, case: str) -> None:
    """pyln-client logs whatever fails while it parses a call."""
    statement = case
    with lived.node() as node:
        for params in ({"data_version": 7, "write": [statement]}, {"data_version": statement, "writes": [statement]}):
            reply = node.wire.reply(node.wire.post("db_write", params), 20)
            assert "error" in reply or reply["result"]["result"] == "fail"
            assert_no_secret(json.dumps(reply))
    for _, line in node.logs:
        assert_no_secret(line)


@each_statement
def test_restore_and_import_of_a_legacy_backup_with_a_failing_statement_show_no_value(world: World, case: str) -> None:
    statement = case
    life = History()
    calls = [life.first(), *life.notes(3)]
    file = written([*calls, transaction(5, statement)]).save(world.root / "file.bkp")
    new = world.root / "new.sqlite3"
    for words in (["restore", file.as_uri(), new], ["import", file, world.url]):
        said = assert_no_secret_in(backup_cli(*words), 3)
        assert "--show-statements" in said.err
        assert statement in backup_cli(*words, "--show-statements").err


def test_verify_reports_a_differing_row_without_its_values(lived: World, history: History) -> None:
    lived.run_without_plugin([History(lived.version).note(f"{RUNE} {TOLD}")])
    said = assert_no_secret_in(backup_cli("verify", "--lightning-dir", lived.directory, lived.url), 1)
    assert "DIFFERENT: table vars" in said.out


def test_commands_on_a_database_with_a_damaged_schema_show_no_value(lived: World, history: History) -> None:
    """In a damaged database SQLite reads rows as its schema, and quotes them in its errors."""
    with closing(sqlite3.connect(lived.database)) as node:
        node.execute("PRAGMA writable_schema = ON")
        node.execute(f"INSERT INTO sqlite_schema VALUES ('table', '{TOLD}', '{RUNE}', 9, 'CREATE TABEL {RUNE}')")
        node.commit()
    for words in (["check-config"], ["resync"], ["status"], ["init"]):
        place = [lived.url + "2"] if words == ["init"] else []
        assert_no_secret_in(backup_cli(*words, "--lightning-dir", lived.directory, *place), 0, 1)
    assert_no_secret_in(backup_cli("verify", "--lightning-dir", lived.directory, lived.url), 0, 1)


def test_show_statements_option_exists_where_a_statement_can_fail() -> None:
    context = click.Context(cli)
    commands = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    offered = {name for name, each in commands.items() if each and any(p.name == "in_full" for p in each.params)}
    assert offered == {"verify", "restore", "follow", "import", "compact", "drill"}
    for name in offered:
        assert "may hold secrets (runes, invoices, preimages)" in " ".join(backup_cli(name, "--help").out.split())


# With any damage to a real statement

REAL = (
    f"INSERT INTO vars (name, val) VALUES ('{RUNE}', '{TOLD}')",
    f"UPDATE vars SET val='{RUNE}', name='{TOLD}' WHERE name='x'",
    f"DELETE FROM vars WHERE name='{TOLD}' AND val='{RUNE}'",
)


@settings(max_examples=150 * CAMPAIGN, deadline=None)
@given(st.sampled_from(REAL), st.integers(0, 2**32), st.integers(1, 4))
def test_damaged_statement_shows_no_value(statement: str, seed: int, damages: int) -> None:
    chance = random.Random(seed)
    for _ in range(damages):
        at = chance.randrange(len(statement) + 1)
        cut = chance.choice(("", "'", '"', "(", "\x1b", "--", "[", " ", "\n", ";", "`"))
        statement = statement[:at] + cut + statement[at + chance.randrange(3) :]
        if chance.random() < 0.3:
            statement = statement[chance.randrange(len(statement)) :]
    assert_no_secret(outline(statement))
    error = _failure(statement)
    if error is not None:
        assert_no_secret(str(error))
        assert_no_secret(getattr(error, "finding", ""))


ROW = "INSERT INTO vars (name) VALUES ('data_version')"


def _failure(statement: str) -> BackupError | None:
    with tempfile.TemporaryDirectory() as place, Replay(Path(place) / "db") as replay:
        replay.execute(["CREATE TABLE vars (name TEXT PRIMARY KEY, val TEXT, intval INTEGER)"], 1)
        replay.execute(
            ["CREATE TABLE version (version INTEGER) STRICT", "INSERT INTO vars (name) VALUES ('data_version')"]
        )
        try:
            replay.execute([statement, "SELECT 1"], 2)
        except BackupError as error:
            return error
    return None


@pytest.mark.parametrize("ours", [NOT_UTF8, FOREIGN_JOURNAL, SEVERAL_ROWS, MANY_ROWS])
def test_reason_raised_by_our_own_code_is_still_shown(ours: str) -> None:
    """It is raised like one of SQLite's errors, and once became "SQLITE_OK"."""
    assert sqlite_words(apsw.CorruptError(ours)) == ours
