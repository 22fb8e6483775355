"""A snapshot that does not fit into one file continues in further ones."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from backends import place_at
from backends.base import SnapshotSource
from backends.compaction.compact import compact_log
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.log.format.codec import LEVEL_LARGE_SNAPSHOT, LEVEL_SNAPSHOT, Compressor
from backends.log.format.documents import Base
from backends.log.format.records import FileHeader, FileKind
from backends.log.reader.snapshot import PIECE
from backends.log.writer import snapshot
from backends.log.writer.options import LogOptions
from backends.log.writer.snapshot import write_snapshot
from backends.storage.base import WriteHandle
from backends.storage.local import LocalStorage
from tests.log.histories import Node, changes, database, noise, rows, silent
from tests.log.model import contents
from tests.storage.faulty import FaultyStorage
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

PIECES = [os.urandom(PIECE) for _ in range(5)]


SMALL_FILES = LogOptions(max_file=2 * PIECE + 4096)


def backup_in(place: Path) -> Backup:
    """The backup in this directory, with files of at most two pieces each."""
    return Backup(place_at(place.as_uri()), SMALL_FILES)


def made(directory: Path) -> Path:
    backup_in(directory / "b").create(SnapshotSource(PIECES, 7, None))
    return directory / "b"


def read(place: Path) -> bytes:
    with backup_in(place).read() as generation:
        return b"".join(generation.snapshot)


def test_parts_of_snapshot_are_read_in_order(tmp_path: Path) -> None:
    place = made(tmp_path)
    assert {file.name for file in place.iterdir()} >= {
        "snapshot-00000001",
        "snapshot-00000001.1",
        "snapshot-00000001.2",
    }
    assert all(file.stat().st_size <= 2 * PIECE + 4096 for file in place.iterdir())
    assert read(place) == b"".join(PIECES)


@pytest.mark.parametrize("part", ["", ".1", ".2"])
def test_missing_part_of_snapshot_is_damage(tmp_path: Path, part: str) -> None:
    place = made(tmp_path)
    (place / f"snapshot-00000001{part}").unlink()
    with pytest.raises(BackupError) as refused:
        read(place)
    assert refused.value.exit_code == 3


def test_swapped_parts_of_snapshot_are_damage(tmp_path: Path) -> None:
    place = made(tmp_path)
    first, second = place / "snapshot-00000001.1", place / "snapshot-00000001"
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    with pytest.raises(BackupError) as refused:
        read(place)
    assert refused.value.exit_code == 3


def test_parts_of_snapshot_are_kept_and_removed_together(tmp_path: Path) -> None:
    place = made(tmp_path)
    backup = backup_in(place)
    writer = backup.open(silent, "one")
    parts = sorted(file.name for file in place.glob("snapshot-*"))
    assert len(parts) > 2
    writer.take_snapshot(SnapshotSource([b"small"], 9, None), "resync")
    assert sorted(file.name for file in place.glob("snapshot-*")) == [*parts, "snapshot-00000002"]
    writer.take_snapshot(SnapshotSource([b"small"], 9, None), "resync")
    (place / "kept").unlink()
    writer.close()
    backup.open(silent, "two").close()
    assert [file.name for file in place.iterdir() if file.name.startswith("snapshot")] == ["snapshot-00000003"]
    assert read(place) == b"small"


def test_snapshot_is_synced_while_it_is_written() -> None:
    """A single sync at the end would hold up the node's next commit: on a slow stick for minutes."""
    storage = FaultyStorage(SimulatedStorage(SimulatedDisk()))
    storage.make()
    options = LogOptions(max_file=1 << 30, sync_every=2 * PIECE)
    write_snapshot(storage, FileHeader(FileKind.SNAPSHOT, bytes(16), 1), Base(0, 7, 0, True), PIECES, options)
    assert storage.calls["sync"] == 3


class _LyingWriter(WriteHandle):
    """Changes a bit of what it is given, and reports success."""

    def __init__(self, handle: WriteHandle) -> None:
        self._handle = handle

    def write(self, offset: int, data: bytes) -> None:
        self._handle.write(offset, data[:-1] + bytes([data[-1] ^ 1]) if len(data) > PIECE else data)

    def write_durably(self, offset: int, data: bytes) -> None:
        self._handle.write_durably(offset, data)

    def extend(self, offset: int, length: int) -> None:
        self._handle.extend(offset, length)

    def sync(self) -> None:
        self._handle.sync()

    def truncate(self, size: int) -> None:
        self._handle.truncate(size)

    def close(self) -> None:
        self._handle.close()


def test_snapshot_that_disk_stores_wrongly_leaves_old_generation_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new snapshot is read back before the old generation is removed: here the old one stays, whole."""
    place = made(tmp_path)
    writer = backup_in(place).open(silent, "writer")
    create = LocalStorage.create
    monkeypatch.setattr(LocalStorage, "create", lambda storage, name: _LyingWriter(create(storage, name)))
    with pytest.raises(BackupError):
        writer.take_snapshot(SnapshotSource([os.urandom(PIECE)], 8, None), "test")
    monkeypatch.undo()
    assert read(place) == b"".join(PIECES)
    with pytest.raises(BackupError):
        writer.append(changes(1, 7)[0])


def test_compaction_in_several_parts_keeps_all_of_them_while_backup_is_opened(tmp_path: Path) -> None:
    options = LogOptions(max_file=3000)
    node = Node(SimulatedStorage(SimulatedDisk()), tmp_path, options=options)
    node.create()
    node.open()
    node.append(node.history.first())
    for number in range(20):
        node.note(noise(1500, number))
    node.close()
    compacted = compact_log(node.storage, tmp_path, leave_out=1, options=options)
    assert compacted is not None
    parts = [name for name in node.storage.names() if name.endswith(".tmp")]
    assert len(parts) > 2
    with closing(node.backup().open(silent, compacted=compacted)) as writer:
        assert set(parts) <= set(node.storage.names())
        writer.publish_compaction(compacted)
    assert rows(contents(node.backup()).snapshot) == rows(database(node.now.committed[:-1]))


def test_large_database_is_compacted_with_the_level_of_large_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[int] = []

    class Noting(Compressor):
        def __init__(self, level: int) -> None:
            levels.append(level)
            super().__init__(level)

    monkeypatch.setattr(snapshot, "Compressor", Noting)
    node = Node(LocalStorage(tmp_path / "b"), tmp_path)
    node.create()
    node.open()
    node.append(node.history.first())
    for number in range(20):
        node.note(noise(100, number))
    node.close()
    for least in (1 << 30, 0):
        monkeypatch.setattr(snapshot, "LARGE_SNAPSHOT", least)
        assert compact_log(node.storage, tmp_path) is not None
    assert levels[-2:] == [LEVEL_SNAPSHOT, LEVEL_LARGE_SNAPSHOT]
