"""How long a `MirrorStorage` waits for a member that hangs: never for longer than it has to, whatever it was asked."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from backends.storage.local import LocalStorage
from backends.storage.mirror.in_sync import Options
from backends.storage.mirror.storage import MirrorStorage
from backends.storage.mirror.workers import Late


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

    def __init__(self, root: Path, *, bulk: float) -> None:
        self.a, self.b = Hanging(root / "a"), Hanging(root / "b")
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
