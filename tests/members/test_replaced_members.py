"""What may happen to the directory of a member while the node streams on, and what the node then does about it.

It goes on, says so once, and has the member back without a restart, unless what is there now is not its own.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from backends import backup_at
from backends.base import SnapshotSource
from tests.end_to_end.world import PLUGIN, as_mortal, said_at, tree
from tests.fake_lightningd import History, Node
from tests.log.histories import noise
from tests.members.world import MembersWorld, eventually


@pytest.fixture
def world(tmp_path: Path) -> MembersWorld:
    return MembersWorld(tmp_path).init()


@pytest.fixture
def history() -> History:
    return History()


def begin(world: MembersWorld, command: Sequence[str] = PLUGIN) -> Node:
    node = world.node(command=command)
    node.start()
    node.init()
    return node


def stream_until(node: Node, history: History, holds: Callable[[], bool]) -> None:
    """One change after another until it holds."""

    def after_one_more() -> bool:
        node.play([history.note()])
        return holds()

    eventually(after_one_more, 30)


def replace(world: MembersWorld, by: Path | None) -> None:
    """Put a copy of `by` in the place of the member stick; None puts nothing there."""
    shutil.rmtree(world.place("stick"))
    if by is not None:
        shutil.copytree(by, world.place("stick"))


def copy_of_stick(world: MembersWorld) -> Path:
    """What the member stick is now."""
    return Path(shutil.copytree(world.place("stick"), world.root / "copy", ignore=shutil.ignore_patterns("lock")))


def assert_out_and_back_is_said_once(node: Node) -> None:
    out, back = said_at(node, "unusual")
    assert "stick" in out
    assert "out of sync" in out
    assert "stick" in back
    assert said_at(node, "broken") == []


def assert_heals(world: MembersWorld, node: Node, history: History) -> None:
    """The member is put out of sync and joins again; in the end both hold what the node has."""
    epoch = world.note.epoch.number
    stream_until(node, history, lambda: world.note.epoch.number >= epoch + 2 and world.note.in_sync == world.names)
    node.play(history.notes(3))
    node.stop()
    assert_out_and_back_is_said_once(node)
    for name in world.names:
        world.assert_member_equals_the_node(name)


@pytest.mark.parametrize("when", ["in this epoch", "in an earlier epoch"])
def test_member_replaced_by_an_old_copy_of_itself_is_caught_up_and_joins(
    world: MembersWorld, history: History, when: str
) -> None:
    world.run([history.first(), *history.notes(20)])
    if when == "in an earlier epoch":
        copy = copy_of_stick(world)
    node = begin(world)
    node.play(history.notes(20))
    if when == "in this epoch":
        copy = copy_of_stick(world)
    node.play(history.notes(20))
    replace(world, copy)
    assert_heals(world, node, history)


def test_member_replaced_by_a_copy_of_another_member_is_caught_up_and_joins(
    world: MembersWorld, history: History
) -> None:
    node = begin(world)
    node.play([history.first(), *history.notes(20)])
    replace(world, world.place("nas"))
    assert_heals(world, node, history)


def test_wiped_member_is_caught_up_and_joins(world: MembersWorld, history: History) -> None:
    node = begin(world)
    node.play([history.first(), *history.notes(20)])
    replace(world, None)
    assert_heals(world, node, history)


def test_member_that_returns_as_it_was_is_caught_up_and_joins(world: MembersWorld, history: History) -> None:
    node = begin(world)
    node.play([history.first(), *history.notes(20)])
    world.place("stick").parent.rename(world.root / "away")
    stream_until(node, history, lambda: world.note.in_sync == ("nas",))
    node.play(history.notes(20))
    (world.root / "away").rename(world.place("stick").parent)
    stream_until(node, history, lambda: world.note.in_sync == world.names)
    node.play(history.notes(3))
    node.stop()
    assert_out_and_back_is_said_once(node)
    for name in world.names:
        world.assert_member_equals_the_node(name)


def test_another_backup_in_the_place_of_a_member_is_left_alone(world: MembersWorld, history: History) -> None:
    other = world.root / "other.bkp"
    backup_at(other.as_uri()).create(SnapshotSource((), 0, None))
    node = begin(world)
    node.play([history.first(), *history.notes(20)])
    replace(world, other)
    before = tree(world.place("stick"))
    stream_until(node, history, lambda: world.note.in_sync == ("nas",))
    stream_until(node, history, lambda: any("another backup" in line for _, line in node.logs))
    node.play(history.notes(20))
    assert tree(world.place("stick")) == before
    replace(world, None)
    stream_until(node, history, lambda: world.note.in_sync == world.names)
    node.stop()
    assert len([line for _, line in node.logs if "another backup" in line]) == 1
    for name in world.names:
        world.assert_member_equals_the_node(name)


def test_member_that_was_damaged_in_the_middle_while_away_is_mended(world: MembersWorld, history: History) -> None:
    world.run([history.first(), *[history.note(noise(1 << 18, seed)) for seed in range(40)]])
    sealed = max(world.place("stick").glob("s*-0*"), key=lambda file: file.stat().st_size)
    assert sealed.stat().st_size > 1 << 20
    node = begin(world)
    node.play(history.notes(5))
    world.place("stick").parent.rename(world.root / "away")
    stream_until(node, history, lambda: world.note.in_sync == ("nas",))
    damaged = world.root / "away" / "lightning.bkp" / sealed.name
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.chmod(0o600)
    damaged.write_bytes(data)
    (world.root / "away").rename(world.place("stick").parent)
    stream_until(node, history, lambda: world.note.in_sync == world.names)
    node.stop()
    assert sealed.read_bytes() == (world.place("nas") / sealed.name).read_bytes()
    for name in world.names:
        world.assert_member_equals_the_node(name)


def test_member_made_read_only_is_caught_up_when_it_can_be_written_again(world: MembersWorld, history: History) -> None:
    node = begin(world, command=[*as_mortal(), *PLUGIN])
    node.play([history.first(), *history.notes(20)])
    stick = world.place("stick")
    stick.chmod(0o500)
    for file in stick.iterdir():
        file.chmod(0o400)
    stream_until(node, history, lambda: world.note.in_sync == ("nas",))
    node.play(history.notes(5))
    stick.chmod(0o700)
    for file in stick.iterdir():
        file.chmod(0o600)
    stream_until(node, history, lambda: world.note.in_sync == world.names)
    node.stop()
    assert_out_and_back_is_said_once(node)
    for name in world.names:
        world.assert_member_equals_the_node(name)
