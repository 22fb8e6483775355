"""A node that another one has taken over writes to no member any more: no file is named, no document replaced."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from backends import backup_at
from backends.errors import Fenced
from backends.log.format.documents import SESSION, Session
from backends.log.format.members import MEMBERS
from backends.log.writer.writer import Writer
from backends.members.catching_up import CatchingUp
from backends.members.examine import Obstacle, Obstructed
from backends.members.opening import Members
from backends.members.running import RunningMembers
from backends.node.lockfile import read_settings
from backends.places.base import Place
from backends.storage.local import LocalStorage
from tests.log.histories import changes, silent
from tests.members.copies import Copies


class NoEvents:
    """Nobody is told."""

    def out_of_sync(self, *what: object) -> None: ...

    def obstructed(self, *what: object) -> None: ...

    def in_sync(self, *what: object) -> None: ...


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    """The nas and the disk are in sync; the stick was put out of sync, and lacks changes."""
    copies = Copies(tmp_path, ("nas", "disk", "stick")).made()
    copies.begin(2, "stick")
    for name in ("nas", "disk"):
        copies.append(name, 5)
    return copies


@pytest.fixture
def running(copies: Copies) -> Iterator[RunningMembers]:
    members = Members(copies.node, read_settings(copies.node))
    members.look()
    start = members.start(proven=True, changed_ago=0.0)
    writer, running = members.open(start, "0123456789abcdef", None, silent, NoEvents(), catch_up=False)
    with closing(running), closing(writer):
        commit(writer, 3)
        yield running


def commit(writer: Writer, count: int) -> None:
    for each in changes(count, writer.position.data_version):
        writer.append(each)


def files(copies: Copies, name: str) -> dict[str, bytes]:
    """What this member holds, but for what is not finished and the lock."""
    there = copies.path(name).iterdir()
    return {file.name: file.read_bytes() for file in there if not file.name.endswith(".tmp") and file.name != "lock"}


class Fence:
    """Lets the first `holds` checks pass. `steps` has each check, and each file that got its name at the stick."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, running: RunningMembers, stick: LocalStorage, holds: int
    ) -> None:
        self.left, self.steps = holds, []  # type: int, list[str]
        rename = LocalStorage.rename

        def watched(storage: LocalStorage, old: str, new: str) -> None:
            if storage is stick:
                self.steps.append(new)
            rename(storage, old, new)

        monkeypatch.setattr(running, "check_not_fenced", self.check)
        monkeypatch.setattr(LocalStorage, "rename", watched)

    def check(self) -> None:
        self.steps.append("check")
        self.left -= 1
        if self.left < 0:
            raise Fenced("another node has taken it over")


def catching_up(running: RunningMembers, copies: Copies) -> tuple[CatchingUp, LocalStorage]:
    place: Place = running.places["stick"]
    assert isinstance(place.storage, LocalStorage)
    return CatchingUp(copies["stick"], place, running), place.storage


def test_fence_is_checked_before_a_member_is_caught_up(
    copies: Copies, running: RunningMembers, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(copies, "stick")
    step, stick = catching_up(running, copies)
    fence = Fence(monkeypatch, running, stick, 0)
    with pytest.raises(Fenced):
        step.step()
    assert fence.steps == ["check"]
    assert files(copies, "stick") == before


def test_fence_that_falls_at_any_check_stops_catching_up_before_any_further_rename(
    copies: Copies, running: RunningMembers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that were copied meanwhile would set the member back to what the node knew before it was taken over."""
    for holds in range(1, 100):
        step, stick = catching_up(running, copies)
        with monkeypatch.context() as patched:
            fence = Fence(patched, running, stick, holds)
            try:
                step._prepare()
                step._pass()
            except Fenced:
                assert fence.steps[-1] == "check"
            finally:
                step._let_go()
            names = [at for at, done in enumerate(fence.steps) if done == SESSION]
            assert all(fence.steps[at - 1] == "check" for at in names)
            if fence.left >= 0:
                assert holds > 2
                assert SESSION in fence.steps
                return
    pytest.fail("it never came to its end")


def test_member_taken_over_while_it_is_caught_up_keeps_what_the_other_node_wrote(
    copies: Copies, running: RunningMembers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other node reaches only this member; those that this one writes to know nothing of it."""
    original = {name: data for name, data in files(copies, "stick").items()}
    for at in range(1, 100):
        step, _ = catching_up(running, copies)
        calls, then = 0, dict[str, bytes]()

        def check() -> None:
            nonlocal calls, then
            calls += 1
            if calls == at:  # noqa: B023 (called within this turn of the loop only)
                take_over(copies, "stick")
                then = files(copies, "stick")

        with monkeypatch.context() as patched:
            patched.setattr(running, "check_not_fenced", check)
            try:
                step._prepare()
                step._pass()
            except Obstructed as error:
                assert error.obstacle is Obstacle.OTHER_NODE
                assert files(copies, "stick") == then
            finally:
                step._let_go()
        if calls < at:
            assert at > 2
            return
        for path in copies.path("stick").iterdir():
            path.unlink()
        for name, data in original.items():
            (copies.path("stick") / name).write_bytes(data)
    pytest.fail("it never came to its end")


def take_over(copies: Copies, name: str) -> None:
    """Another machine's node becomes the writer of this member: its marker comes first, its document later."""
    storage = backup_at(copies[name].url).storage
    marker = Session.decode(storage.read_small(SESSION))
    storage.publish(SESSION, replace(marker, writer="f" * 16, session_id="fedcba9876543210").encode())


@pytest.mark.parametrize("taken", ["nas", "disk"])
def test_epoch_of_a_node_that_was_taken_over_at_one_member_does_not_begin(
    copies: Copies, running: RunningMembers, taken: str
) -> None:
    """The other node has not yet come to the next member, and its document must stay where it has been."""
    take_over(copies, taken)
    before = (copies.path(taken) / MEMBERS).read_bytes()
    done = running.epochs.note.epoch
    with running.changing, pytest.raises(OSError, match="made read-only"):
        running.change(running.mirror.in_sync.keys(), {})
    assert (copies.path(taken) / MEMBERS).read_bytes() == before
    assert running.epochs.note.epoch == done
    with pytest.raises(OSError, match="made read-only"):
        running.on_failure({"nas": OSError("gone")})  # nothing is acknowledged any more
    assert running.epochs.note.epoch == done
