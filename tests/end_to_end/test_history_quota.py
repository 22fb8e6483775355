"""A quota that no number of free bytes shows: what is kept for its history is given up for what counts, as on a full
disk."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends import backup_at
from tests.end_to_end.test_compaction import ended, wait
from tests.end_to_end.test_history_full_disk import kept
from tests.end_to_end.test_renewal import BEGUN, LARGE, TAKEN, doubt, said
from tests.end_to_end.world import World, backup_cli, said_at
from tests.fake_lightningd import History

MIB = 1 << 20

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mkfs.btrfs") is None, reason="needs root and btrfs, whose quotas hold for root"
)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A btrfs with quotas."""
    image, mount = tmp_path_factory.mktemp("btrfs") / "image", tmp_path_factory.mktemp("mount")
    with image.open("wb") as file:
        file.truncate(256 * MIB)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", image, mount], capture_output=True).returncode:
        pytest.skip("no btrfs can be mounted here")
    try:
        subprocess.run(["btrfs", "quota", "enable", mount], check=True, capture_output=True)
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", mount], check=False)


@pytest.fixture
def limited(world: World, history: History, disk: Path, tmp_path: Path) -> Iterator[World]:
    """A stopped node with a database of 4 MiB that does not compress, with two kept generations of that size, and with
    too little left of its quota for another one."""
    place = disk / tmp_path.name
    subprocess.run(["btrfs", "subvolume", "create", place], check=True, capture_output=True)
    world.backup = place / "lightning.bkp"
    blob = os.urandom(4 * MIB).hex()
    world.run_without_plugin(
        [history.first(), history.transaction(f"INSERT INTO vars (name, blobval) VALUES ('large', x'{blob}')")]
    )
    assert backup_cli("init", "--lightning-dir", world.directory, f"{world.url}?keep=30d,1G").code == 0
    for _ in range(2):
        assert backup_cli("resync", "--lightning-dir", world.directory).code == 0
    assert kept(world) == [1, 2]
    subprocess.run(["sync", "-f", place], check=True)
    used = sum(path.stat().st_blocks * 512 for path in world.backup.rglob("*"))
    subprocess.run(["btrfs", "qgroup", "limit", str(used + 3 * MIB), place], check=True)
    assert backup_at(world.url).space().free > 50 * MIB, "nothing shows it"
    yield world


GIVEN_UP = "generation 2, which was kept for its history"
"""The first one is also kept for a week, because it was replaced by a resync, and that stays."""


def assert_nothing_lost(world: World) -> None:
    assert 1 in kept(world) and 2 not in kept(world)
    assert backup_cli("verify", *world.key_options, world.url).code == 0
    world.assert_restored_equals_the_nodes()


def test_resync_gives_up_the_oldest_generation_instead_of_failing(limited: World) -> None:
    said = backup_cli("resync", "--lightning-dir", limited.directory)
    assert said.code == 0, said
    assert GIVEN_UP in said.err
    assert_nothing_lost(limited)


def test_start_that_needs_a_new_snapshot_gives_up_the_oldest_generation(limited: World, history: History) -> None:
    doubt(limited)
    with limited.node() as node:
        node.play(history.notes(3))
        assert said(node, GIVEN_UP) and said(node, TAKEN), node.logs
    assert_nothing_lost(limited)


def test_new_snapshot_beside_the_node_gives_up_the_oldest_generation(limited: World, history: History) -> None:
    doubt(limited)
    limited.environment |= LARGE
    with limited.node() as node:
        node.play([history.note()])
        assert said(node, BEGUN), node.logs
        wait(node, lambda: bool(said(node, TAKEN)))  # no commit meanwhile: here, it would meet the same quota
        assert said(node, GIVEN_UP), node.logs
    assert_nothing_lost(limited)


def test_compaction_beside_the_node_gives_up_the_oldest_generation(limited: World, history: History) -> None:
    with limited.node() as node:
        node.play(history.notes(20))
        node.rpc("backup-compact")
        wait(node, lambda: ended(node) == 1)
        assert said(node, GIVEN_UP), node.logs
        assert said_at(node, "broken") == []
        node.play(history.notes(3))
    assert_nothing_lost(limited)
