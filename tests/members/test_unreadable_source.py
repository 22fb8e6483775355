"""A sector of one member cannot be read any more, in a file that a start compares and does not restore: the members
that are whole stay in sync, whichever of them is asked first."""

import errno
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from backends.members.catching_up import CatchingUp
from backends.members.examine import Obstacle
from backends.members.newest import SeenMember, newest
from backends.members.opening import Members
from backends.node.lockfile import read_settings
from backends.storage.local_files import LocalReadHandle
from tests.log.histories import changes, noise, silent, source
from tests.members.copies import Copies
from tests.members.test_fenced import NoEvents

NAMES = ("nas", "stick", "disk")


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """The files of which one sector cannot be read; empty at first."""
    files, read = set[Path](), LocalReadHandle.read

    def reading(handle: LocalReadHandle, offset: int, length: int) -> bytes:
        middle = handle.size() // 3
        if offset <= middle < offset + length and Path(f"/proc/self/fd/{handle.number}").readlink() in files:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(handle, offset, length)

    monkeypatch.setattr(LocalReadHandle, "read", reading)
    return files


@pytest.mark.parametrize("hurt", NAMES)
def test_unreadable_member_that_a_start_copies_from_puts_no_whole_one_out_of_sync(
    hurt: str, tmp_path: Path, unreadable: set[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole members were put out of sync for the error of the one that they were compared with, and the node went
    on with that one alone."""
    monkeypatch.setattr("tests.members.made.EMPTY", source(noise(40_000).encode(), 1))

    def hurt_first(seen: Sequence[SeenMember]) -> SeenMember:
        return newest(sorted(seen, key=lambda member: member.name != hurt))

    monkeypatch.setattr("backends.members.running.newest", hurt_first)  # otherwise, whichever answers first
    copies = Copies(tmp_path, NAMES).made()
    [snapshot] = copies.path(hurt).glob("snapshot-*")
    unreadable.add(snapshot)
    members = Members(copies.node, read_settings(copies.node))
    members.look()
    start = members.start(proven=True, changed_ago=0.0)
    writer, running = members.open(start, "0123456789abcdef", None, silent, NoEvents(), catch_up=False)
    with closing(running), closing(writer):
        for change in changes(2, writer.position.data_version):
            writer.append(change)
        assert set(running.mirror.in_sync) == set(NAMES) - {hurt}


def test_read_error_while_catching_up_is_said_of_the_member_that_has_it(
    tmp_path: Path, unreadable: set[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told as the error of the member that is copied to, with which nothing is wrong."""
    monkeypatch.setattr("tests.members.made.EMPTY", source(noise(40_000).encode(), 1))
    copies = Copies(tmp_path, NAMES).made()
    copies.begin(2, "stick")
    for name in ("nas", "disk"):
        copies.append(name, 5)
    members = Members(copies.node, read_settings(copies.node))
    members.look()
    start = members.start(proven=True, changed_ago=0.0)
    writer, running = members.open(start, "0123456789abcdef", None, silent, NoEvents(), catch_up=False)
    with closing(running), closing(writer):
        copied_from = copies.path(next(iter(running.mirror.in_sync)))
        unreadable.update(copied_from.glob("snapshot-*"))
        catching_up = CatchingUp(running.member("stick"), running.places["stick"], running)
        assert catching_up.turn() is None
        obstacle, why = running.obstacles["stick"]
        assert any(catching_up.turn() for _ in range(5))  # copied from the other one
    assert obstacle is Obstacle.NOT_THERE
    assert why == f"{copied_from}, which it is copied from, cannot be read: {os.strerror(errno.EIO)}"
