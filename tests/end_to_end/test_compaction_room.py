"""Compaction on nearly full disks: it fails rather than take the space that the node's next commits need."""

import os
import time
from pathlib import Path

from tests.end_to_end.test_compaction import begun, ended, incompressible, large, wait
from tests.end_to_end.world import World, said_at
from tests.fake_lightningd import History
from tests.small_disk import needs_small_disks, small_disk

MIB = 1 << 20


@needs_small_disks
def test_compaction_does_not_fill_up_a_destination_with_little_space(world: World, history: History) -> None:
    """A full destination would stop the node at its next commit."""
    with small_disk(world.backup.parent, 22 * MIB):
        world.init()
        with world.node() as node:
            node.play([history.first()])
            for row in range(10):
                blob = os.urandom(MIB).hex()
                node.db_write(history.transaction(f"INSERT INTO vars (name, blobval) VALUES ('{row}', x'{blob}')"))
                node.wire.listen(0.3)
            node.play(history.notes(20))
            node.rpc("backup-compact")
            wait(node, lambda: bool(said_at(node, "broken")))
            assert "MiB are free in" in said_at(node, "broken")[0]
            assert list(world.backup.glob("*-compaction*")) == []
            for _ in range(5):
                node.db_write(incompressible(history, MIB))
        world.assert_restored_equals_the_nodes()


@needs_small_disks
def test_compaction_does_not_fill_up_the_nodes_own_disk(world: World, history: History) -> None:
    """With a full disk lightningd could not commit any more, although the backup has saved the change."""
    with small_disk(world.directory, 104 * MIB):
        world.init()
        with world.node() as node:
            node.play([history.first(), *(history.big(2 * MIB) for _ in range(20))])
            node.rpc("backup-compact")
            least, end = 100 * MIB, time.monotonic() + 20
            while not said_at(node, "broken") and time.monotonic() < end:
                least = min(least, free(world.directory))
                node.wire.listen(0.005)
            assert f"MiB are free in {world.directory}" in said_at(node, "broken")[0]
            assert least > 16 * MIB
            assert list(world.directory.glob(".lightningd-backup-*")) == []


def free(place: Path) -> int:
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def test_clean_stop_during_a_compaction_leaves_no_copy_of_the_database(world: World, history: History) -> None:
    large(world, history)
    with world.node() as node:
        node.play(history.notes(20))
        node.rpc("backup-compact")
        wait(node, lambda: begun(node) == 1)
        end = time.monotonic() + 20
        while not ended(node) and not list(world.directory.glob(".lightningd-backup-*/*")):
            assert time.monotonic() < end
            node.wire.listen(0.005)
    assert list(world.directory.glob(".lightningd-backup-*")) == []
    assert list(world.backup.glob("*.tmp")) == []
    world.assert_restored_equals_the_nodes()
