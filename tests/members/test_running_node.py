"""A node whose backup has several members: they hold the same, and the node goes on when one of them fails."""

import shutil
import sys
import time
from pathlib import Path

import pytest

from backends.log.format.members import MEMBERS
from tests.end_to_end.world import World, backup_cli, said_at, snapshots_taken, tree
from tests.fake_lightningd import History, Moment, Node, Refused, RpcError
from tests.members.world import MembersWorld, eventually

COMPACT_SOON = {"LIGHTNINGD_BACKUP_COMPACT_AT": "20000"}


@pytest.fixture
def world(tmp_path: Path) -> MembersWorld:
    return MembersWorld(tmp_path).init()


@pytest.fixture
def history() -> History:
    return History()


def start(world: World, environment: dict[str, str] | None = None) -> Node:
    node = world.node(environment=environment or {})
    node.start()
    node.init()
    return node


def assert_same_files(world: MembersWorld, *names: str) -> None:
    """All files of these members are the same, but for each one's own document and lock."""
    first, *others = [
        {file.name: file.read_bytes() for file in world.place(name).iterdir() if file.name not in (MEMBERS, "lock")}
        for name in names
    ]
    for other in others:
        assert other == first


def test_members_hold_the_same_bytes(world: MembersWorld, history: History) -> None:
    world.run([history.first(), *history.notes(30)])
    assert_same_files(world, *world.names)
    for name in world.names:
        world.assert_member_equals_the_node(name)


def test_each_session_begins_an_epoch_that_all_members_carry(world: MembersWorld, history: History) -> None:
    world.run([history.first(), *history.notes(3)])
    world.run(history.notes(3))
    assert world.note.epoch.number == 3
    assert {world.document(name).epoch for name in world.names} == {world.note.epoch}


def test_wiped_member_is_caught_up_and_joins_without_a_restart(world: MembersWorld, history: History) -> None:
    node = start(world)
    node.play([history.first(), *history.notes(30)])
    shutil.rmtree(world.place("stick"))
    node.play(history.notes(10))
    eventually(lambda: world.note.in_sync == world.names)
    node.play(history.notes(10))
    node.stop()
    assert_same_files(world, *world.names)
    world.assert_member_equals_the_node("stick")
    out, back = said_at(node, "unusual")
    assert "stick" in out
    assert "stick" in back


def test_member_that_is_away_at_start_is_caught_up_when_it_is_back(world: MembersWorld, history: History) -> None:
    world.run([history.first(), *history.notes(10)])
    world.place("stick").parent.rename(world.root / "unplugged")
    node = start(world)
    node.play(history.notes(10))
    assert world.note.in_sync == ("nas",)
    (world.root / "unplugged").rename(world.place("stick").parent)
    eventually(lambda: world.note.in_sync == world.names)
    node.play(history.notes(3))
    node.stop()
    assert_same_files(world, *world.names)


def test_start_without_a_member_is_refused_when_the_database_is_not_proven(
    world: MembersWorld, history: History
) -> None:
    world.run([history.first(), *history.notes(10)])
    (world.directory / "backup.witness").unlink()
    world.place("stick").rename(world.root / "unplugged")
    before = tree(world.place("nas"))
    with pytest.raises(Refused, match="stick"):
        world.run(history.notes(1))
    assert tree(world.place("nas")) == before


def test_node_stops_when_fewer_members_remain_than_it_needs(tmp_path: Path, history: History) -> None:
    world = MembersWorld(tmp_path, need=2).init()
    node = start(world)
    node.play([history.first(), *history.notes(5)])
    shutil.rmtree(world.place("stick"))
    with pytest.raises(Refused, match="stick"):
        node.play(history.notes(1))
    node.die()
    assert world.document("nas").in_sync == world.names


def test_compaction_goes_to_all_members(world: MembersWorld, history: History) -> None:
    node = start(world, environment=COMPACT_SOON)
    node.play([history.first(), *history.notes(600)])
    eventually(lambda: (world.place("nas") / "snapshot-00000002").exists(), 60)
    eventually(lambda: not (world.place("stick") / "snapshot-00000001").exists())
    node.play(history.notes(5))
    node.stop()
    assert_same_files(world, *world.names)
    world.assert_member_equals_the_node("stick")
    assert said_at(node, "unusual") == []


def test_new_snapshot_goes_to_all_members(world: MembersWorld, history: History) -> None:
    world.run([history.first(), *history.notes(5)])
    world.run_without_plugin(history.notes(3))
    assert snapshots_taken(world.run(history.notes(5)))
    assert_same_files(world, *world.names)
    world.assert_member_equals_the_node("stick")


def test_trailing_member_follows_and_is_never_in_sync(tmp_path: Path, history: History) -> None:
    world = MembersWorld(tmp_path, ("nas", "far"), trailing=("far",)).init()
    node = start(world)
    node.play([history.first(), *history.notes(30)])

    def caught_up() -> bool:
        [_, far] = node.rpc("backup-status", {})["members"]
        return (far["state"], far["lag_changes"]) == ("trailing", 0)

    eventually(caught_up)
    eventually(lambda: world.document("far").epoch == world.note.epoch)
    assert world.document("far").in_sync == ("nas",)
    node.stop()
    world.assert_member_equals_the_node("far")


def test_damaged_segment_of_one_member_is_mended_from_the_other_at_the_next_start(
    world: MembersWorld, history: History
) -> None:
    world.run([history.first(), *history.notes(30)])
    segment = world.place("stick") / "segment-00000001"
    damaged = bytearray(segment.read_bytes())
    damaged[400] ^= 1
    segment.write_bytes(damaged)
    node = start(world)
    node.play(history.notes(3))
    eventually(lambda: world.note.in_sync == world.names)
    node.stop()
    assert_same_files(world, *world.names)


def test_member_is_added_and_removed_while_the_node_runs(tmp_path: Path, history: History) -> None:
    world = World(tmp_path).init()
    node = start(world)
    node.play([history.first(), *history.notes(5)])
    (tmp_path / "nas").mkdir()
    url = (tmp_path / "nas" / "lightning.bkp").as_uri()
    assert node.rpc("backup-member-add", {"url": url})["added"] == "nas"
    node.play(history.notes(5))
    eventually(lambda: [member["state"] for member in node.rpc("backup-status", {})["members"]] == ["in_sync"] * 2)
    node.play(history.notes(5))
    with pytest.raises(RpcError, match="a member already"):
        node.rpc("backup-member-add", {"url": url})
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nas")
    with pytest.raises(RpcError, match="the same place as nas"):  # it would be caught up from itself
        node.rpc("backup-member-add", {"url": (link / "lightning.bkp").as_uri()})
    assert node.rpc("backup-member-remove", ["disk"])["members"] == ["nas"]
    node.play(history.notes(5))
    with pytest.raises(RpcError, match="0 members would be in sync"):
        node.rpc("backup-member-remove", ["nas"])
    again = {"url": (tmp_path / "disk" / "lightning.bkp").as_uri()}
    node.rpc("backup-member-add", again)
    eventually(lambda: [member["state"] for member in node.rpc("backup-status", {})["members"]] == ["in_sync"] * 2)
    node.rpc("backup-member-remove", ["disk"])
    node.stop()
    node = world.run(history.notes(5))
    assert "nas" in node.logs[0][1]
    assert "lightning.bkp and" not in node.logs[0][1]


def test_member_that_cannot_be_used_is_not_added(tmp_path: Path, history: History) -> None:
    world = World(tmp_path).init()
    node = start(world)
    node.play([history.first(), *history.notes(5)])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").write_text("not a backup")
    with pytest.raises(RpcError, match=r"holds something else \(photo.jpg\)"):
        node.rpc("backup-member-add", {"url": (tmp_path / "other").as_uri()})
    node.play(history.notes(5))
    node.stop()
    world.assert_restored_equals_the_nodes()
    assert (tmp_path / "other" / "photo.jpg").read_text() == "not a backup"


@pytest.mark.parametrize("words", [("compact",), ("resync",)])
def test_offline_command_writes_to_all_members(world: MembersWorld, history: History, words: tuple[str, ...]) -> None:
    world.run([history.first(), *[history.big(1 << 18) for _ in range(4)], *history.notes(40)])
    said = backup_cli(*words, "--lightning-dir", world.directory)
    assert said.code == 0, said
    assert_same_files(world, *world.names)
    node = world.run(history.notes(3))
    assert said_at(node, "unusual") == []
    world.assert_member_equals_the_node("stick")


def test_compact_refuses_one_member_alone(world: MembersWorld, history: History) -> None:
    world.run([history.first(), *history.notes(5)])
    before = world.everything_on_disk()
    said = backup_cli("compact", world.place("nas").as_uri())
    assert said.code == 1
    assert "one member of a backup that has several" in said.text
    assert world.everything_on_disk() == before


def test_copy_of_the_nodes_directory_does_not_start_without_a_member(
    world: MembersWorld, history: History, tmp_path: Path
) -> None:
    """The copy cannot know whether the node has gone on with the member that is away."""
    world.run([history.first(), *history.notes(5)])
    copy = MembersWorld(tmp_path / "copy")
    shutil.rmtree(copy.directory)
    shutil.copytree(world.directory, copy.directory)
    world.place("stick").rename(world.root / "unplugged")
    time.sleep(0.01)
    with pytest.raises(Refused, match="stick"):
        copy.run(history.notes(1))


def kill_before_commit(world: MembersWorld, history: History) -> None:
    """The last change is saved, and lightningd dies before it commits: the database is one change behind."""
    node = start(world)
    node.play([history.first(), *history.notes(5)])
    node.die_at(Moment.BEFORE_COMMIT, history.note())


def test_database_set_back_is_brought_forward_although_a_member_is_away(world: MembersWorld, history: History) -> None:
    kill_before_commit(world, history)
    world.place("stick").parent.rename(world.root / "unplugged")
    node = start(world)
    node.play(history.notes(3))
    assert world.note.in_sync == ("nas",)
    (world.root / "unplugged").rename(world.place("stick").parent)
    eventually(lambda: world.note.in_sync == world.names)
    node.stop()
    assert_same_files(world, *world.names)
    world.assert_member_equals_the_node("stick")


def test_member_made_read_only_is_caught_up_and_joins(world: MembersWorld, history: History) -> None:
    """Its directory, and so the lock in it, stays the same: this process holds that already."""
    node = start(world)
    node.play([history.first(), *history.notes(10)])
    (world.place("stick") / "segment-00000001").chmod(0o400)
    node.play(history.notes(5))
    assert "stick" in said_at(node, "unusual")[0]
    eventually(lambda: world.note.in_sync == world.names)
    node.play(history.notes(5))
    node.stop()
    assert_same_files(world, *world.names)


def test_check_config_foresees_that_the_node_would_not_start_without_a_member(
    world: MembersWorld, history: History
) -> None:
    world.run([history.first(), *history.notes(5)])
    world.place("stick").parent.rename(world.root / "unplugged")
    assert "would not start now" not in backup_cli("check-config", "--lightning-dir", world.directory).text
    (world.directory / "backup.witness").unlink()
    assert "the node would not start now" in backup_cli("check-config", "--lightning-dir", world.directory).text
    with pytest.raises(Refused, match="stick"):
        world.run(history.notes(1))


def test_database_brought_forward_does_not_count_as_changed_just_now(
    world: MembersWorld, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bringing it forward changes the file. But the node has been down for longer than an hour."""
    kill_before_commit(world, history)
    world.place("stick").parent.rename(world.root / "unplugged")
    later = "import time; now = time.time; time.time = lambda: now() + 7200; from plugin.main import main; main()"
    node = world.node(command=[sys.executable, "-c", later])
    node.start()
    with pytest.raises(Refused, match="stick"):
        node.play(history.notes(1))
