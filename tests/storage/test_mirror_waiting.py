"""How long a `MirrorStorage` waits for a member that hangs: never for longer than it has to, whatever it was asked."""

import errno
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from backends.members.survey import ask_all
from backends.storage.deadline import limited, not_after
from backends.storage.local import LocalStorage
from backends.storage.mirror.in_sync import Options
from backends.storage.mirror.storage import MirrorStorage
from backends.storage.mirror.workers import Late, Workers


class Hanging(LocalStorage):
    """A directory whose filesystem answers nothing between `hang` and `go_on`."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        super().__init__(path)
        self.answers = threading.Event()
        self.answers.set()
        self.hang, self.go_on = self.answers.clear, self.answers.set

    def read_small(self, name: str, limit: int = 1 << 20) -> bytes:
        self.answers.wait(20)
        return super().read_small(name, limit)


class Mirror(MirrorStorage):
    """Two members, `a` and `b`; `lost` has those that were put out of sync, with the error."""

    def __init__(self, root: Path, *, bulk: float, kind: type[Hanging] = Hanging) -> None:
        self.a, self.b = kind(root / "a"), kind(root / "b")
        self.lost: dict[str, Exception] = {}
        super().__init__({"a": self.a, "b": self.b}, Options(grace=0.2, need=1, bulk=bulk), self._lose)
        self.settle()

    def _lose(self, failed: Mapping[str, Exception]) -> None:
        self.lost |= failed
        with self.failing(failed):
            pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    made = Mirror(tmp_path, bulk=0.3)
    yield made
    made.a.go_on()
    made.b.go_on()


def took(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def test_answer_that_a_file_is_missing_counts_although_the_other_member_hangs(mirror: Mirror) -> None:
    """The member that gives this answer works: with it, enough members remain."""
    mirror.b.hang()

    def read() -> None:
        with pytest.raises(FileNotFoundError):
            mirror.read_small("kept")

    assert took(read) < 2


def test_of_two_members_that_are_late_the_first_to_answer_ends_the_wait(mirror: Mirror) -> None:
    """As after a machine was suspended: both were late, one of them answers, and the other one never does."""
    mirror.publish("kept", b"x")
    mirror.a.hang()
    mirror.b.hang()
    threading.Timer(0.8, mirror.a.go_on).start()
    assert 0.5 < took(lambda: mirror.read_small("kept")) < 3
    assert list(mirror.lost) == ["b"]
    assert isinstance(mirror.lost["b"], Late)


def test_member_that_was_put_out_of_sync_meanwhile_is_no_longer_waited_for(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, bulk=15)
    mirror.publish("kept", b"x")
    mirror.b.hang()
    threading.Timer(0.3, lambda: mirror.failed({"b": Late(1)})).start()
    assert took(lambda: mirror.read_small("kept")) < 3
    mirror.b.go_on()


def test_wait_ends_earlier_when_the_node_begins_to_stop(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, bulk=15)
    mirror.publish("kept", b"x")
    mirror.b.hang()

    def stop() -> None:
        mirror.options = Options(grace=0.2, need=1, bulk=0.2)

    threading.Timer(0.3, stop).start()
    assert took(lambda: mirror.read_small("kept")) < 3
    assert list(mirror.lost) == ["b"]
    mirror.b.go_on()


class NeedsOne(Mirror):
    """Ends with the error once no member is left, as a running node does."""

    def _lose(self, failed: Mapping[str, Exception]) -> None:
        super()._lose(failed)
        if len(self.lost) == 2:
            raise next(iter(failed.values()))


class Patient(Hanging):
    """A place that answers nothing while it hangs, and gives a request up when its thread must, as clients do."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.given: list[float] = []

    def read_small(self, name: str, limit: int = 1 << 20) -> bytes:
        self.given.append(limited(float("inf")))
        if not self.answers.wait(max(limited(time.monotonic() + 20) - time.monotonic(), 0)):
            raise TimeoutError(errno.ETIMEDOUT, "it was given up")
        return LocalStorage.read_small(self, name, limit)


def test_deadline_of_a_thread_holds_for_what_the_members_are_asked_for_it(tmp_path: Path) -> None:
    """As after a refused commit, when a message is made better: the watchdog would have to end the plugin otherwise."""
    mirror = NeedsOne(tmp_path, bulk=0.3, kind=Patient)
    mirror.publish("kept", b"x")
    mirror.read_small("kept")
    mirror.a.hang()
    mirror.b.hang()
    until = time.monotonic() + 0.5

    def read() -> None:
        with not_after(until), pytest.raises(OSError, match="given up"):
            mirror.read_small("kept")

    assert took(read) < 5
    assert isinstance(mirror.a, Patient)
    assert [mirror.a.given[0], mirror.a.given[-1]] == [float("inf"), until]


def test_what_is_left_to_a_member_has_no_deadline(tmp_path: Path) -> None:
    """A file that is closed after all that is under way: nobody waits for that, and it must be done."""
    workers, seen, done = Workers(), list[float](), threading.Event()

    def work() -> None:
        seen.append(limited(float("inf")))
        done.set()

    with not_after(time.monotonic() + 1):
        workers.leave("a", work)
        done.wait(5)
        workers.begin({"a": work}).wait(5)
    assert seen[0] == float("inf") and seen[1] < float("inf")


def test_question_to_a_member_is_given_up_when_the_one_who_asks_must() -> None:
    until = time.monotonic() + 5
    with not_after(until):
        answers, _ = ask_all({"a": lambda: limited(float("inf"))}, 5)
    assert answers == {"a": until}
