"""Damage that was once found stays known to every command, until a new snapshot of the database heals it."""

import errno
import json
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from backends.log.known_damage import DAMAGE, found_now, write_damage
from backends.storage.local import LocalStorage
from plugin.notify import NOTIFY_FILE
from tests.end_to_end.segments import play_past_a_segment
from tests.end_to_end.test_compaction import begun, ended, incompressible, wait
from tests.end_to_end.world import Said, World, backup_cli, said_at, snapshots_taken, tree
from tests.fake_lightningd import Call, History, Moment, Node
from tests.fake_lightningd.database import SeparateDatabase

MIB = 1 << 20

KNOWN = "this backup is known to be damaged"


def play_unreplayable(node: Node, history: History) -> None:
    """A change that the plugin is told differently from how the node makes it: no restore can execute it."""
    good = history.note()
    bad = Call(good.data_version, ("INSERT INTO nowhere VALUES ('a secret')", good.writes[-1]))
    node.execute(good)
    node.ask(bad)
    node.commit()


def running(world: World, history: History, **options: object) -> Node:
    """A node with a change in its backup that cannot be replayed; nobody knows yet."""
    node = world.node(database=SeparateDatabase, **options)
    node.start()
    node.play(history.notes(5))
    play_unreplayable(node, history)
    node.play(history.notes(20))  # a compaction leaves the last few changes out
    return node


def compact_and_find(node: Node) -> None:
    node.rpc("backup-compact")
    wait(node, lambda: bool(said_at(node, "broken")))


def status(world: World, *options: str) -> Said:
    return backup_cli("status", world.url, *options)


def check_config(world: World) -> Said:
    return backup_cli("check-config", "--lightning-dir", world.directory)


def assert_known(world: World, by: str) -> None:
    """Every command that reads the files reports the damage."""
    said = status(world, "--json")
    seen = json.loads(said.out)
    assert (said.code, seen["health"], seen["damaged"]) == (3, "damaged", True)
    assert (seen["known_damage"]["by"], seen["troubles"][0].startswith(KNOWN)) == (by, True)
    prometheus = status(world, "--prometheus")
    assert prometheus.code == 3
    assert f'lightningd_backup_damaged{{url="{world.url}"}} 1\n' in prometheus.out
    assert f'lightningd_backup_known_damage{{url="{world.url}"}} 1\n' in prometheus.out
    said = check_config(world)
    [line] = [line for line in said.out.splitlines() if line.startswith("problem  destination")]
    assert KNOWN in line and "A new snapshot of the node's database repairs that" in line
    assert said.code == 1 and "NOT protected" in said.out
    assert "a secret" not in said.text + (world.backup / DAMAGE).read_text()


def assert_healed(world: World) -> None:
    assert not (world.backup / DAMAGE).exists()
    assert world.status()["health"] == "ok"
    assert "destination    answers; it holds version" in check_config(world).out
    assert 'lightningd_backup_known_damage{url="' + world.url + '"} 0\n' in status(world, "--prometheus").out
    assert backup_cli("verify", *world.key_options, world.url).code == 0
    world.assert_restored_equals_the_nodes()


# Found by the compaction


def test_damage_that_a_compaction_proved_is_known_to_every_command_and_after_a_kill(
    lived: World, history: History
) -> None:
    told = lived.root / "told"
    command = lived.directory / NOTIFY_FILE
    command.write_text(f'#!/bin/sh\necho "$1 $2" >> {told}\n')
    command.chmod(0o700)
    node = running(lived, history)
    compact_and_find(node)
    [broken] = said_at(node, "broken")
    assert broken.startswith(KNOWN) and broken.isascii() and "secret" not in broken
    seen = node.rpc("backup-status")
    assert (seen["health"], seen["known_damage"]["by"]) == ("damaged", "compaction")
    assert seen["troubles"] == [seen["troubles"][0]] and seen["troubles"][0].startswith(KNOWN)
    assert node.rpc("backup-compact") == {"started": False, "reason": seen["troubles"][0]}
    assert_known(lived, "compaction")
    node.wire.listen(6.0)  # it is looked at again meanwhile
    assert len(said_at(node, "broken")) == 1
    node.die()
    assert told.read_text().count(KNOWN) == 1
    assert_known(lived, "compaction")
    again = lived.run(history.notes(2))
    assert len(snapshots_taken(again)) == 1
    assert KNOWN in said_at(again, "unusual")[0]
    assert_healed(lived)


def test_known_damage_is_healed_at_the_next_commit_of_a_small_database(lived: World, history: History) -> None:
    node = running(lived, history)
    compact_and_find(node)
    node.play(history.notes(3))
    assert len(snapshots_taken(node)) == 1
    assert node.rpc("backup-status")["health"] == "ok"
    assert_healed(lived)
    node.play(history.notes(20))
    node.rpc("backup-compact")
    wait(node, lambda: ended(node) == 1)
    node.stop()
    assert len(snapshots_taken(lived.run(history.notes(1)))) == 0
    assert_healed(lived)


class Patient(World):
    """A world whose commit timeout is so short that no large snapshot is taken while the node runs."""

    @property
    def url(self) -> str:
        return f"{super().url}?timeout=5"


def test_known_damage_of_a_large_database_is_healed_while_the_node_commits(tmp_path: Path, history: History) -> None:
    world = Patient(tmp_path).init()
    world.run([history.first(), *(history.big(2 * MIB) for _ in range(4))])
    node = running(world, history)
    compact_and_find(node)
    assert "a new snapshot of it is begun at the next commit" in said_at(node, "broken")[0]
    node.play(history.notes(1))
    assert_known(world, "compaction")
    while not snapshots_taken(node):
        node.play(history.notes(3))
        time.sleep(0.02)
    node.play(history.notes(30))
    assert node.stop() == 0
    assert len(snapshots_taken(node)) == 1
    assert_healed(world)


def test_known_damage_is_not_healed_while_foreign_keys_may_be_off(lived: World, history: History) -> None:
    """A snapshot says that they are on, and a change replayed with them on may delete rows."""
    node = lived.node()
    node.start()
    node.play([history.note(), history.foreign_keys(on=False), *history.notes(2)])
    play_unreplayable(node, history)
    node.play(history.notes(20))  # a compaction leaves the last few changes out
    compact_and_find(node)
    node.play(history.notes(2))
    assert snapshots_taken(node) == []
    node.wait_for_log("no new snapshot could be taken yet")
    assert node.stop() == 0
    lived.run(history.notes(1))
    assert_healed(lived)


def test_known_damage_is_healed_later_while_the_database_is_locked(lived: World, history: History) -> None:
    """lightningd locks its database as soon as its cache overflows. The node must not stop because of that."""
    node = running(lived, history)
    node.stop()
    lived.run(history.notes(1))  # heals nothing: nobody knows
    small = partial(SeparateDatabase, cache_pages=10)
    node = lived.node(database=small)
    node.start()
    node.play(history.notes(2))
    compact_and_find(node)
    node.play([history.big(4 * MIB)])
    node.wait_for_log("no new snapshot could be taken yet")
    assert snapshots_taken(node) == []
    node.play(history.notes(2))
    assert node.stop() == 0
    assert_known(lived, "compaction")
    lived.run(history.notes(1))
    assert_healed(lived)


@pytest.mark.parametrize("moment", [Moment.IN_HOOK, Moment.BEFORE_COMMIT])
@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03])
def test_kill_while_known_damage_is_healed_leaves_it_known_or_healed(
    lived: World, history: History, moment: Moment, delay: float
) -> None:
    node = running(lived, history)
    node.play([history.big(2 * MIB)])
    compact_and_find(node)
    call = history.note("again")
    node.die_at(moment, call, delay=delay)
    assert (lived.backup / DAMAGE).exists() == (status(lived).code == 3)
    if json.loads(status(lived, "--json").out)["data_version"] == call.data_version:
        lived.run_without_plugin([call])  # brought forward, whoever does it
        call = history.note()
    again = lived.run([call, *history.notes(2)])
    assert said_at(again, "broken") == []
    assert_healed(lived)


def test_damage_found_but_not_noted_before_a_kill_is_found_again(lived: World, history: History) -> None:
    node = running(lived, history)
    node.rpc("backup-compact")
    wait(node, lambda: begun(node) == 1)
    node.die()
    with lived.node() as again:
        again.play(history.notes(1))
        if (lived.backup / DAMAGE).exists() or not snapshots_taken(again):
            compact_and_find(again)
            again.play(history.notes(1))
    assert_healed(lived)


# Found by a command


def test_damage_found_by_verify_is_noticed_by_the_running_node(lived: World, history: History) -> None:
    node = running(lived, history)
    said = backup_cli("verify", *lived.key_options, lived.url)
    assert said.code == 3 and "this finding is recorded in the backup" in said.err
    assert_known(lived, "verify")
    wait(node, lambda: bool(said_at(node, "broken")), 15.0)
    assert node.rpc("backup-status")["health"] == "damaged"
    node.play(history.notes(2))
    assert node.rpc("backup-status")["health"] == "ok"
    node.stop()
    assert_healed(lived)


def stopped(world: World, history: History) -> World:
    """A stopped node whose log has a full segment: a compaction would replace it, and therefore reads it."""
    node, blobs = running(world, history), random.Random(1)
    row = "INSERT OR REPLACE INTO vars (name, blobval) VALUES ('often', x'{}')"
    node.play([history.transaction(row.format(blobs.randbytes(1 << 20).hex())) for _ in range(12)])
    node.play(history.notes(20))
    node.stop()
    return world


def by_verify(world: World) -> Said:
    return backup_cli("verify", *world.key_options, world.url)


def by_compact(world: World) -> Said:
    return backup_cli("compact", *world.key_options, world.url)


@pytest.mark.parametrize(("by", "find"), [("verify", by_verify), ("compaction", by_compact)])
def test_damage_found_by_a_command_is_noted_and_healed_by_resync(
    lived: World, history: History, by: str, find: Callable[[World], Said]
) -> None:
    with lived.node() as node:  # more than a segment, so that a compaction would gain something
        play_past_a_segment(lived, node, [incompressible(history, 1 << 20) for _ in range(9)])
    stopped(lived, history)
    assert find(lived).code == 3
    assert_known(lived, by)
    before = tree(lived.backup)
    refused = by_compact(lived)
    assert refused.code == 3 and "a new snapshot of the node's database does" in refused.err
    assert tree(lived.backup) == before
    assert backup_cli("resync", "--lightning-dir", lived.directory).code == 0
    assert_healed(lived)


def test_verify_that_passes_despite_known_damage_says_both_and_clears_nothing(lived: World) -> None:
    generation = lived.status()["generation"]
    write_damage(LocalStorage(lived.backup), found_now("compaction", "a cable erred", generation))
    said = backup_cli("verify", *lived.key_options, lived.url)
    assert said.code == 0 and "is whole" in said.out
    assert KNOWN in said.err and "This time all of it could be read" in said.err
    assert_known(lived, "compaction")


def test_verify_that_cannot_note_the_damage_says_so(
    lived: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(lived, history)

    def read_only(storage: LocalStorage, name: str, data: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(LocalStorage, "publish", read_only)
    said = by_verify(lived)
    assert said.code == 3 and "could not be recorded in the backup" in said.err
    assert not (lived.backup / DAMAGE).exists()


def test_large_database_in_wal_mode_is_healed_by_the_next_start_and_the_node_is_told_so_once(
    lived: World, history: History
) -> None:
    """SQLite keeps no rollback journal then, so a large database cannot be copied while lightningd commits."""
    with closing(sqlite3.connect(lived.database)) as database:
        database.execute("PRAGMA journal_mode = WAL")
    lived.run(history.notes(2))  # it was touched
    lived.environment["LIGHTNINGD_BACKUP_LARGE"] = "1"
    node = running(lived, history)
    compact_and_find(node)
    node.play(history.notes(3))
    [told] = [line for line in said_at(node, "unusual") if "no new snapshot" in line]
    assert "can be made while the node runs: the database is in WAL mode" in told and "Restart the node" in told
    assert node.stop() == 0
    again = lived.run(history.notes(2))
    assert len(snapshots_taken(again)) == 1
    assert_healed(lived)
