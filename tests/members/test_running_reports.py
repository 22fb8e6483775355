"""What a running node says of its members: in backup-status, in its log, and through the commands beside it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.world import backup_cli, said_at
from tests.fake_lightningd import History, Node
from tests.members.world import MembersWorld, eventually


@pytest.fixture
def history() -> History:
    return History()


@contextmanager
def running(world: MembersWorld) -> Iterator[Node]:
    node = world.node()
    node.start()
    node.init()
    try:
        yield node
    finally:
        node.stop()


def unplug(world: MembersWorld, name: str) -> None:
    """Its directory is gone, with the one above it, as when a disk is pulled out."""
    world.place(name).parent.rename(world.root / f"no-{name}")


def plug_in(world: MembersWorld, name: str) -> None:
    (world.root / f"no-{name}").rename(world.place(name).parent)


def told(node: Node, count: int) -> bool:
    """Whether the node's log has so many lines at `unusual`. What it has said is read with the answer to a call."""
    node.rpc("backup-status")
    return len(said_at(node, "unusual")) == count


def beside(world: MembersWorld) -> dict[str, Any]:
    found = json.loads(backup_cli("status", "--json", "--lightning-dir", world.directory).out)
    assert isinstance(found, dict)
    return found


def states(status: dict[str, Any]) -> dict[str, str]:
    return {member["name"]: member["state"] for member in status["members"]}


def test_running_node_and_command_beside_it_agree_on_members_in_sync(tmp_path: Path, history: History) -> None:
    world = MembersWorld(tmp_path, ("nas", "stick", "far"), trailing=["far"]).init()
    with running(world) as node:
        node.play([history.first(), *history.notes(5)])
        eventually(lambda: node.rpc("backup-status")["members"][2]["lag_changes"] == 0)
        within, seen = node.rpc("backup-status"), beside(world)
    for said in (within, seen):
        assert states(said) == {"nas": "in_sync", "stick": "in_sync", "far": "trailing"}
        assert (said["health"], said["trouble_kinds"], said["need"]) == ("ok", [], 1)
        assert [member["trailing"] for member in said["members"]] == [False, False, True]
        assert [member["lag_changes"] for member in said["members"]] == [0, 0, 0]
    assert within["epoch"] == seen["epoch"] == world.note.epoch.number
    assert within["members"][0]["latency"] > 0


def test_member_that_fails_and_comes_back_is_told_once_each_and_degrades_meanwhile(
    tmp_path: Path, history: History
) -> None:
    world = MembersWorld(tmp_path).init()
    with running(world) as node:
        node.play([history.first(), *history.notes(5)])
        unplug(world, "stick")
        node.play(history.notes(20))
        eventually(lambda: world.note.in_sync == ("nas",))
        eventually(lambda: states(node.rpc("backup-status"))["stick"] == "out_of_sync")
        within, seen = node.rpc("backup-status"), beside(world)
        plug_in(world, "stick")
        eventually(lambda: world.note.in_sync == world.names)
        eventually(lambda: node.rpc("backup-status")["health"] == "ok")
        node.play(history.notes(3))
    assert within["health"] == seen["health"] == "degraded"
    assert within["trouble_kinds"] == ["member_out_of_sync", "need_not_met_soon"]
    assert states(seen)["nas"] == "in_sync" and states(seen)["stick"] in ("unreachable", "out_of_sync")
    out, back = said_at(node, "unusual")
    assert out.startswith(f"stick ({world.members[1].url}) went out of sync (")
    assert "Every change is saved in nas, and the node goes on. If nas fails as well, the node stops" in out
    assert back.startswith("stick is back in sync (") and " changes were made up for. " in back


def test_member_that_is_away_at_the_start_is_told_to_be_out_of_sync(tmp_path: Path, history: History) -> None:
    world = MembersWorld(tmp_path).init()
    world.run([history.first(), *history.notes(10)])
    unplug(world, "stick")
    with running(world) as node:
        node.play(history.notes(3))
        eventually(lambda: told(node, 1))
    (line,) = said_at(node, "unusual")
    assert line.startswith(f"stick ({world.members[1].url}) went out of sync (")


def test_another_backup_in_a_members_place_is_told_with_what_to_type(tmp_path: Path, history: History) -> None:
    world, other = MembersWorld(tmp_path / "one").init(), MembersWorld(tmp_path / "two").init()
    world.run([history.first(), *history.notes(10)])
    unplug(world, "stick")
    with running(world) as node:
        node.play(history.notes(3))
        other.place("stick").parent.rename(world.place("stick").parent)
        eventually(lambda: told(node, 2))
    line = said_at(node, "unusual")[1]
    assert line.startswith(f"{world.members[1].url}, where stick should be, cannot be used (")
    assert "It is not touched" in line and "lightning-cli backup-member-remove stick, then: " in line
