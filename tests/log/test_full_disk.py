"""A full disk, and one that is dead for good: commits are refused, and nothing that was acknowledged is harmed."""

import errno
from pathlib import Path

import pytest

from backends.errors import BackupError, Unreachable, WriteFailed
from backends.log.backend import LogBackend
from tests.log.histories import Node, changes, noise, silent, source
from tests.log.model import contents
from tests.storage.faulty import FaultyStorage, Operation
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

pytestmark = pytest.mark.usefixtures("small", "impatient")

CHANGES: tuple[Operation, ...] = (
    "make", "unmake", "create", "rename", "remove", "sync_names",
    "write", "write_durably", "extend", "sync", "truncate",
)  # fmt: skip


@pytest.mark.parametrize("capacity", range(20_000, 60_000, 1_700))
def test_a_disk_that_becomes_full(capacity: int, tmp_path: Path) -> None:
    disk = SimulatedDisk(capacity)
    node = Node(SimulatedStorage(disk), tmp_path)
    node.create()
    node.open()
    with pytest.raises(WriteFailed, match="No space left") as caught:
        for seed in range(1000):
            node.note(noise(500 + seed % 7 * 300, seed))
            node.backend.upkeep()
    assert f"everything up to version {node.now.version} is safe" in str(caught.value)
    assert contents(LogBackend(node.storage)) == node.now.contents
    node.close()
    assert contents(LogBackend(node.storage)) == node.now.contents
    disk.capacity *= 3
    node.history.version = node.now.version
    node.open("with more room")
    node.note("goes on")
    node.close()
    assert contents(LogBackend(node.storage)) == node.now.contents


def test_a_start_on_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    disk = SimulatedDisk()
    node = Node(SimulatedStorage(disk), tmp_path)
    node.create()
    node.open()
    for seed in range(3):
        node.note(noise(1500, seed))
    disk.capacity = disk.capacity - node.storage.space().free
    with pytest.raises(Unreachable, match="No space left"):
        LogBackend(node.storage).open(silent, "another")
    assert contents(LogBackend(node.storage)) == node.now.contents
    disk.capacity = 1 << 20
    node.open("another")
    node.note()
    assert contents(LogBackend(node.storage)) == node.now.contents


def test_commits_go_on_without_room_ahead(tmp_path: Path) -> None:
    """Only the space ahead of use fails: each write then makes the file longer, and is as durable."""
    disk = SimulatedDisk()
    storage = FaultyStorage(SimulatedStorage(disk))
    node = Node(storage, tmp_path)
    node.create()
    told: list[str] = []
    node.backend = LogBackend(storage)
    node.backend.open(lambda level, line: told.append(line), "writer")
    storage.fail("extend", errno.ENOSPC, sticky=True)
    storage.fail("create", errno.ENOSPC, sticky=True)
    for seed in range(30):
        node.note(noise(1000, seed))
        node.backend.upkeep()
    assert len(told) == 1
    assert "so far every change is saved" in told[0]
    assert contents(LogBackend(SimulatedStorage(disk))) == node.now.contents
    storage.heal()
    node.backend.upkeep()
    node.note()
    assert node.backend._opened.segment_index == 2
    assert contents(LogBackend(SimulatedStorage(disk))) == node.now.contents


def test_a_disk_that_only_reads_any_more(tmp_path: Path) -> None:
    disk = SimulatedDisk()
    storage = FaultyStorage(SimulatedStorage(disk))
    node = Node(storage, tmp_path)
    node.create()
    node.open()
    for seed in range(5):
        node.note(noise(1500, seed))
        node.backend.upkeep()
    before = node.now
    for operation in CHANGES:
        storage.fail(operation, errno.EROFS, sticky=True)
    with pytest.raises(WriteFailed, match="Read-only"):
        node.note()
    node.backend.upkeep()
    node.close()
    with pytest.raises(Unreachable):
        node.open("another")
    with pytest.raises(BackupError):
        LogBackend(storage).create(source())
    with pytest.raises(BackupError):
        LogBackend(storage).remove()
    assert contents(LogBackend(storage)) == before.contents
    storage.heal()
    node.open("another")
    node.backend.append(changes(1, before.version)[0])
    assert len(contents(LogBackend(storage)).changes) == len(before.changes) + 1


def test_a_creation_that_cannot_even_be_undone_is_no_backup(tmp_path: Path) -> None:
    disk = SimulatedDisk()
    storage = FaultyStorage(SimulatedStorage(disk))
    storage.fail("rename_new", errno.EIO, nth=2)
    storage.fail("unmake", errno.EIO)
    with pytest.raises(BackupError):
        LogBackend(storage).create(source())
    assert storage.exists()
    with pytest.raises(BackupError, match="no manifest"):
        LogBackend(storage).read()
