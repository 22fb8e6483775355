"""What check-config says about free space at the destination, compared with the start that follows."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.end_to_end.world import World, backup_cli, snapshots_taken
from tests.fake_lightningd import History, Refused
from tests.small_disk import needs_small_disks, small_disk

pytestmark = needs_small_disks

KIB = 1 << 10

CAMPAIGN = os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN", "0") != "0"
"""With it, more of the values in between are tried."""


@pytest.fixture
def small(world: World) -> Iterator[World]:
    """A world whose backup is on a filesystem of 6 MiB."""
    with small_disk(world.backup.parent, 6 << 20):
        yield world


def leave_free(disk: Path, free: int) -> None:
    """Fill the disk up to that many bytes."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while (left := shutil.disk_usage(disk).free - free) >= 4096:
            os.posix_fallocate(file.fileno(), file.tell(), min(left, 64 * KIB))
            file.seek(0, os.SEEK_END)
    while shutil.disk_usage(disk).free < free:
        os.truncate(filler, filler.stat().st_size - 4096)


def predicted(world: World) -> str:
    """What check-config says about space for the next start; empty if it finds no problem."""
    lines = backup_cli("check-config", "--lightning-dir", world.directory).out.splitlines()
    return "".join(line for line in lines if line.startswith("problem") and "next start" in line)


def starts(world: World, history: History) -> bool:
    """Whether the next start with one change is accepted."""
    history.version = world.version
    try:
        with world.node() as node:
            node.db_write(history.note("one more"))
    except Refused as refused:
        assert "No space left" in refused.message or "free" in refused.message
        return False
    return True


@pytest.mark.parametrize("free", [0, 200, 1600] if not CAMPAIGN else [0, *range(4, 1000, 24), 1600])
def test_start_that_check_config_calls_fine_is_not_refused_for_lack_of_space(
    small: World, history: History, free: int
) -> None:
    world = small.init()
    world.run([history.first(), *history.notes(40)])
    with world.node() as node:
        for _ in range(12):
            node.db_write(history.note(os.urandom(20_000).hex()))
    leave_free(world.backup.parent, free * KIB)
    said = predicted(world)
    accepted = starts(world, history)
    assert accepted or said
    if free == 0:
        assert f"only 0 bytes are free in {world.backup}" in said
        assert not accepted
    if free >= 1600:
        assert not said
    (world.backup.parent / "filler").unlink()
    assert predicted(world) == ""
    assert starts(world, history)
    world.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("free", [100, 2500] if not CAMPAIGN else [0, 100, *range(200, 1300, 40), 2500])
def test_check_config_counts_the_space_of_the_snapshot_that_a_start_will_take(
    small: World, history: History, free: int
) -> None:
    world = small.init()
    world.run([history.first(), *history.notes(5)])
    world.run_without_plugin([history.note(os.urandom(150_000).hex()) for _ in range(2)])
    leave_free(world.backup.parent, free * KIB)
    said = predicted(world)
    accepted = starts(world, history)
    assert accepted or said
    if free <= 100:
        assert "with a new snapshot of the database" in said
        assert not accepted
    if free >= 2500:
        assert not said
    (world.backup.parent / "filler").unlink()
    assert starts(world, history)
    world.assert_restored_equals_the_nodes()


def test_check_config_counts_the_space_of_a_snapshot_after_a_kill(small: World, history: History) -> None:
    """The versions agree, and the content is in doubt: what the database held is not known."""
    world = small.init()
    world.run([history.first(), *history.notes(5), history.note(os.urandom(300_000).hex())])
    (world.directory / "backup.witness").unlink()
    leave_free(world.backup.parent, 300 * KIB)
    assert "with a new snapshot of the database" in predicted(world)
    (world.backup.parent / "filler").unlink()
    history.version = world.version
    with world.node() as node:
        node.db_write(history.note("after"))
    assert snapshots_taken(node)


def test_check_config_reports_a_node_disk_without_space_for_the_database_copy(world: World, history: History) -> None:
    world.init()
    disk = world.directory
    world.run([history.first(), *history.notes(5)])
    kept = {path.name: path.read_bytes() for path in disk.iterdir() if path.is_file()}
    with small_disk(disk, 4 << 20):
        for name, content in kept.items():
            (disk / name).write_bytes(content)
        world.run_without_plugin([history.note(os.urandom(400_000).hex())])
        leave_free(disk, 600 * KIB)
        lines = backup_cli("check-config", "--lightning-dir", disk).out
        assert f"free in {disk}, and the node's next start copies its database there" in lines
