"""The node's directory was copied to another machine, and both nodes run: nothing acknowledged is lost silently.

Each machine reaches all members or some. A node whose member was taken over acknowledges nothing more; if the two share
no member, a restore from all of them refuses to choose.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from backends.node.lockfile import read_settings, write_settings
from tests.end_to_end.db_compare import differences
from tests.end_to_end.world import backup_cli
from tests.fake_lightningd import Aborted, History, Node, committed_version
from tests.members.world import MembersWorld

ON_ANOTHER_MACHINE = """
from backends.storage.local import LocalStorage
LocalStorage.lock = lambda self, what: None
from plugin.main import main
main()
"""
"""The lock in a member is known to the processes of one machine only."""

COPIED_AT = 21
"""The version of the database when the directory was copied."""

COMMAND = [sys.executable, "-c", ON_ANOTHER_MACHINE]


@pytest.fixture
def world(tmp_path: Path) -> MembersWorld:
    return MembersWorld(tmp_path).init()


def begin(directory: Path) -> Node:
    node = Node(directory, COMMAND)
    node.start()
    node.init()
    return node


def copied(world: MembersWorld) -> Path:
    """A copy of the node's directory."""
    copy = world.root / "copied" / "regtest"
    shutil.copytree(world.directory, copy, ignore=shutil.ignore_patterns("backup.pid", "*.sock", "lightning-rpc"))
    return copy


def cut_off(directory: Path, *names: str) -> None:
    """This machine reaches these members no more (or not yet)."""
    settings = read_settings(directory)
    members = tuple(
        replace(member, url=f"file:///nowhere/{member.name}/lightning.bkp") if member.name in names else member
        for member in settings.members
    )
    write_settings(directory, replace(settings, members=members))


def play(directory: Path, node: Node | None, count: int) -> Node | None:
    """So many changes, as long as they are acknowledged. Returns the node, or None if it was refused."""
    if node is None:
        return None
    try:
        node.play(History(committed_version(directory) or 0).notes(count))
    except Aborted as error:
        print(f"{directory} is refused: {error}")  # shown if the test fails
        node.die()
        return None
    return node


def restored(world: MembersWorld) -> Path | None:
    """The database from all members, without any consent; None if the restore refuses to choose."""
    target = world.root / "restored.sqlite3"
    said = backup_cli("restore", *(world.place(name).as_uri() for name in world.names), target)
    print(said.err)
    return target if said.code == 0 else None


def assert_nothing_is_lost_silently(world: MembersWorld, *directories: Path) -> None:
    """A restore has every change that any of the nodes has made since the copy, or refuses."""
    found = restored(world)
    for directory in directories:
        if found is not None and (committed_version(directory) or 0) > COPIED_AT:
            assert differences(found, directory / "lightningd.sqlite3") == []


@pytest.fixture
def both(world: MembersWorld) -> Path:
    """The node's directory, and its copy, which is returned: made while no node ran."""
    history = History()
    world.run([history.first(), *history.notes(COPIED_AT - 1)])
    return copied(world)


REACHED = pytest.mark.parametrize("reached", [("nas", "stick"), ("nas",), ("stick",)], ids=" and ".join)


@REACHED
def test_copy_started_beside_the_node_acknowledges_nothing_that_is_lost(
    world: MembersWorld, both: Path, reached: tuple[str, ...]
) -> None:
    first = play(world.directory, begin(world.directory), 5)
    cut_off(both, *set(world.names).difference(reached))
    second = play(both, begin(both), 8)
    first = play(world.directory, first, 5)
    second = play(both, second, 8)
    assert first is None or second is None
    for node in filter(None, (first, second)):
        node.stop()
    assert_nothing_is_lost_silently(world, world.directory, both)


@REACHED
def test_copy_that_was_made_while_the_node_ran_acknowledges_nothing_that_is_lost(
    world: MembersWorld, reached: tuple[str, ...]
) -> None:
    first, history = begin(world.directory), History()
    first.play([history.first(), *history.notes(COPIED_AT - 1)])
    copy = copied(world)
    cut_off(copy, *set(world.names).difference(reached))
    second = play(copy, begin(copy), 8)
    going_on = play(world.directory, first, 5)
    assert going_on is None or second is None
    for node in filter(None, (going_on, second)):
        node.stop()
    assert_nothing_is_lost_silently(world, world.directory, copy)


def test_node_that_was_replaced_by_its_copy_acknowledges_nothing_more(world: MembersWorld, both: Path) -> None:
    second = play(both, begin(both), 8)
    assert second is not None, "all members are there, and no other node was active"
    assert play(world.directory, begin(world.directory), 5) is None
    second = play(both, second, 5)
    assert second is not None
    second.stop()
    assert committed_version(both) == COPIED_AT + 13
    assert_nothing_is_lost_silently(world, world.directory, both)


@pytest.mark.parametrize("lost", ["nas", "stick"])
def test_two_nodes_that_share_no_member_are_told_apart(world: MembersWorld, both: Path, lost: str) -> None:
    """A person gave a member up on the other machine that the node here goes on with."""
    kept = next(name for name in world.names if name != lost)
    shutil.move(world.place(kept).parent, world.root / "at the other machine")
    first = play(world.directory, begin(world.directory), 5)
    assert first is not None, "its database is proven, so it goes on with the member that is here"
    shutil.move(world.place(lost).parent, world.root / "here")
    shutil.move(world.root / "at the other machine", world.place(kept).parent)
    said = backup_cli("member-remove", lost, "--lightning-dir", both)
    if said.code == 0:
        second = play(both, begin(both), 8)
        if second is not None:
            second.stop()
    first.die()
    shutil.move(world.root / "here", world.place(lost).parent)
    assert_nothing_is_lost_silently(world, world.directory, both)
