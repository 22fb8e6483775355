"""Legacy backups: statements of early lightningds, foreign keys, and changes that no node makes."""

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
def test_missing_blank_of_early_lightningd_is_inserted_but_not_inside_text(sent: str, meant: str | None) -> None:
    assert mended(sent) == (meant or "label='it''s reserved_til=7WHERE ''', reserved_til=8 WHERE '")


def test_legacy_changes_with_missing_blanks_are_restored(bench: Bench) -> None:
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


def test_foreign_keys_are_on_after_legacy_node_died_before_its_pragma(bench: Bench) -> None:
    life, calls = history(0)
    tables = (
        "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
        "CREATE TABLE children (parent INTEGER REFERENCES parents(id) ON DELETE CASCADE)",
        "INSERT INTO parents VALUES (1)",
        "INSERT INTO children VALUES (1)",
    )
    calls += [life.transaction(*tables), life.foreign_keys(on=False), life.note()]
    # The node died here, and the next start begins with foreign keys on.
    next_start = life.transaction("DELETE FROM parents")
    restored = bench.restore(written([*calls, next_start]))
    own = bench.node(*calls, life.foreign_keys(on=True), next_start)
    assert restored.holds_what(own)
    assert restored.foreign_keys


def test_foreign_keys_are_off_for_legacy_transaction_between_pragmas(bench: Bench) -> None:
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


def test_legacy_change_that_does_not_fit_is_damage_after_version_before(bench: Bench) -> None:
    life, calls = history()
    error = refused(bench, written([*calls, life.transaction("INSERT INTO vars (name) VALUES ('data_version')")]), 5)
    assert "UNIQUE" in str(error)
    assert "resync" not in str(error)


def test_legacy_change_with_attach_is_damage(bench: Bench) -> None:
    life, calls = history()
    refused(bench, written([*calls, life.transaction("ATTACH 'elsewhere' AS x")]), 5)


@pytest.mark.parametrize(
    "writes", [(), ("",), ("DELETE FROM vars",), ("PRAGMA user_version = 3;",), ("x" * 100,), (bump(3),)]
)
def test_legacy_call_that_lightningd_never_makes_is_damage(bench: Bench, writes: tuple[str, ...]) -> None:
    _, calls = history()
    error = refused(bench, written([*calls, Call(5, writes), Call(6, (bump(6),))]), 5 if writes != ("x" * 100,) else 4)
    if not any(writes):
        assert "PostgreSQL" in str(error)


def test_legacy_change_larger_than_memory_is_restored_in_pieces(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.legacy.changes._IN_MEMORY", 1000)
    monkeypatch.setattr("backends.legacy.changes._BLOCK", 7)
    life, calls = history()
    calls += [life.big(20_000, 8), life.note("ä☕" * 1000)]
    assert bench.restore(written(calls)).holds_what(bench.node(*calls))
    broken = written(calls).data().replace("☕".encode(), b"\xff\xff\xff", 1)
    refused(bench, broken, life.version - 1)
