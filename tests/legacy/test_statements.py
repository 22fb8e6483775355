"""Statements of early lightningds, foreign keys, and changes that no node makes."""

import pytest

from backends.legacy.changes import mended
from tests.fake_lightningd import Call, bump
from tests.legacy.conftest import Bench
from tests.legacy.refusals import history, refused
from tests.legacy.written import written


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("reserved_til=1891733WHERE", "reserved_til=1891733 WHERE"),
        ("reserved_til=NULLWHERE", "reserved_til=NULL WHERE"),
        ("peer_id=5WHERE channels.id=", "peer_id=5 WHERE channels.id="),
        ("peer_id=5WHEREchannels.id=", "peer_id=5WHEREchannels.id="),
        ("label='reserved_til=7WHERE x', reserved_til=8WHERE", "label='reserved_til=7WHERE x', reserved_til=8 WHERE"),
        ("label='it''s reserved_til=7WHERE ''', reserved_til=8WHERE '", None),
        ("label='peer_id=5WHERE channels.id='", "label='peer_id=5WHERE channels.id='"),
    ],
)
def test_a_missing_blank_is_put_in_but_not_into_text(sent: str, meant: str | None) -> None:
    assert mended(sent) == (meant or "label='it''s reserved_til=7WHERE ''', reserved_til=8 WHERE '")


def test_changes_with_missing_blanks(bench: Bench) -> None:
    life, calls = history(1)
    tables = (
        "CREATE TABLE outputs (prev_out_tx INTEGER, reserved_til INTEGER, label TEXT)",
        "CREATE TABLE channels (id INTEGER, peer_id INTEGER)",
        "INSERT INTO outputs VALUES (1, 0, '')",
        "INSERT INTO channels VALUES (7, 1)",
    )
    glued = (
        "UPDATE outputs SET label='reserved_til=3WHERE', reserved_til=1891733WHERE prev_out_tx=1",
        "UPDATE channels SET peer_id=5WHERE channels.id=7",
    )
    whole = (
        "UPDATE outputs SET label='reserved_til=3WHERE', reserved_til=1891733 WHERE prev_out_tx=1",
        "UPDATE channels SET peer_id=5 WHERE channels.id=7",
    )
    calls.append(life.transaction(*tables))
    version = life.version + 1
    restored = bench.restore(written([*calls, Call(version, (*glued, bump(version)))]))
    assert restored.holds_what(bench.node(*calls, Call(version, (*whole, bump(version)))))


def test_foreign_keys_are_on_again_where_the_node_died_before_it_said_so(bench: Bench) -> None:
    life, calls = history(0)
    tables = (
        "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
        "CREATE TABLE children (parent INTEGER REFERENCES parents(id) ON DELETE CASCADE)",
        "INSERT INTO parents VALUES (1)",
        "INSERT INTO children VALUES (1)",
    )
    calls += [life.transaction(*tables), life.foreign_keys(on=False), life.note()]
    # Here it died, and the next start begins with foreign keys on.
    next_start = life.transaction("DELETE FROM parents")
    restored = bench.restore(written([*calls, next_start]))
    own = bench.node(*calls, life.foreign_keys(on=True), next_start)
    assert restored.holds_what(own)
    assert restored.foreign_keys


def test_foreign_keys_are_off_for_the_transaction_in_between(bench: Bench) -> None:
    life, calls = history(0)
    tables = (
        "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
        "CREATE TABLE children (parent INTEGER REFERENCES parents(id) ON DELETE CASCADE)",
        "INSERT INTO parents VALUES (1)",
        "INSERT INTO children VALUES (1)",
    )
    calls += [life.transaction(*tables), life.foreign_keys(on=False), life.transaction("DROP TABLE parents")]
    restored = bench.restore(written(calls))
    assert restored.holds_what(bench.node(*calls))


def test_a_change_that_does_not_fit_names_the_version_before(bench: Bench) -> None:
    life, calls = history()
    error = refused(bench, written([*calls, life.transaction("INSERT INTO vars (name) VALUES ('data_version')")]), 5)
    assert "UNIQUE" in str(error)
    assert "resync" not in str(error)


def test_a_change_that_no_node_makes(bench: Bench) -> None:
    life, calls = history()
    refused(bench, written([*calls, life.transaction("ATTACH 'elsewhere' AS x")]), 5)


@pytest.mark.parametrize(
    "writes", [(), ("",), ("DELETE FROM vars",), ("PRAGMA user_version = 3;",), ("x" * 100,), (bump(3),)]
)
def test_a_call_that_lightningd_never_makes(bench: Bench, writes: tuple[str, ...]) -> None:
    _, calls = history()
    error = refused(bench, written([*calls, Call(5, writes), Call(6, (bump(6),))]), 5 if writes != ("x" * 100,) else 4)
    if not any(writes):
        assert "PostgreSQL" in str(error)


def test_a_change_too_large_for_the_memory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.legacy.changes._IN_MEMORY", 1000)
    monkeypatch.setattr("backends.legacy.changes._BLOCK", 7)
    life, calls = history()
    calls += [life.big(20_000, 8), life.note("ä☕" * 1000)]
    assert bench.restore(written(calls)).holds_what(bench.node(*calls))
    broken = written(calls).data().replace("☕".encode(), b"\xff\xff\xff", 1)
    refused(bench, broken, life.version - 1)
