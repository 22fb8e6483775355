"""Bytes change at one member while the node is stopped, in a file that a start does not read to its end: the members
that are whole stay in sync, whichever of them is asked first and answers first."""

from pathlib import Path

import pytest

from tests.end_to_end.world import said_at
from tests.fake_lightningd import History
from tests.members.world import MembersWorld, eventually

NAMES = ("nas", "stick", "disk")


def _change_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("hurt", NAMES)
def test_damaged_member_that_a_start_copies_from_puts_no_whole_one_out_of_sync(hurt: str, tmp_path: Path) -> None:
    """The whole members were put out of sync for the damage of the one that they were compared with, and the node went
    on with that one alone."""
    world, history = MembersWorld(tmp_path, NAMES).init(), History()
    world.run([history.first(), *history.notes(5)])
    world.run_without_plugin(history.notes(1))
    world.run(history.notes(2))  # which begins with a snapshot
    [snapshot] = world.place(hurt).glob("snapshot-00000002")
    _change_a_byte(snapshot)
    with world.node() as node:
        node.play(history.notes(2))
        assert set(world.note.in_sync) >= set(NAMES) - {hurt}, (world.note, node.logs)
        node.init()
        eventually(lambda: set(world.note.in_sync) == set(NAMES))
        node.play(history.notes(2))
    assert said_at(node, "broken") == []
    for name in NAMES:
        world.assert_member_equals_the_node(name)
