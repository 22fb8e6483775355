"""Work in another thread: order, errors, and that no thread outlives it."""

import threading
import time
from collections.abc import Iterator

import pytest

from backends.system import overlap
from backends.system.overlap import AHEAD, InTurn, ahead

MANY = 5 * AHEAD


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in ("ahead", "overlapped")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert threads() == []


@pytest.fixture(params=[True, False])
def allowed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(overlap._Setting, "allowed", request.param)
    return bool(request.param)


def test_items_are_done_in_order(allowed: bool) -> None:
    done: list[int] = []
    with InTurn(done.append) as work:
        for number in range(1, MANY):
            work.give(number)
        assert bool(threads()) is allowed
        work.wait()
        assert done == list(range(1, MANY))


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("at", [1, MANY // 2, MANY - 1])
def test_error_of_the_work_is_raised(at: int) -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number == at:
            raise OSError("the disk is full")
        done.append(number)

    with pytest.raises(OSError, match="the disk is full"), InTurn(work) as turn:
        for number in range(1, MANY):
            turn.give(number)
        turn.wait()
    assert done == list(range(1, at))


def test_nothing_more_is_done_after_an_error_of_the_caller() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.002)
        done.append(number)

    with pytest.raises(KeyboardInterrupt), InTurn(work) as turn:
        for number in range(1, AHEAD):
            turn.give(number)
        raise KeyboardInterrupt
    assert len(done) < AHEAD - 1


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("count", [0, 3, 4, 5, MANY])
def test_items_made_ahead_are_the_same(count: int) -> None:
    assert list(ahead(iter(range(count)))) == list(range(count))


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("at", [0, 3, 4, MANY])
def test_error_while_making_an_item_is_raised_after_the_items_before(at: int) -> None:
    def make() -> Iterator[int]:
        yield from range(at)
        raise OSError("gone")

    got: list[int] = []
    with pytest.raises(OSError, match="gone"):
        for item in ahead(make()):
            got.append(item)
    assert got == list(range(at))


def test_closing_it_early_ends_the_thread() -> None:
    made: list[int] = []

    def make() -> Iterator[int]:
        for number in range(100 * AHEAD):
            made.append(number)
            yield number

    items = ahead(make())
    assert [next(items) for _ in range(6)] == list(range(6))
    items.close()
    assert len(made) <= 2 * AHEAD + 8
