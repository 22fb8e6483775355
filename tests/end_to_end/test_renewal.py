"""A new snapshot that is made while the node commits: nobody waits for it, and nothing is lost by it."""

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from backends import backup_at
from backends.change import Change
from backends.log.format.records import FILE_HEADER_SIZE, RECORD_HEADER_SIZE, snapshot_name
from backends.log.known_damage import DAMAGE, found_now
from backends.node.key_file import load_key
from tests.end_to_end.db_compare import differences
from tests.end_to_end.encrypted import EncryptedWorld
from tests.end_to_end.following import COPY
from tests.end_to_end.world import World, backup_cli, said_at
from tests.fake_lightningd import History, Moment, Node, transaction
from tests.fake_lightningd.calls import bump
from tests.fake_lightningd.database import Database, SeparateDatabase
from tests.log.histories import silent
from tests.members.world import MembersWorld

LARGE = {"LIGHTNINGD_BACKUP_LARGE": "1"}
"""Every database counts as a large one."""

BEGUN = "is being made while the node runs"
TAKEN = "the backup is complete again"


def said(node: Node, words: str) -> list[str]:
    return [line for line in said_at(node, "unusual") if words in line]


def play_until(node: Node, history: History, condition: Callable[[], bool]) -> int:
    """Commit until the condition holds, and a few more changes. Returns how many commits that took."""
    end, commits = time.monotonic() + 60, 0
    while not condition():
        assert time.monotonic() < end, node.logs[-5:]
        node.play(history.notes(3))
        commits += 3
        time.sleep(0.01)
    node.play(history.notes(5))
    return commits


def doubt(world: World) -> None:
    """What a node cannot know after a kill -9."""
    (world.directory / "backup.witness").unlink()


W = TypeVar("W", bound=World)


def live(world: W, history: History) -> W:
    """A node that has run before; from now on, its database counts as a large one."""
    world.init()
    world.run([history.first(), *history.notes(30)])
    world.environment |= LARGE
    return world


@pytest.fixture
def lived(world: World, history: History) -> World:
    return live(world, history)


def assert_renewed(world: World, node: Node, history: History, generation: int = 2) -> None:
    """The node commits until the new snapshot is there; then the backup is whole, and what the node has."""
    assert play_until(node, history, lambda: bool(said(node, TAKEN))) > 3
    assert node.stop() == 0
    assert said_at(node, "broken") == []
    assert world.status()["generation"] == generation
    assert not list(world.directory.glob(".lightningd-backup-*"))
    world.assert_restored_equals_the_nodes()


def test_node_commits_while_the_new_snapshot_is_made(lived: World, history: History) -> None:
    doubt(lived)
    node = lived.node()
    node.start()
    node.play([history.note()])
    assert said(node, BEGUN) and not said(node, TAKEN), node.logs
    assert (lived.backup / DAMAGE).exists()
    assert_renewed(lived, node, history)
    assert not (lived.backup / DAMAGE).exists()
    assert backup_cli("verify", *lived.key_options, lived.url).code == 0


def test_until_then_a_restore_gives_the_nodes_state_and_tells_of_the_doubt(lived: World, history: History) -> None:
    doubt(lived)
    with lived.node() as node:
        node.play(history.notes(2))
        target = lived.root / "early.sqlite3"
        restored = backup_cli("restore", *lived.key_options, lived.url, target)
        assert not said(node, TAKEN)
        assert restored.code == 0
        assert "may not hold all that the node has done" in restored.text
        assert "do not start a node from this: start that one" in restored.text
        assert differences(target, lived.database) == []
        verified = backup_cli("verify", *lived.key_options, lived.url)
        assert "All that it holds is readable" in verified.text
        status = node.rpc("backup-status")
        assert (status["health"], status["new_snapshot_running"], status["compaction_running"]) == (
            "damaged",
            True,
            False,
        )
        assert node.rpc("backup-compact")["started"] is False


def test_database_that_is_ahead_is_in_the_new_snapshot_and_until_then_the_gap_is_named(
    lived: World, history: History
) -> None:
    lived.run_without_plugin(history.notes(2))
    node = lived.node()
    node.start()
    node.play(history.notes(2))
    restored = backup_cli("restore", *lived.key_options, lived.url, lived.root / "early.sqlite3")
    assert not said(node, TAKEN)
    assert restored.code == 3
    assert "the database is 2 ahead" in restored.text
    assert_renewed(lived, node, history)
    listed = backup_cli("versions", *lived.key_options, lived.url)
    assert "kept" in listed.text  # the database disagreed with the old generation


def test_large_first_transaction_that_locks_the_database_does_not_stop_the_node(lived: World, history: History) -> None:
    """SQLite has written to the database before the hook is called, and nobody can read it until the commit."""
    doubt(lived)
    before = history.big(2 << 20)
    with lived.node(database=lambda directory: Database(directory, 10, "FULL")) as node:
        node.play([before])
        assert said(node, BEGUN), node.logs
        node.play([history.big(1 << 20)])
        play_until(node, history, lambda: bool(said(node, TAKEN)))
    assert said_at(node, "broken") == []
    lived.assert_restored_equals_the_nodes()


def test_lone_pragmas_of_a_migration_meanwhile_change_nothing(lived: World, history: History) -> None:
    doubt(lived)
    node = lived.node()
    node.start()
    node.play([history.note(), history.foreign_keys(on=False), history.note(), history.foreign_keys(on=True)])
    assert_renewed(lived, node, history)


@pytest.mark.plain_unless_told
def test_new_snapshot_of_an_encrypted_backup_is_encrypted(tmp_path: Path, history: History) -> None:
    world = live(EncryptedWorld(tmp_path), history)
    doubt(world)
    node = world.node()
    node.start()
    assert_renewed(world, node, history)


def test_new_snapshot_is_given_to_all_members(tmp_path: Path, history: History) -> None:
    world = live(MembersWorld(tmp_path), history)
    doubt(world)
    with world.node() as node:
        node.play([history.note()])
        play_until(node, history, lambda: bool(said(node, TAKEN)))
    for name in world.names:
        assert not (world.place(name) / DAMAGE).exists()
        assert (world.place(name) / snapshot_name(2)).exists()
    verified = backup_cli("verify", *world.key_options, *(member.url for member in world.members))
    assert verified.code == 0, verified


@pytest.mark.parametrize("lost", ["nas", "stick"])
def test_member_that_is_lost_while_the_new_snapshot_is_made_gets_it_when_it_joins_again(
    tmp_path: Path, history: History, lost: str
) -> None:
    """Perhaps the one where it is being made: then it is made again at the other one."""
    world = live(MembersWorld(tmp_path), history)
    doubt(world)
    with world.node() as node:
        node.init()
        node.play(history.notes(3))
        assert said(node, BEGUN) and not said(node, TAKEN)
        shutil.rmtree(world.place(lost))
        until = time.monotonic() + 60
        while not (world.note.in_sync == world.names and said(node, TAKEN)):
            assert time.monotonic() < until, node.logs[-6:]
            node.play(history.notes(2))
            time.sleep(0.02)
    assert said_at(node, "broken") == []
    for name in world.names:
        assert not (world.place(name) / DAMAGE).exists()
        world.assert_member_equals_the_node(name)


@pytest.mark.parametrize("moment", [Moment.IN_HOOK, Moment.BEFORE_COMMIT, Moment.BEFORE_HOOK])
@pytest.mark.parametrize("ahead", [0, 2])
def test_node_that_is_killed_meanwhile_is_brought_forward_and_the_snapshot_made_again(
    lived: World, history: History, moment: Moment, ahead: int
) -> None:
    chance = random.Random(repr((moment, ahead)))
    doubt(lived)
    lived.run_without_plugin(history.notes(ahead))
    for _ in range(3):
        node = lived.node(database=SeparateDatabase)
        node.start()
        history.version = lived.version  # it may have been brought forward
        node.play(history.notes(chance.randrange(1, 4)))
        time.sleep(chance.random() * 0.3)  # the copy, its process, or the publication
        node.die_at(moment, history.note())
    node = lived.node()
    node.start()
    history.version = lived.version
    node.play([history.note()])
    play_until(node, history, lambda: bool(said(node, TAKEN)) or not (lived.backup / DAMAGE).exists())
    assert node.stop() == 0
    lived.assert_restored_equals_the_nodes()


def test_process_that_makes_the_snapshot_and_dies_is_reported_and_the_node_goes_on(
    lived: World, history: History
) -> None:
    doubt(lived)
    with lived.node() as node:
        node.play([history.note()])
        end = time.monotonic() + 30
        while not (children := psutil.Process(node.pid).children()):
            assert time.monotonic() < end
            time.sleep(0.005)
        for child in children:
            child.kill()
        play_until(node, history, lambda: bool(said(node, "no new snapshot could be taken yet")))
        assert (lived.backup / DAMAGE).exists()
    assert not list(lived.directory.glob(".lightningd-backup-*"))
    node = lived.node()
    node.start()
    assert_renewed(lived, node, history)
    listed = backup_cli("versions", *lived.key_options, lived.url)
    assert "begun by: an earlier new snapshot was not completed: nothing on this machine says" in listed.text


def test_damage_in_what_was_saved_meanwhile_is_not_published_as_healed(lived: World, history: History) -> None:
    """A `verify` may have found it, and what it noted would count no more."""
    doubt(lived)
    with lived.node() as node:
        node.play([history.note()])
        newest = sorted(lived.backup.glob("segment-*"))[-1]
        with newest.open("r+b") as file:  # in the middle of what was saved since
            file.seek(FILE_HEADER_SIZE + RECORD_HEADER_SIZE + 2)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 0x10]))
        play_until(node, history, lambda: bool(said(node, "no new snapshot could be taken yet")))
        assert not said(node, TAKEN)
        assert (lived.backup / DAMAGE).exists()


def test_member_that_is_added_meanwhile_gets_the_new_snapshot(lived: World, history: History) -> None:
    """The backup is opened again as one of several, and the copy is made again."""
    doubt(lived)
    other = lived.root / "other" / "lightning.bkp"
    other.parent.mkdir()
    with lived.node() as node:
        node.play(history.notes(2))
        node.init()
        assert not said(node, TAKEN)
        assert node.rpc("backup-member-add", {"url": other.as_uri()})["added"] == "other"
        play_until(node, history, lambda: bool(said(node, TAKEN)))
        play_until(node, history, lambda: node.rpc("backup-status")["health"] == "ok")
    assert said_at(node, "broken") == []
    assert not (lived.backup / DAMAGE).exists()
    assert not (other / DAMAGE).exists()
    assert not list(lived.directory.glob(".lightningd-backup-*"))
    for place in (lived.backup, other):
        assert (place / snapshot_name(2)).exists()


def test_verify_that_finds_the_gap_of_a_doubt_names_the_doubt(lived: World) -> None:
    load_key(lived.directory)
    writer = backup_at(lived.url).open(silent, "a doubt, then a gap")
    writer.damage.note(found_now("start", "the database is 2 ahead", 1, doubt=True))
    version = writer.position.data_version + 3
    writer.append(Change(version, [bump(version)]))
    writer.close()
    verified = backup_cli("verify", *lived.key_options, lived.url)
    assert verified.code == 3
    assert "the database is 2 ahead" in verified.text
    assert "this finding is recorded" not in verified.text
    assert '"doubt": true' in backup_cli("status", *lived.key_options, lived.url, "--json").out


@pytest.mark.parametrize("taken_up_meanwhile", [True, False])
def test_copy_that_follows_is_built_anew_where_the_log_led_elsewhere(
    lived: World, history: History, taken_up_meanwhile: bool
) -> None:
    """The same records follow, before and after: nothing else tells the copy that what it holds is not the node's."""
    copy = lived.root / "copy"
    follow = ("follow", *lived.key_options, lived.url, copy, "--once")
    version = lived.version
    node = lived.node(database=SeparateDatabase)
    node.start()
    node.die_at(Moment.BEFORE_COMMIT, history.note("one"))
    lived.run_without_plugin([transaction(version + 1, "INSERT INTO vars (name, val) VALUES ('note 32', 'other')")])
    assert backup_cli(*follow).code == 0
    history.version = version + 1
    node = lived.node()
    node.start()
    node.play(history.notes(2))
    if taken_up_meanwhile:
        assert backup_cli(*follow).code == 0
        assert not said(node, TAKEN)
    assert_renewed(lived, node, history)
    taken_up = backup_cli(*follow)
    assert taken_up.code == 0
    assert differences(copy / COPY, lived.database) == []
    again = backup_cli(*follow)
    assert "Built the copy" in taken_up.text and "Built the copy" not in again.text
