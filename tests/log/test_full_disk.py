"""A full disk, and one that has failed for good: commits are refused, and nothing that was acknowledged is harmed."""

import errno
from pathlib import Path

import pytest

from backends.errors import BackupError, Unreachable, WriteFailed
from backends.log.writer.options import LogOptions
from tests.log.histories import Node, backup_in, changes, noise, silent, source
from tests.log.model import contents
from tests.storage.faulty import FaultyStorage, Operation
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

pytestmark = pytest.mark.usefixtures("readers_do_not_wait")

CHANGES: tuple[Operation, ...] = (
    "make", "unmake", "create", "rename", "remove", "sync_names",
    "write", "write_durably", "extend", "sync", "truncate",
)  # fmt: skip


@pytest.mark.parametrize("capacity", range(20_000, 60_000, 1_700))
def test_disk_that_becomes_full_refuses_commit_and_keeps_acknowledged_ones(
    capacity: int, tmp_path: Path, small: LogOptions
) -> None:
    disk = SimulatedDisk(capacity)
    node = Node(SimulatedStorage(disk), tmp_path, options=small)
    node.create()
    node.open()
    with pytest.raises(WriteFailed, match="No space left") as caught:
        for seed in range(1000):
            node.note(noise(500 + seed % 7 * 300, seed))
            node.writer.maintain()
    assert f"everything up to version {node.now.version} is safe" in str(caught.value)
    assert contents(node.backup()) == node.now.contents
    node.close()
    assert contents(node.backup()) == node.now.contents
    disk.capacity *= 3
    node.history.version = node.now.version
    node.open("with more room")
    node.note("goes on")
    node.close()
    assert contents(node.backup()) == node.now.contents


def test_start_on_full_disk_fails_and_loses_nothing(tmp_path: Path, small: LogOptions) -> None:
    disk = SimulatedDisk()
    node = Node(SimulatedStorage(disk), tmp_path, options=small)
    node.create()
    node.open()
    for seed in range(3):
        node.note(noise(1500, seed))
    disk.capacity = disk.capacity - node.storage.space().free
    with pytest.raises(Unreachable, match="No space left"):
        node.backup().open(silent, "another")
    assert contents(node.backup()) == node.now.contents
    disk.capacity = 1 << 20
    node.open("another")
    node.note()
    assert contents(node.backup()) == node.now.contents


def test_commits_continue_when_preallocation_fails(tmp_path: Path, small: LogOptions) -> None:
    """Only preallocation fails: each write then lengthens the file, and is just as durable."""
    disk = SimulatedDisk()
    storage = FaultyStorage(SimulatedStorage(disk))
    node = Node(storage, tmp_path, options=small)
    node.create()
    told: list[str] = []
    node.open("writer", lambda level, line: told.append(line))
    storage.fail("extend", errno.ENOSPC, sticky=True)
    storage.fail("create", errno.ENOSPC, sticky=True)
    for seed in range(30):
        node.note(noise(1000, seed))
        node.writer.maintain()
    assert len(told) == 1
    assert "every change until now is saved" in told[0]
    assert contents(backup_in(SimulatedStorage(disk))) == node.now.contents
    storage.heal()
    node.writer.maintain()
    node.note()
    assert node.writer.segment_index == 2
    assert contents(backup_in(SimulatedStorage(disk))) == node.now.contents


def test_disk_that_became_read_only_keeps_everything_acknowledged(tmp_path: Path, small: LogOptions) -> None:
    disk = SimulatedDisk()
    storage = FaultyStorage(SimulatedStorage(disk))
    node = Node(storage, tmp_path, options=small)
    node.create()
    node.open()
    for seed in range(5):
        node.note(noise(1500, seed))
        node.writer.maintain()
    before = node.now
    for operation in CHANGES:
        storage.fail(operation, errno.EROFS, sticky=True)
    with pytest.raises(WriteFailed, match="Read-only"):
        node.note()
    node.writer.maintain()
    node.close()
    with pytest.raises(Unreachable):
        node.open("another")
    with pytest.raises(BackupError):
        node.backup().create(source())
    with pytest.raises(BackupError):
        node.backup().remove()
    assert contents(node.backup()) == before.contents
    storage.heal()
    node.open("another")
    node.writer.append(changes(1, before.version)[0])
    assert len(contents(node.backup()).changes) == len(before.changes) + 1


def test_failed_create_that_cannot_be_undone_is_no_backup(tmp_path: Path, small: LogOptions) -> None:
    disk = SimulatedDisk()
    storage = FaultyStorage(SimulatedStorage(disk))
    storage.fail("rename_new", errno.EIO, nth=2)
    storage.fail("unmake", errno.EIO)
    with pytest.raises(BackupError):
        backup_in(storage, small).create(source())
    assert storage.exists()
    with pytest.raises(BackupError, match="no manifest"):
        backup_in(storage, small).read()
