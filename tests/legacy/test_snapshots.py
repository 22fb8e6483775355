"""Snapshots at the beginning and in the middle of legacy backups."""

import pytest

from backends.legacy import LegacyDamaged
from tests.fake_lightningd import Call
from tests.legacy.conftest import Bench
from tests.legacy.refusals import history, refused
from tests.legacy.written import HEADER_SIZE, SNAPSHOT, Written, written


def test_legacy_backup_that_begins_with_snapshot_is_restored(bench: Bench) -> None:
    life, calls = history()
    more = life.notes(2)
    restored = bench.restore(Written().snapshot(5, bench.node(*calls)).change(*more))
    assert restored.holds_what(bench.node(*calls, *more))


def restarted_with_snapshot(bench: Bench, calls: list[Call], version: int, fresh_header: bool) -> Written:
    """A file as an early release's `init` over an existing one leaves it, or one through the older plugin's server."""
    node = bench.node(*calls)
    file = written(calls[:3])
    if fresh_header:
        file.version = file.previous_version = file.previous_end = file.count = 0
        file.end = HEADER_SIZE
    return file.snapshot(version, node)


@pytest.mark.parametrize("fresh_header", [True, False])
def test_snapshot_in_middle_of_legacy_backup_replaces_what_was_before(bench: Bench, fresh_header: bool) -> None:
    life, calls = history(9)
    more = life.notes(2)
    file = restarted_with_snapshot(bench, calls, 10, fresh_header).change(*more).starts_with(more[-1])
    restored = bench.restore(file)
    assert restored.holds_what(bench.node(*calls, *more))
    assert restored.changes == 2


def test_damage_before_a_later_legacy_snapshot_is_ignored(bench: Bench) -> None:
    life, calls = history(9)
    more = life.notes(2)
    file = written([*calls[:3], calls[5]]).snapshot(10, bench.node(*calls)).change(*more)
    assert bench.restore(file).holds_what(bench.node(*calls, *more))


def test_legacy_snapshot_of_older_state_is_damage_unless_one_behind(bench: Bench) -> None:
    life, calls = history(9)
    node = bench.node(*calls[:5])
    error = refused(bench, written(calls).snapshot(5, node), 10)
    assert "older version 5" in str(error)
    assert life.version == 10
    # Only one behind: the last change had not been committed.
    assert bench.restore(written(calls[:6]).snapshot(5, node)).holds_what(node)


def test_legacy_snapshot_with_wrong_version_is_damage(bench: Bench) -> None:
    _, calls = history()
    error = refused(bench, Written().snapshot(6, bench.node(*calls)), None)
    assert "says version 6, but the snapshot is at version 5" in str(error)


def test_legacy_snapshot_that_is_no_database_is_damage(bench: Bench) -> None:
    refused(bench, Written().add(5, b"SQLite format 3\0" + bytes(9000), SNAPSHOT), None)
    refused(bench, Written().add(5, bytes(9000), SNAPSHOT), None)


def test_legacy_snapshot_with_damaged_page_is_damage(bench: Bench) -> None:
    _, calls = history(200)
    database = bytearray(bench.node(*calls).read_bytes())
    database[4096 * 4 : 4096 * 4 + 64] = b"\xa5" * 64
    with pytest.raises(LegacyDamaged):
        bench.restore(Written().add(201, bytes(database), SNAPSHOT))


def test_legacy_snapshot_of_database_in_wal_mode_is_restored(bench: Bench) -> None:
    life, calls = history()
    database = bytearray(bench.node(*calls).read_bytes())
    database[18:20] = b"\2\2"
    more = life.note()
    restored = bench.restore(Written().add(5, bytes(database), SNAPSHOT).change(more))
    assert restored.holds_what(bench.node(*calls, more))


def test_empty_legacy_snapshot_is_restored(bench: Bench) -> None:
    _, calls = history()
    restored = bench.restore(Written().add(0, b"", SNAPSHOT).change(*calls))
    assert restored.holds_what(bench.node(*calls))


def test_legacy_backup_of_node_that_never_started_is_empty(bench: Bench) -> None:
    restored = bench.restore(Written())
    assert (restored.version, restored.changes) == (0, 0)
