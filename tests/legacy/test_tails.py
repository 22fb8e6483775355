"""The header is written second: what lies behind its end."""

import pytest

from backends.text import counted
from tests.legacy.conftest import Bench
from tests.legacy.refusals import history, refused
from tests.legacy.written import SNAPSHOT, payload, record, written


@pytest.mark.parametrize("behind", [1, 2, 3])
def test_a_header_behind_the_last_records(bench: Bench, behind: int) -> None:
    _, calls = history()
    file = written(calls[:-behind]).change(*calls[-behind:], dies_before_header=True)
    restored = bench.restore(file)
    assert restored.holds_what(bench.node(*calls))
    assert (restored.version, restored.torn) == (5, None)


def test_a_header_behind_a_change_that_was_sent_again(bench: Bench) -> None:
    _, calls = history()
    restored = bench.restore(written(calls).change(calls[-1], dies_before_header=True))
    assert restored.holds_what(bench.node(*calls))
    assert restored.left_out == [5]


def test_early_releases_did_not_count(bench: Bench) -> None:
    _, calls = history()
    file = written(calls)
    file.count = 0
    file.sync_header()
    assert bench.restore(file).holds_what(bench.node(*calls))


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 5000, b"SQL that was there before';", bytes(range(256))])
def test_a_tail_behind_the_headers_end(bench: Bench, tail: bytes) -> None:
    _, calls = history()
    restored = bench.restore(written(calls), tail)
    assert restored.holds_what(bench.node(*calls))
    assert restored.torn is not None
    assert f"the last {counted(len(tail), 'byte')} of the file" in restored.torn
    assert "power cut" in restored.remarks[-1]


def test_what_a_rewound_change_left_is_a_tail(bench: Bench) -> None:
    """As if a shorter change had been written over a longer one."""
    _, calls = history()
    restored = bench.restore(written(calls), payload(calls[-1])[20:])
    assert restored.holds_what(bench.node(*calls))


def test_a_tail_with_a_trace_of_newer_changes(bench: Bench) -> None:
    life, calls = history()
    newer = record(6, payload(life.note())) + record(7, payload(life.note()))
    error = refused(bench, written(calls), 5, tail=b"\0" * 10 + newer[10:])
    assert "version 7" in str(error) or "version 6" in str(error)


def test_newer_changes_are_found_across_the_pieces_that_are_read(bench: Bench) -> None:
    life, calls = history()
    trace = payload(life.note())
    for shift in (0, 1, 40, 90):
        gap = b"\0" * ((1 << 20) - len(trace) + shift)
        refused(bench, written(calls), 5, tail=gap + trace)


def test_a_snapshot_that_was_begun_says_that_the_node_was_further(bench: Bench) -> None:
    _, calls = history()
    refused(bench, written(calls), 5, tail=record(9, b"SQLite format 3\0" + bytes(5000), SNAPSHOT)[:-1])


def test_a_far_newer_change_was_begun(bench: Bench) -> None:
    _, calls = history()
    refused(bench, written(calls), 5, tail=record(9, b"x" * 100)[:50])
