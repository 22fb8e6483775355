"""The rule by which a snapshot yields to commits, and what commits then wait for on a disk in simulated time."""

import random
import statistics
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.log.writer.pace import HURRIED, MAX_PAUSE, MAX_PORTION, MAX_WAIT, MIN_PORTION, Pace, Seen, step
from backends.system.commits import Commits
from tests.log.slow_device import Node, SlowDevice, write_beside

SIZE = 30_000_000
times = st.floats(0, 1e4, allow_nan=False)
rates = st.floats(0, 1e12, allow_nan=False)


@settings(deadline=None)
@given(times, times, rates, st.booleans())
def test_portion_and_pause_are_bounded(usual: float, recent: float, rate: float, flushed: bool) -> None:
    """Whatever a page says that another process writes."""
    found = step(Seen(usual, recent, rate, flushed))
    assert MIN_PORTION <= found.portion <= MAX_PORTION
    assert 0 <= found.pause <= MAX_PAUSE


@settings(deadline=None)
@given(times, times, times, rates, st.booleans())
def test_later_commits_mean_no_larger_portions_and_no_shorter_pauses(
    usual: float, one: float, other: float, rate: float, flushed: bool
) -> None:
    sooner, later = (step(Seen(usual, recent, rate, flushed)) for recent in sorted([one, other]))
    assert later.portion <= sooner.portion
    assert later.pause >= sooner.pause


@settings(deadline=None)
@given(st.floats(1e-5, 1), rates)
def test_commits_that_take_no_longer_than_usual_mean_full_portions_without_pauses(usual: float, rate: float) -> None:
    at_rest = step(Seen(usual, usual, rate))
    assert at_rest == step(Seen(usual, 0.0, rate))
    assert at_rest.pause == 0


def stream() -> float:
    return 0.0005


def rare() -> Callable[[], float]:
    chance = random.Random(1)
    return lambda: chance.expovariate(4)


def beside(
    think: Callable[[], float], device: SlowDevice | None = None, *, able: bool = True, paced: bool = True
) -> tuple[Node, list[float], float]:
    """The node, what each commit took during a snapshot of SIZE bytes, and what the snapshot took."""
    device = device or SlowDevice()
    node = Node(device, think)
    device.sleep(3)
    before = len(node.took)
    took, _ = write_beside(node, SIZE, able=able, paced=paced)
    return node, node.took[before:], took


def p90(times: list[float]) -> float:
    return sorted(times)[len(times) * 9 // 10]


USUAL = 0.0055


@pytest.mark.parametrize("think", [stream, rare()], ids=["stream", "rare"])
def test_commits_on_a_stick_hardly_wait_for_a_snapshot(think: Callable[[], float]) -> None:
    """p90 at most twice and the average at most 1.5 times what they are alone."""
    _, times, took = beside(think)
    assert p90(times) <= 2 * USUAL
    assert statistics.mean(times) <= 1.5 * USUAL
    assert p90(beside(think, paced=False)[1]) > 10 * USUAL
    assert took <= (1.5 if think is not stream else 4.0) * beside(think, paced=False)[2]


def test_portions_that_each_need_a_sync_are_rare() -> None:
    """As on a FUSE filesystem."""
    _, times, _ = beside(stream, able=False)
    assert p90(times) <= 2 * USUAL
    assert statistics.mean(times) <= 1.5 * USUAL


@pytest.mark.parametrize("able", [True, False])
def test_snapshot_ends_in_bounded_time_beside_commits_without_a_pause(able: bool) -> None:
    node = Node(device := SlowDevice(), lambda: 0.0)
    device.sleep(3)
    took, pace = write_beside(node, SIZE, able=able)
    assert pace is not None
    assert pace.yielded.waited <= 3 * pace.yielded.worked + 5 + MAX_PAUSE + MAX_WAIT
    assert took <= pace.yielded.worked + pace.yielded.waited + 1


def test_commit_that_hangs_is_not_waited_for() -> None:
    """The plugin hangs at its destination, or was stopped by SIGSTOP."""
    device = SlowDevice()
    node = Node(device, stream)
    device.sleep(3)
    node.stopped = True
    node.commits.begin()
    device.sleep(1)
    _, pace = write_beside(node, SIZE)
    assert pace is not None
    assert pace.yielded.waited <= 3 * pace.yielded.worked + 5 + MAX_WAIT


def test_snapshot_beside_a_node_that_never_commits_does_not_wait() -> None:
    silent = Node(SlowDevice(), stream)
    silent.stopped = True
    took, pace = write_beside(silent, SIZE, able=False)
    assert pace is not None
    assert pace.yielded.waits == 0
    assert took <= 1.01 * write_beside(silent, SIZE, paced=False)[0]


def test_snapshot_that_is_short_of_space_does_not_yield() -> None:
    node = Node(device := SlowDevice(), stream)
    device.sleep(3)
    pace = Pace(node.commits, clock=device.clock, sleep=device.sleep)
    assert pace.next.portion < MAX_PORTION
    pace.short_of_space = True
    pace.wrote(1 << 16, device.now - 0.004)
    pace.give_way()
    assert pace.next == HURRIED
    assert pace.yielded.waits == 0
    pace.short_of_space = False
    pace.wrote(1 << 16, device.now - 0.004)
    assert pace.next.portion < MAX_PORTION


def test_log_that_outgrows_the_snapshot_is_not_yielded_to() -> None:
    """Otherwise the compaction would end with more to compact than when it began, again and again."""
    node = Node(device := SlowDevice(), stream, record=200_000)
    device.sleep(3)
    _, beside_a_flood = write_beside(node, SIZE)
    node = Node(device := SlowDevice(), stream)
    device.sleep(3)
    _, beside_commits = write_beside(node, SIZE)
    assert beside_a_flood is not None
    assert beside_commits is not None
    assert beside_a_flood.yielded.waits < beside_commits.yielded.waits / 5


def test_last_commits_tell_what_is_usual_although_some_are_missing() -> None:
    now = 0
    commits = Commits(lambda: now)
    for number in range(200):
        now += 10_000_000
        commits.begin()
        now += 5_000_000
        if number % 7:  # one that failed, or was made while the page moved
            commits.end(number * 100)
    assert commits.usual() == pytest.approx(0.005, rel=0.01)
    assert commits.under_way is False
    assert commits.written == 19900
