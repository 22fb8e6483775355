"""The scrub beside a real node: what has rotted in a member is good again, and the node has never stopped."""

from pathlib import Path

import pytest

from backends.members.compare import compare_members
from backends.members.peers import peer_at
from backends.storage.local import LocalStorage
from tests.fake_lightningd import History
from tests.members.world import MembersWorld, eventually

SOON = {"LIGHTNINGD_BACKUP_SCRUB_AFTER": "1"}


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def faults(world: MembersWorld) -> list[str]:
    peers = [peer_at(member.name, place) for member, place in zip(world.members, storages(world), strict=True)]
    return [file.name for file in compare_members(peers).faults]


def storages(world: MembersWorld) -> list[LocalStorage]:
    return [LocalStorage(world.place(member.name)) for member in world.members]


@pytest.mark.parametrize("bad", ["nas", "stick"])
@pytest.mark.parametrize("name", ["snapshot-00000001", "segment-00000001", "manifest"])
def test_bit_that_flips_beside_a_running_node_is_healed_by_its_scrub(
    tmp_path: Path, history: History, bad: str, name: str
) -> None:
    world = MembersWorld(tmp_path).init()
    world.run([history.first(), *history.notes(30)])
    with world.node(environment=SOON) as node:
        node.play(history.notes(5))
        flip(world.place(bad) / name, 90)
        assert faults(world) == [name]
        eventually(lambda: faults(world) == [], within=60)
        node.play(history.notes(5))
        eventually(lambda: world.note.in_sync == world.in_sync)
        node.play(history.notes(5))
    for member in world.names:
        world.assert_member_equals_the_node(member)
