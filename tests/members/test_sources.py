"""The member that another one is caught up from is damaged: it is caught up from the next one."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from backends.members.catching_up import COSTLY_LOOK_EVERY, LOOK_EVERY, CatchingUp
from backends.members.examine import Obstacle
from backends.members.opening import Members
from backends.members.running import RunningMembers
from backends.node.lockfile import read_settings
from backends.storage.local import LocalStorage
from tests.log.histories import changes, silent
from tests.members.copies import Copies
from tests.members.test_fenced import NoEvents

NAMES = ("nas", "stick", "disk")


class Told(NoEvents):
    """What was said of members that cannot be caught up."""

    def __init__(self) -> None:
        self.obstacles: list[tuple[Obstacle, tuple[str, ...]]] = []

    def obstructed(self, *what: object) -> None:
        _, obstacle, _, _, others = what
        assert isinstance(obstacle, Obstacle)
        assert isinstance(others, tuple)
        self.obstacles.append((obstacle, others))


@contextmanager
def without_stick(tmp_path: Path, told: Told, need: int = 1) -> Iterator[tuple[Copies, RunningMembers]]:
    """A backup that is open, and the stick is not in sync."""
    copies = Copies(tmp_path, NAMES).made()
    copies.begin(2, "stick", need=need)
    for name in ("nas", "disk"):
        copies.append(name, 5)
    members = Members(copies.node, read_settings(copies.node))
    members.look()
    start = members.start(proven=True, changed_ago=0.0)
    writer, running = members.open(start, "0123456789abcdef", None, silent, told, catch_up=False)
    with closing(running), closing(writer):
        yield copies, running
        for change in changes(2, writer.position.data_version):
            writer.append(change)


def change_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


def joined(catching_up: CatchingUp) -> bool:
    """Whether it joins within a few more turns."""
    return any(catching_up.turn() for _ in range(5))


def test_damaged_source_goes_out_of_sync_and_the_next_one_is_copied_from(tmp_path: Path) -> None:
    """The alarm said that all members in sync were damaged, although only the first one had been tried."""
    told = Told()
    with without_stick(tmp_path, told) as (copies, running):
        source, whole = running.mirror.in_sync
        change_a_byte(next(copies.path(source).glob("snapshot-*")))
        stick = CatchingUp(running.member("stick"), running.places["stick"], running)
        assert stick.turn() is None
        assert list(running.mirror.in_sync) == [whole]
        assert joined(stick)
        assert set(running.mirror.in_sync) == {whole, "stick"}
    assert told.obstacles == []


def test_damaged_source_that_must_stay_in_sync_is_told_alone_and_not_copied_from(tmp_path: Path) -> None:
    told = Told()
    with without_stick(tmp_path, told, need=2) as (copies, running):
        source = next(iter(running.mirror.in_sync))
        change_a_byte(next(copies.path(source).glob("snapshot-*")))
        stick = CatchingUp(running.member("stick"), running.places["stick"], running)
        assert stick.turn() is None
        assert told.obstacles == [(Obstacle.SOURCE_DAMAGED, (source,))]
        assert joined(stick)
        assert set(running.mirror.in_sync) == set(NAMES)
    assert "stick" not in running.obstacles


def test_nothing_is_copied_while_all_sources_are_damaged(tmp_path: Path) -> None:
    told = Told()
    with without_stick(tmp_path, told) as (copies, running):
        for name in ("nas", "disk"):
            change_a_byte(next(copies.path(name).glob("snapshot-*")))
        stick = CatchingUp(running.member("stick"), running.places["stick"], running)
        kept = next(copies.path("stick").glob("snapshot-*")).read_bytes()
        assert not joined(stick)
        [left] = running.mirror.in_sync
        assert told.obstacles == [(Obstacle.SOURCE_DAMAGED, (left,))]
        assert next(copies.path("stick").glob("snapshot-*")).read_bytes() == kept


@pytest.mark.parametrize(("costly", "looks_every"), [(False, LOOK_EVERY), (True, COSTLY_LOOK_EVERY)])
def test_member_that_trails_is_left_alone_while_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, costly: bool, looks_every: float
) -> None:
    """A bucket was looked at each minute, with thirty requests, which are paid for."""
    monkeypatch.setattr(LocalStorage, "costly", costly)
    with without_stick(tmp_path, Told()) as (_, running):
        stick = CatchingUp(replace(running.member("stick"), trailing=True), running.places["stick"], running)
        for _ in range(3):
            assert stick.turn() is False
        passes = list[CatchingUp]()

        def noted(catching_up: CatchingUp) -> int:
            passes.append(catching_up)
            return 0

        monkeypatch.setattr(CatchingUp, "_pass", noted)
        now = time.monotonic()
        with monkeypatch.context() as later:
            later.setattr(time, "monotonic", lambda: now + looks_every - 5)
            assert stick.turn() is False
            assert passes == []
            later.setattr(time, "monotonic", lambda: now + looks_every + 5)
            assert stick.turn() is False
            assert passes == [stick]
