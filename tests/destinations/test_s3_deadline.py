"""How long one call to a bucket may take, by a clock of the test's own: one timeout, however many requests it makes."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from backends.storage.deadline import not_after
from backends.storage.objects.store import Changed, Content, Exists, Listed
from backends.storage.s3 import store as module
from backends.storage.s3.bucket import bucket_of
from backends.storage.s3.client import SHORTEST
from backends.storage.s3.faults import Answer, Fault, Kind
from backends.storage.s3.store import S3Store
from backends.urls import parse_url

TIMEOUT = 60
URL = f"s3://bucket/lightning.bkp?endpoint=http://127.0.0.1:1&timeout={TIMEOUT}"

CONDITION = Answer(Kind.CONDITION, 412, "PreconditionFailed", "it answered 412")
SILENCE = Answer(Kind.LOST, 0, "", "it did not answer in time")


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Scripted:
    """Answers one request after another as the test says: after how many seconds, and with what.

    A request that the store would answer later than the attempt may take ends then, without an answer.
    """

    def __init__(self, clock: Clock, answers: Iterator[tuple[float, object]]) -> None:
        self._clock, self._answers = clock, answers
        self._limit = 0.0

    def attempt(self, nth: int, size: int, left: float) -> "Scripted":
        self._limit = max(left, SHORTEST)
        return self

    def _answer(self, *_: object, **__: object) -> Any:
        seconds, answer = next(self._answers, (float("inf"), SILENCE))
        self._clock.sleep(min(seconds, self._limit))
        if seconds > self._limit:
            raise Fault(SILENCE)
        if isinstance(answer, Answer):
            raise Fault(answer)
        return answer

    create = replace = get = _answer

    @property
    def reach(self) -> Any:
        return bucket_of(parse_url(URL)), self

    def describe(self) -> str:
        return "somebody"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def store_that_answers(clock: Clock, *answers: tuple[float, object]) -> S3Store:
    """A store that has answered before."""
    store = S3Store(bucket_of(parse_url(URL)))
    store._clients = Scripted(clock, iter(answers))  # type: ignore[assignment]
    store._answered = True
    return store


LATE = [1.0, TIMEOUT / 2, TIMEOUT - 5.0, TIMEOUT - 1.0, TIMEOUT - 0.01]
calls = pytest.mark.parametrize(
    "call", [lambda store: store.create("it", b"data"), lambda store: store.replace("it", b"data", "version")]
)


@calls
@pytest.mark.parametrize("late", LATE)
def test_call_whose_condition_fails_late_takes_one_timeout(
    clock: Clock, call: Callable[[S3Store], str], late: float
) -> None:
    """The store then freezes, so that nobody can say whose object is there."""
    store, began = store_that_answers(clock, (late, CONDITION)), clock.now
    with pytest.raises(TimeoutError):
        call(store)
    assert clock.now - began <= TIMEOUT


def test_replacement_that_is_asked_for_in_both_notations_takes_one_timeout(clock: Clock) -> None:
    """Four requests, each of which is answered just before the time is over."""
    there = Content(b"other", "version")
    slow = TIMEOUT * 0.45
    store = store_that_answers(clock, (slow, CONDITION), (slow, there), (slow, CONDITION), (slow, there))
    began = clock.now
    with pytest.raises(TimeoutError):
        store.replace("it", b"data", "version")
    assert clock.now - began <= TIMEOUT


def test_condition_that_fails_late_is_settled_while_there_is_time(clock: Clock) -> None:
    late = TIMEOUT - SHORTEST - 1
    ours, theirs = Content(b"data", "new"), Content(b"other", "newer")
    assert store_that_answers(clock, (late, CONDITION), (0.5, ours)).create("it", b"data") == "new"
    with pytest.raises(Exists):
        store_that_answers(clock, (late, CONDITION), (0.5, theirs)).create("it", b"data")
    assert store_that_answers(clock, (late, CONDITION), (0.5, ours)).replace("it", b"data", "old") == "new"
    with pytest.raises(Changed):
        store_that_answers(clock, (late, CONDITION), (0.5, theirs)).replace("it", b"data", "old")


def test_late_answer_is_given_up_with_a_sentence(clock: Clock) -> None:
    with pytest.raises(TimeoutError, match="answered so late that no time was left to find out the rest"):
        store_that_answers(clock, (TIMEOUT - 1, CONDITION)).create("it", b"data")


def test_listing_does_not_wait_for_its_next_page_as_long_as_it_might_have_waited_for_the_first(clock: Clock) -> None:
    """A stream waits for each page as long as its client; a thread with less time begins another one."""
    asked: list[tuple[str, float]] = []

    class Listing:
        def __init__(self, limit: float) -> None:
            self.limit = limit

        def pages(self, directory: str, after: str) -> Iterator[list[Listed]]:
            asked.append((after, self.limit))
            return iter([[Listed(f"data/{len(asked)}{number}", 1, 0.0)] for number in range(9)])

    class Listings(Scripted):
        def attempt(self, nth: int, size: int, left: float) -> Any:
            return Listing(min(left, TIMEOUT / 4))

    store = store_that_answers(clock)
    store._clients = Listings(clock, iter(()))  # type: ignore[assignment]
    found = store.list("data/")
    assert [next(found).key for _ in range(2)] == ["data/10", "data/11"]
    with not_after(clock.now + 3):
        assert [next(found).key for _ in range(2)] == ["data/20", "data/21"]
    assert asked == [("data", TIMEOUT / 4), ("data/11", 3)]
