"""Compaction beside a running node: it begins by itself, and nothing is lost by it."""

import random
import subprocess
import time
from collections.abc import Callable

import psutil
import pytest

from backends import backup_at
from tests.end_to_end.corruption import flip, snapshot
from tests.end_to_end.db_compare import differences
from tests.end_to_end.recordings import FRESH
from tests.end_to_end.world import PLUGIN, World, as_mortal, command, said_at, snapshots_taken
from tests.fake_lightningd import Call, History, Node

MIB = 1 << 20

EAGER = {"LIGHTNINGD_BACKUP_COMPACT_AT": "400"}
"""The environment of a plugin that compacts as soon as the log holds a few records."""


def wait(node: Node, condition: Callable[[], bool], seconds: float = 30.0) -> None:
    assert node.wire.listen(seconds, condition), node.logs[-5:]


def ended(node: Node) -> int:
    """How many compactions have ended in this run of the plugin."""
    return sum("compaction ended" in line for line in said_at(node, "info"))


def begun(node: Node) -> int:
    return sum("compaction begins" in line for line in said_at(node, "info"))


def snapshots(world: World) -> list[str]:
    return sorted(path.name for path in world.backup.glob("snapshot-*"))


def total(world: World) -> int:
    """Bytes of all files in the backup."""
    found = 0
    for path in world.backup.iterdir():
        try:
            found += path.stat().st_size
        except FileNotFoundError:
            continue  # removed just now
    return found


# It begins by itself


def test_compaction_begins_by_itself_and_drops_the_replaced_generation(lived: World, history: History) -> None:
    with lived.node(environment=EAGER) as node:
        node.play(history.notes(30))
        wait(node, lambda: ended(node) > 0)
        assert "snapshot-00000001" not in snapshots(lived)
        seen = node.rpc("backup-status")
        assert (seen["health"], seen["generation_reason"]) == ("ok", "compaction")
        assert seen["generation"] >= 2
        assert abs(seen["last_compaction"] - time.time()) < 60
        node.play(history.notes(5))
    assert lived.status()["last_compaction"] >= seen["last_compaction"]
    assert len(snapshots(lived)) == 1
    lived.assert_restored_equals_the_nodes()


def test_compaction_is_not_begun_again_and_again_when_there_is_nothing_to_compact(
    lived: World, history: History
) -> None:
    """After a compaction the log's bytes stay in a segment that is not full: no reason to begin another one."""
    with lived.node(environment=EAGER) as node:
        node.play(history.notes(30))
        wait(node, lambda: ended(node) > 0)
        node.wire.listen(1.5)
        assert begun(node) <= 2, node.logs


def test_single_large_change_does_not_begin_a_compaction(world: World, history: History) -> None:
    with world.init().node() as node:
        node.play([history.first(), incompressible(history, 17 * MIB)])
        node.wire.listen(1.0)
        assert begun(node) == 0
    world.assert_restored_equals_the_nodes()


def incompressible(history: History, size: int) -> Call:
    """A transaction that cannot be stored in much less than `size` bytes; the database does not grow with it."""
    blob = random.Random(history.version).randbytes(size).hex()
    return history.transaction(f"INSERT OR REPLACE INTO vars (name, blobval) VALUES ('random', x'{blob}')")


def test_recorded_node_that_is_compacted_all_the_time_restores_exactly(world: World) -> None:
    """While migrations, lone PRAGMAs and everything else that the node did arrive."""
    FRESH.prepare(world)
    calls = list(FRESH.calls())
    with world.node(environment=EAGER) as node:
        for number in range(1, 6):
            node.play(calls[(number - 1) * 202 : number * 202], early=5)
            wait(node, lambda least=number: ended(node) >= least)  # type: ignore[misc]
        assert said_at(node, "broken") == []
    restored = world.assert_restored_equals_the_nodes()
    assert differences(restored, FRESH.expected(world)) == []


def test_compaction_leaves_last_changes_in_the_log_for_rolling_forward(lived: World, history: History) -> None:
    """A power cut on the node's machine may take a commit back a moment after it was compacted; only the log can then
    bring the database forward."""
    with lived.node(environment=EAGER) as node:
        node.play(history.notes(40))
        wait(node, lambda: ended(node) > 0)
        wait(node, lambda: not running(node))
        node.rpc("backup-compact")
        wait(node, lambda: not running(node) and "begins" not in said_at(node, "info")[-1])
        with backup_at(lived.url).read() as generation:
            assert [change.data_version for change in generation.changes()][-16:] == [*range(31, 47)]


def test_backup_stays_below_three_databases_and_64_mib_without_any_action(world: World, history: History) -> None:
    """Three times the database and 64 MiB: 80 MiB of changes go into a database of one.

    They come at 20 MB/s, many times what a node writes. At 50 MB/s, a compaction on a busy machine did not keep up.
    """
    largest = 0
    with world.init().node() as node:
        node.play([history.first()])
        for _ in range(80):
            node.db_write(incompressible(history, MIB))
            node.wire.listen(0.05)
            largest = max(largest, total(world))
        wait(node, lambda: ended(node) == begun(node))
        assert ended(node) >= 1
        assert said_at(node, "broken") == []
    assert largest <= 3 * world.database.stat().st_size + 64 * MIB
    assert total(world) <= 3 * world.database.stat().st_size + 32 * MIB
    world.assert_restored_equals_the_nodes()


# It is asked for


def test_rpc_backup_compact_begins_a_compaction(lived: World, history: History) -> None:
    with lived.node() as node:
        assert node.rpc("backup-compact") == {"started": False, "reason": "lightningd has not written anything yet"}
        assert node.rpc("backup-status")["health"] == "refused"
        node.play(history.notes(20))
        assert node.rpc("backup-compact") == {"started": True}
        wait(node, lambda: ended(node) == 1)
        assert node.rpc("backup-status")["compaction_running"] is False
        node.play(history.notes(1))
    lived.assert_restored_equals_the_nodes()


def test_rpc_backup_compact_with_nothing_to_compact_says_so(lived: World, history: History) -> None:
    with lived.node() as node:
        node.play(history.notes(20))
        node.rpc("backup-compact")
        wait(node, lambda: ended(node) == 1)
        node.rpc("backup-compact")
        wait(node, lambda: begun(node) == 2 and not running(node) and "begins" not in said_at(node, "info")[-1])
        assert "nothing to compact" in said_at(node, "info")[-1]
        assert node.rpc("backup-status")["health"] == "ok"
    lived.assert_restored_equals_the_nodes()


def running(node: Node) -> bool:
    found: bool = node.rpc("backup-status")["compaction_running"]
    return found


# Deaths


def large(world: World, history: History) -> World:
    """A backup whose compaction takes a while."""
    world.init().run([history.first(), *(history.big(2 * MIB) for _ in range(4))])
    return world


@pytest.mark.parametrize("delay", [0.0, 0.3, 0.7])
def test_plugin_killed_while_it_compacts_leaves_a_whole_backup(world: World, history: History, delay: float) -> None:
    large(world, history)
    node = world.node()
    node.start()
    node.play(history.notes(20))
    node.rpc("backup-compact")
    wait(node, lambda: begun(node) == 1)
    node.wire.listen(delay)
    helpers = psutil.Process(node.pid).children()
    node.die()
    psutil.wait_procs(helpers, timeout=10)
    assert not any(helper.is_running() for helper in helpers), "a compaction outlives its plugin"
    world.assert_restored_equals_the_nodes()
    again = world.run(history.notes(2))
    assert said_at(again, "broken") == []
    assert [path.name for path in world.backup.glob("*.tmp")] == []
    assert [path.name for path in world.directory.glob(".lightningd-backup-*")] == []
    world.assert_restored_equals_the_nodes()


def test_killed_compaction_process_is_reported_and_the_next_one_succeeds(world: World, history: History) -> None:
    """The node's log tells of it, and the next compaction does the work."""
    large(world, history)
    with world.node() as node:
        node.play(history.notes(20))
        node.rpc("backup-compact")
        wait(node, lambda: bool(psutil.Process(node.pid).children()))
        [helper] = psutil.Process(node.pid).children()
        helper.kill()
        wait(node, lambda: bool(said_at(node, "broken")))
        assert "compaction failed" in said_at(node, "broken")[0]
        node.play(history.notes(20))
        node.rpc("backup-compact")
        wait(node, lambda: ended(node) == 1)
        assert node.rpc("backup-status")["troubles"] == []
    world.assert_restored_equals_the_nodes()


def test_clean_stop_during_a_compaction_leaves_a_whole_backup(world: World, history: History) -> None:
    large(world, history)
    node = world.node()
    node.start()
    node.play(history.notes(20))
    node.rpc("backup-compact")
    wait(node, lambda: begun(node) == 1)
    assert node.stop() == 0
    world.run(history.notes(2))
    world.assert_restored_equals_the_nodes()


# Failures


def test_failed_compaction_is_reported_in_log_and_status(lived: World, history: History) -> None:
    """The node's directory takes no copy of the database for a while. Every change is still saved."""
    plugin = [*as_mortal(), *PLUGIN]
    with lived.node(command=plugin) as node:
        node.play(history.notes(20))
        lived.directory.chmod(0o500)  # lightningd itself, if it is not root, can commit nothing as long as this lasts
        node.rpc("backup-compact")
        wait(node, lambda: bool(said_at(node, "broken")))
        lived.directory.chmod(0o700)
        assert "compaction failed: " in said_at(node, "broken")[0]
        assert "Every change is still saved" in said_at(node, "broken")[0]
        seen = node.rpc("backup-status")
        assert seen["health"] == "degraded"
        assert "the last compaction failed" in seen["troubles"][0]
        node.play(history.notes(5))
        wait(node, lambda: "the last compaction failed" in str(lived.status()["troubles"]))
        node.rpc("backup-compact")
        wait(node, lambda: ended(node) == 1)
        assert node.rpc("backup-status")["health"] == "ok"
    assert lived.status()["health"] == "ok"
    lived.assert_restored_equals_the_nodes()


def test_damaged_snapshot_is_never_compacted_into_a_new_one(taken_over: World, history: History) -> None:
    flip(snapshot(taken_over), 200)
    with taken_over.node(environment=EAGER) as node:
        node.play(history.notes(40))
        wait(node, lambda: bool(said_at(node, "broken")))
        assert "this backup is known to be damaged" in said_at(node, "broken")[0]
        assert snapshots(taken_over) == ["snapshot-00000001"]
        node.play(history.notes(3))
        assert snapshots_taken(node) != []
    taken_over.run(history.notes(1))
    taken_over.assert_restored_equals_the_nodes()


# Readers beside it


def test_readers_during_compactions_always_see_a_whole_backup(lived: World, history: History) -> None:
    acts = ["verify", "status", "restore"]
    with lived.node(environment=EAGER) as node:
        node.play(history.notes(10))
        for number in range(9):
            act = acts[number % 3]
            to = [lived.root / f"beside-{number}"] if act == "restore" else []
            reader = subprocess.Popen(
                command(act, *lived.key_options, lived.url, *to), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            while reader.poll() is None:
                node.play(history.notes(3))
            said, _ = reader.communicate()
            assert reader.returncode == 0, said.decode()
        assert ended(node) >= 1
    lived.assert_restored_equals_the_nodes()
