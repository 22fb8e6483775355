"""Which of two records with the same version counts in a legacy backup."""

from tests.fake_lightningd import Call, History, bump
from tests.legacy.conftest import Bench
from tests.legacy.refusals import history, refused
from tests.legacy.written import HEADER_SIZE, Written, written


def test_resent_legacy_change_counts_once(bench: Bench) -> None:
    _, calls = history()
    restored = bench.restore(written(calls).starts_with(calls[-1]))
    assert restored.holds_what(bench.node(*calls))
    assert restored.left_out == [5]
    assert "version 5" in restored.remarks[0]


def test_resent_legacy_change_with_other_content_replaces_the_first(bench: Bench) -> None:
    """The first cannot have been committed: otherwise the second could not follow the version before."""
    _, calls = history()
    other = Call(5, ("INSERT INTO vars (name, val) VALUES ('another', 'life');", bump(5)))
    after = Call(6, ("INSERT INTO vars (name) VALUES ('more');", bump(6)))
    restored = bench.restore(written(calls).starts_with(other).change(after))
    assert restored.holds_what(bench.node(*calls[:-1], other, after))


def test_legacy_change_resent_several_times_counts_once(bench: Bench) -> None:
    life, calls = history()
    file = written(calls).starts_with(calls[-1]).starts_with(calls[-1]).starts_with(calls[-1])
    further = life.notes(3)
    file.change(*further).starts_with(further[-1])
    restored = bench.restore(file)
    assert restored.holds_what(bench.node(*calls, *further))
    assert restored.left_out == [5, 5, 5, 8]


def test_resent_first_legacy_change_counts_once(bench: Bench) -> None:
    _, calls = history(0)
    # The older plugin never steps back to version 0, but its file looks as if it had.
    restored = bench.restore(written([*calls, *calls]))
    assert restored.holds_what(bench.node(*calls))


def test_lone_pragma_in_legacy_backup_takes_nothing_back(bench: Bench) -> None:
    life, calls = history()
    tail = [life.foreign_keys(on=False), life.note(), life.foreign_keys(on=True), life.note()]
    restored = bench.restore(written([*calls, *tail]))
    assert restored.holds_what(bench.node(*calls, *tail))
    assert restored.left_out == []


def test_lone_pragma_as_first_call_of_legacy_session_takes_nothing_back(bench: Bench) -> None:
    """The older plugin takes it for the committed change sent again, and steps back; the change still counts."""
    life, calls = history()
    file = written(calls).starts_with(life.foreign_keys(on=False))
    assert file.end < HEADER_SIZE + len(file.records)
    more = [life.note(), life.foreign_keys(on=True)]
    restored = bench.restore(file.change(*more))
    assert restored.holds_what(bench.node(*calls, *more))
    assert restored.left_out == []


def test_lone_pragma_of_version_before_shows_legacy_change_uncommitted(bench: Bench) -> None:
    life, calls = history()
    pragma = Call(life.version - 1, ("PRAGMA foreign_keys = ON;",))
    restored = bench.restore(written([*calls, pragma, calls[-1]]))
    assert restored.holds_what(bench.node(*calls))
    assert restored.left_out == [5]


def test_legacy_change_resent_after_its_lone_pragma_is_damage(bench: Bench) -> None:
    life, calls = history()
    refused(bench, written([*calls, life.foreign_keys(on=False), calls[-1]]), 5)


def test_legacy_backup_rewound_by_more_than_one_change_is_damage(bench: Bench) -> None:
    _, calls = history()
    refused(bench, written([*calls, calls[-2]]), 5)


def test_lost_end_of_rewound_legacy_backup_is_damage(bench: Bench) -> None:
    """After a rewind the header's end is too small by one record, here a large one; early releases kept no count."""
    life, calls = history()
    calls.append(life.note("large " * 1000))
    file = written(calls).starts_with(calls[-1]).change(*life.notes(3))
    file.count = 0
    file.sync_header()
    cut = file.starts[-1]
    assert file.end < cut < len(file.data())
    assert "the header names version 9" in str(refused(bench, file.data()[:cut], 8))


def test_missing_version_in_legacy_backup_is_damage(bench: Bench) -> None:
    life, calls = history()
    life.note()
    error = refused(bench, written([*calls, life.note()]), 5)
    assert "missing" in str(error)


def test_missing_first_change_of_legacy_backup_is_damage(bench: Bench) -> None:
    _, calls = history()
    refused(bench, written(calls[1:]), None)


def test_data_version_in_legacy_backup_wraps_to_zero(bench: Bench) -> None:
    life, calls = history()
    calls.append(life.transaction("UPDATE vars SET intval = 4294967293 WHERE name = 'data_version'"))
    node = bench.node(*calls[:-1], Call(0, (calls[-1].writes[0],)))
    life = History(4294967293)
    calls = [life.note(), life.note()]
    # SQLite counts beyond 32 bits; the number that is sent wraps.
    wrapped = Call(0, ("INSERT INTO vars (name) VALUES ('wrapped')", bump(0)))
    restored = bench.restore(Written().snapshot(4294967293, node).change(*calls, wrapped))
    assert restored.version == 0
    assert restored.changes == 3
