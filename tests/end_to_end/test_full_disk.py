"""A filesystem that really is full: the node stops, nothing acknowledged is lost, and the next start takes a new
snapshot."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.end_to_end.world import World, backup_cli
from tests.fake_lightningd import History, Refused

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mkfs.ext4") is None,
    reason="needs root and mkfs.ext4, to mount a small filesystem",
)


@pytest.fixture
def small_disk(world: World) -> Iterator[World]:
    """A world whose backup is on a filesystem of 4 MiB."""
    image, mount = world.root / "image", world.backup.parent
    with image.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        yield world
    finally:
        subprocess.run(["umount", "--lazy", mount], check=False)


def fill(mount: Path) -> Path:
    """Use up all the free space."""
    filler = mount / "filler"
    with filler.open("wb") as file, suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(4096))
    return filler


def test_full_disk_stops_the_node_and_the_next_start_begins_a_new_generation(
    small_disk: World, history: History
) -> None:
    world = small_disk
    world.init()
    world.run([history.first(), *history.notes(3)])
    with world.node() as node:
        for call in history.notes(5):
            node.db_write(call)
        filler = fill(world.backup.parent)
        with pytest.raises(Refused) as refused:
            for _ in range(200):
                node.db_write(history.note(os.urandom(20_000).hex()))
        committed = world.version
    assert "No space left on device" in str(refused.value)
    assert world.version == committed
    filler.unlink()
    world.assert_restored_equals_the_nodes()
    generation = world.status()["generation"]
    history.version = committed
    with world.node() as node:
        node.db_write(history.note("after"))
        assert node.wait_for_log("No space left on device")
    assert world.status()["generation"] == generation + 1
    world.assert_restored_equals_the_nodes()


def test_nearly_full_disk_is_reported_before_it_is_full(small_disk: World, history: History) -> None:
    world = small_disk
    world.init()
    with world.node() as node:
        node.db_write(history.first())
        assert node.wait_for_log("are free at the destination")
    assert "Make room" in backup_cli("status", world.url).text
