"""The older plugin writes the header after the record: what a file holds after the end in its header."""

import pytest

from backends.text import counted
from tests.legacy.conftest import Bench
from tests.legacy.refusals import history, refused
from tests.legacy.written import SNAPSHOT, payload, record, written


@pytest.mark.parametrize("behind", [1, 2, 3])
def test_whole_records_after_end_in_legacy_header_count(bench: Bench, behind: int) -> None:
    _, calls = history()
    file = written(calls[:-behind]).change(*calls[-behind:], dies_before_header=True)
    restored = bench.restore(file)
    assert restored.holds_what(bench.node(*calls))
    assert (restored.version, restored.torn) == (5, None)


def test_resent_change_after_end_in_legacy_header_counts_once(bench: Bench) -> None:
    _, calls = history()
    restored = bench.restore(written(calls).change(calls[-1], dies_before_header=True))
    assert restored.holds_what(bench.node(*calls))
    assert restored.left_out == [5]


def test_legacy_header_of_early_release_without_count_is_restored(bench: Bench) -> None:
    _, calls = history()
    file = written(calls)
    file.count = 0
    file.sync_header()
    assert bench.restore(file).holds_what(bench.node(*calls))


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 5000, b"SQL that was there before';", bytes(range(256))])
def test_tail_after_end_in_legacy_header_is_torn(bench: Bench, tail: bytes) -> None:
    _, calls = history()
    restored = bench.restore(written(calls), tail)
    assert restored.holds_what(bench.node(*calls))
    assert restored.torn is not None
    assert f"the last {counted(len(tail), 'byte')} of the file" in restored.torn
    assert "power cut" in restored.remarks[-1]


def test_rest_of_longer_overwritten_legacy_change_is_a_tail(bench: Bench) -> None:
    """The file looks as if a shorter change had been written over a longer one."""
    _, calls = history()
    restored = bench.restore(written(calls), payload(calls[-1])[20:])
    assert restored.holds_what(bench.node(*calls))


def test_tail_with_trace_of_newer_legacy_changes_is_damage(bench: Bench) -> None:
    life, calls = history()
    newer = record(6, payload(life.note())) + record(7, payload(life.note()))
    error = refused(bench, written(calls), 5, tail=b"\0" * 10 + newer[10:])
    assert "version 7" in str(error) or "version 6" in str(error)


def test_trace_of_newer_legacy_changes_across_two_blocks_is_damage(bench: Bench) -> None:
    life, calls = history()
    trace = payload(life.note())
    for shift in (0, 1, 40, 90):
        gap = b"\0" * ((1 << 20) - len(trace) + shift)
        refused(bench, written(calls), 5, tail=gap + trace)


def test_begun_snapshot_of_newer_version_in_legacy_tail_is_damage(bench: Bench) -> None:
    _, calls = history()
    refused(bench, written(calls), 5, tail=record(9, b"SQLite format 3\0" + bytes(5000), SNAPSHOT)[:-1])


def test_begun_change_of_far_newer_version_in_legacy_tail_is_damage(bench: Bench) -> None:
    _, calls = history()
    refused(bench, written(calls), 5, tail=record(9, b"x" * 100)[:50])
