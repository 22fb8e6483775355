"""What a call means: the whole table of what lightningd does, and what must hold for any call at all."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Position
from backends.change import VERSIONS, WRAP_WINDOW, Change
from backends.sqlite.replay import Replay
from backends.sqlite.replay_errors import ReplayFailed
from backends.text import counted
from plugin.decision import Decision, Do, decide
from tests.fake_lightningd.calls import bump
from tests.sqlite.databases import NODE

LAST = VERSIONS - 1


def position(version: int) -> Position:
    """A backup that ends at this version."""
    return Position(version, sequence=version + 10, checksum=7)


def transaction(version: int) -> Change:
    """A transaction of lightningd's: before it, the database was at one version less."""
    return Change(version, ["INSERT INTO a VALUES (1)", bump(version)])


def pragma(version: int, text: str = "PRAGMA foreign_keys = OFF;") -> Change:
    """A lone PRAGMA: the database is at `version` already."""
    return Change(version, [text])


def decided(backup: int, change: Change, *, doubt: str | None = None) -> Do:
    return decide(position(backup), change, doubt).do


# lightningd goes on normally


@pytest.mark.parametrize("backup", [0, 1, 2, 1009, (1 << 31) - 1, 1 << 31, LAST - 1])
def test_next_transaction_is_appended(backup: int) -> None:
    assert decide(position(backup), transaction(backup + 1), None) == Decision(Do.APPEND)


def test_first_calls_of_a_new_node_are_all_appended() -> None:
    """Versions 1, 1, 2, 2, 3: an equal version is a PRAGMA, and no sign that the change before was not committed."""
    calls = [transaction(1), pragma(1), transaction(2), pragma(2, "PRAGMA foreign_keys = ON;"), transaction(3)]
    at = position(0)
    for call in calls:
        assert decide(at, call, None).do is Do.APPEND
        at = Position(call.data_version, at.sequence + 1, 0)


@pytest.mark.parametrize("setting", ["ON", "OFF", "on"])
def test_lone_pragma_is_appended_at_the_version_it_carries(setting: str) -> None:
    assert decided(5, pragma(5, f"PRAGMA foreign_keys = {setting}")) is Do.APPEND


def test_pragma_inside_a_transaction_is_appended_like_any_statement() -> None:
    change = Change(6, ["PRAGMA foreign_keys = OFF;", bump(6)])
    assert decided(5, change) is Do.APPEND


def test_call_without_the_bump_does_not_advance_the_version() -> None:
    """In 45,000 recorded calls only PRAGMAs do so; any other such call counts as at its own version, too."""
    assert decided(5, Change(5, ["INSERT INTO a VALUES (1)"])) is Do.APPEND
    assert decided(4, Change(5, ["INSERT INTO a VALUES (1)"])) is Do.SNAPSHOT


def test_version_wraps_to_zero() -> None:
    assert decided(LAST - 1, transaction(LAST)) is Do.APPEND
    assert decided(LAST, transaction(0)) is Do.APPEND
    assert decided(0, transaction(1)) is Do.APPEND


# Ahead: it ran without the plugin


@pytest.mark.parametrize("distance", [1, 2, 100, 1 << 20])
def test_database_that_is_ahead_takes_a_snapshot(distance: int) -> None:
    decision = decide(position(7), transaction(8 + distance), None)
    assert decision.do is Do.SNAPSHOT
    assert f"{distance} ahead" in decision.why


@pytest.mark.parametrize(("backup", "database"), [(LAST, 0), (LAST - 5, 3), (VERSIONS - WRAP_WINDOW, WRAP_WINDOW - 1)])
def test_database_that_is_ahead_across_the_wrap_takes_a_snapshot(backup: int, database: int) -> None:
    assert decided(backup, transaction(database + 1)) is Do.SNAPSHOT
    assert decided(backup, pragma(database)) is Do.SNAPSHOT


# At the same version, but in doubt


@pytest.mark.parametrize("change", [transaction(6), pragma(5)])
def test_database_at_the_same_version_but_in_doubt_takes_a_snapshot(change: Change) -> None:
    assert decide(position(5), change, "touched") == Decision(Do.SNAPSHOT, "touched")


def test_database_that_is_behind_is_refused_even_if_in_doubt() -> None:
    assert decided(5, transaction(5), doubt="touched") is Do.REFUSE
    assert decided(5, transaction(4), doubt="touched") is Do.REFUSE


# Behind: it has lost state, and could not be brought forward before lightningd opened it


@pytest.mark.parametrize("backup", [1009, 1 << 31, LAST])
@pytest.mark.parametrize("behind", [1, 2, 3, 1000])
def test_database_that_is_behind_is_refused_with_restore_as_advice(backup: int, behind: int) -> None:
    database = backup - behind
    decision = decide(position(backup), transaction(database + 1), None)
    assert decision.do is Do.REFUSE
    assert f"lost {counted(behind, 'change')}" in decision.why
    assert decision.restore


@pytest.mark.parametrize("backup", [2, 1009, (1 << 31) + 9, VERSIONS - WRAP_WINDOW - 1])
def test_empty_database_is_refused_at_any_version_of_the_backup(backup: int) -> None:
    """Also at versions so large that, counted modulo 2^32, zero would be ahead of them."""
    assert decided(backup, transaction(1)) is Do.REFUSE
    assert decided(backup, pragma(0)) is Do.REFUSE


@pytest.mark.parametrize("database", [LAST - 1, LAST - 1000])
def test_database_that_is_behind_across_the_wrap_is_refused(database: int) -> None:
    assert decided(0, transaction(database + 1)) is Do.REFUSE
    assert decided(20, pragma(database)) is Do.REFUSE


# Calls that cannot be understood


@pytest.mark.parametrize("doubt", [None, "touched"])
@pytest.mark.parametrize("version", [0, 5, 6])
def test_call_without_statements_is_refused_as_postgresql(version: int, doubt: str | None) -> None:
    decision = decide(position(5), Change(version, []), doubt)
    assert decision.do is Do.REFUSE
    assert "PostgreSQL" in decision.why


@pytest.mark.parametrize(
    "text", ["PRAGMA journal_mode = WAL;", "pragma user_version = 3", "  PRAGMA foreign_keys", "PRAGMA foreign_keys=1"]
)
def test_unknown_pragma_is_refused(text: str) -> None:
    decision = decide(position(5), pragma(5, text), None)
    assert decision.do is Do.REFUSE
    assert "PRAGMA that this release does not know" in decision.why


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("PRAGMA journal_mode = WAL", "PRAGMA journal_mode"),
        (" pragma user_version = 3;", "PRAGMA user_version"),
        ("VACUUM", "VACUUM"),
        ("vacuum INTO 'x'", "VACUUM"),
        ("ATTACH 'x' AS y", "ATTACH"),
        ("SAVEPOINT s", "SAVEPOINT"),
        ("COMMIT;", "COMMIT"),
        ("CREATE TEMP TABLE x (y)", "CREATE TEMP TABLE x"),
        ("CREATE  VIRTUAL TABLE x USING fts5(y)", "CREATE VIRTUAL TABLE x"),
    ],
)
@pytest.mark.parametrize("bumps", [True, False])
def test_statement_that_a_restore_would_refuse_is_not_acknowledged(
    tmp_path: Path, statement: str, shown: str, bumps: bool
) -> None:
    """It would be in a backup that looks whole, and nobody would know before the day that it is needed."""
    change = Change(6, ["CREATE TABLE x (y)", statement, *([bump(6)] if bumps else ["DROP TABLE x"])])
    decision = decide(position(change.database_stood_at), change, None)
    assert decision.do is Do.REFUSE
    assert f"a statement that this release does not know ({shown})" in decision.why
    with Replay(tmp_path / "db") as replay, pytest.raises(ReplayFailed):
        replay.execute([*NODE, statement])


@pytest.mark.parametrize(
    "statement",
    [
        "REPLACE INTO x VALUES (1)", "WITH n AS (SELECT 1) DELETE FROM x", "create view v as select 1", "ANALYZE",
        "-- of a later release\nDELETE FROM x", "REINDEX x", "PRAGMA foreign_keys = OFF;", "CREATE TABLE temp_x (y)",
        "CREATE TRIGGER r AFTER INSERT ON x BEGIN SELECT 1; END",
    ],
)  # fmt: skip
def test_statement_that_a_restore_can_execute_is_acknowledged(tmp_path: Path, statement: str) -> None:
    change = Change(6, ["CREATE TABLE x (y)", statement, bump(6)])
    assert decided(5, change) is Do.APPEND
    with Replay(tmp_path / "db") as replay:
        replay.execute([*NODE, *change.statements[:-1]])
        assert replay.foreign_keys  # as at the node: in a transaction the PRAGMA has no effect
        replay.finish()


@pytest.mark.parametrize("to", [0, 4, 5, 7, LAST])
def test_bump_to_another_version_than_the_call_carries_is_refused(to: int) -> None:
    decision = decide(position(5), Change(6, ["INSERT INTO a VALUES (1)", bump(to)]), None)
    assert decision.do is Do.REFUSE
    assert "leads to another one" in decision.why


# What must hold for any call

near = st.integers(0, 40) | st.integers(LAST - 40, LAST)
versions = near | st.integers(0, LAST)
doubts = st.none() | st.just("touched")


@st.composite
def positions(draw: st.DrawFn) -> Position:
    return position(draw(versions))


@st.composite
def changes(draw: st.DrawFn, about: int | None = None) -> Change:
    version = draw(versions) if about is None else (about + draw(st.integers(-4, 4))) % VERSIONS
    bumps = st.just([bump(version)]) | st.lists(versions.map(bump), max_size=1)
    pragmas = st.sampled_from(["PRAGMA foreign_keys = OFF;", "PRAGMA foreign_keys = ON;", "PRAGMA odd"])
    statements = draw(st.lists(st.just("INSERT INTO a VALUES (1)") | pragmas, max_size=2)) + draw(bumps)
    return Change(version, statements)


@st.composite
def backups_and_calls(draw: st.DrawFn) -> tuple[Position, Change, str | None]:
    """A backup, a call and a doubt; the versions are mostly near each other."""
    at = draw(positions())
    return at, draw(changes(at.data_version) | changes()), draw(doubts)


@given(backups_and_calls())
def test_any_call_is_appended_only_at_the_backups_version_without_doubt(
    backup_and_call: tuple[Position, Change, str | None],
) -> None:
    at, change, doubt = backup_and_call
    if decide(at, change, doubt).do is Do.APPEND:
        assert change.database_stood_at == at.data_version
        assert doubt is None


@given(backups_and_calls())
def test_any_call_on_a_database_that_is_behind_is_refused(backup_and_call: tuple[Position, Change, str | None]) -> None:
    at, change, doubt = backup_and_call
    behind = (at.data_version - change.database_stood_at) % VERSIONS
    if 0 < behind < WRAP_WINDOW:
        assert decide(at, change, doubt).do is Do.REFUSE


@given(backups_and_calls())
def test_any_snapshot_is_of_a_database_that_is_not_behind(
    backup_and_call: tuple[Position, Change, str | None],
) -> None:
    at, change, doubt = backup_and_call
    if decide(at, change, doubt).do is Do.SNAPSHOT:
        ahead = (change.database_stood_at - at.data_version) % VERSIONS
        assert ahead > 0 or doubt is not None
        assert ahead < 2 * WRAP_WINDOW or change.database_stood_at > at.data_version


@given(backups_and_calls())
def test_any_refusal_or_snapshot_has_a_reason(backup_and_call: tuple[Position, Change, str | None]) -> None:
    decision = decide(*backup_and_call)
    assert (decision.why == "") == (decision.do is Do.APPEND)


@given(backups_and_calls())
def test_decision_depends_on_its_arguments_only(backup_and_call: tuple[Position, Change, str | None]) -> None:
    assert decide(*backup_and_call) == decide(*backup_and_call)


@given(positions(), st.lists(st.sampled_from(["commit", "pragma"]), max_size=30))
def test_node_that_runs_on_is_never_refused(at: Position, acts: list[str]) -> None:
    """From any version on, also across the wrap."""
    for act in acts:
        call = transaction((at.data_version + 1) % VERSIONS) if act == "commit" else pragma(at.data_version)
        assert decide(at, call, None).do is Do.APPEND
        at = Position(call.data_version, at.sequence + 1, 0)
