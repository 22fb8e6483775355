"""A snapshot is read back while it is written: closely behind what is durable, every byte, and errors as they are."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from backends.errors import BackupError
from backends.log.format.documents import Base
from backends.log.format.records import FileHeader, FileKind
from backends.log.reader.snapshot import PIECE, SnapshotReader, open_parts
from backends.log.writer.options import LogOptions
from backends.log.writer.snapshot import write_snapshot
from backends.storage.base import ReadHandle, WriteHandle
from backends.storage.local import LocalStorage
from backends.storage.local_files import LocalReadHandle, LocalWriteHandle
from tests.in_memory import PAGE, forget, in_memory

FILE, BASE = FileHeader(FileKind.SNAPSHOT, bytes(16), 1), Base(0, 7, 0, True)
PIECES = [os.urandom(PIECE) for _ in range(40)]
OPTIONS = LogOptions(sync_every=4 * PIECE)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    made = LocalStorage(tmp_path / "b")
    made.make()
    return made


def test_reading_back_stays_behind_the_last_sync_and_close_to_it(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = synced = 0
    lags: list[int] = []
    write, sync, read = LocalWriteHandle.write, LocalWriteHandle.sync, LocalReadHandle.read

    def noting_write(self: LocalWriteHandle, offset: int, data: bytes) -> None:
        nonlocal written
        write(self, offset, data)
        written = offset + len(data)

    def noting_sync(self: LocalWriteHandle) -> None:
        nonlocal synced
        sync(self)
        synced = written

    def noting_read(self: LocalReadHandle, offset: int, length: int) -> bytes:
        data = read(self, offset, length)
        assert offset + len(data) <= synced
        lags.append(written - offset)
        return data

    monkeypatch.setattr(LocalWriteHandle, "write", noting_write)
    monkeypatch.setattr(LocalWriteHandle, "sync", noting_sync)
    monkeypatch.setattr(LocalReadHandle, "read", noting_read)
    write_snapshot(storage, FILE, BASE, PIECES, OPTIONS)
    assert len(lags) > len(PIECES)
    assert max(lags) <= 2 * OPTIONS.sync_every < written


def test_source_that_fails_is_named_and_leaves_no_thread(storage: LocalStorage) -> None:
    def failing() -> Iterator[bytes]:
        yield from PIECES[:30]
        raise BackupError("the database is corrupt")

    with pytest.raises(BackupError, match="the database is corrupt"):
        write_snapshot(storage, FILE, BASE, failing(), OPTIONS)
    assert not [thread for thread in threading.enumerate() if thread.name in ("ahead", "overlapped")]


@pytest.mark.parametrize("piece", [0, 20, 39])
def test_byte_that_reaches_the_disk_wrongly_is_damage(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    write = LocalWriteHandle.write
    pieces = iter(range(-1, len(PIECES) + 1))  # before them, the file's header; after them, the end

    def lying(self: LocalWriteHandle, offset: int, data: bytes) -> None:
        lies = next(pieces) == piece
        write(self, offset, data[:-1] + bytes([data[-1] ^ 1]) if lies else data)

    monkeypatch.setattr(LocalWriteHandle, "write", lying)
    with pytest.raises(BackupError) as caught:
        write_snapshot(storage, FILE, BASE, PIECES, OPTIONS)
    assert caught.value.exit_code == 3


def test_file_that_is_cut_off_meanwhile_is_damage(storage: LocalStorage, tmp_path: Path) -> None:
    def cutting() -> Iterator[bytes]:
        yield from PIECES[:30]
        (file,) = (tmp_path / "b").iterdir()
        os.truncate(file, PIECE)
        yield from PIECES[30:]

    with pytest.raises(BackupError) as caught:
        write_snapshot(storage, FILE, BASE, cutting(), OPTIONS)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("fits", [True, False])
def test_what_was_read_back_stays_in_memory_only_beside_a_database_that_fits(
    storage: LocalStorage, tmp_path: Path, fits: bool
) -> None:
    written = tmp_path / "b" / write_snapshot(storage, FILE, BASE, PIECES, OPTIONS, size=1 if fits else 1 << 60)
    found = in_memory(written)
    begin = found[: len(found) - (2 << 20) // PAGE]
    forget(written)
    if any(in_memory(written)):
        pytest.skip("this filesystem keeps all in memory")
    assert all(begin) if fits else sum(begin) < len(begin) // 10


class _Closed(LocalStorage):
    """A place where a file cannot be read before it is written."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.open_for_writing = 0

    @property
    def reads_while_written(self) -> bool:
        return False

    def create(self, name: str) -> WriteHandle:
        handle = super().create(name)
        close, self.open_for_writing = handle.close, self.open_for_writing + 1

        def closed() -> None:
            close()
            self.open_for_writing -= 1

        handle.close = closed  # type: ignore[method-assign]
        return handle

    def open(self, name: str) -> ReadHandle:
        assert not self.open_for_writing
        return super().open(name)


def test_elsewhere_it_is_read_when_it_is_written(storage: LocalStorage, tmp_path: Path) -> None:
    write_snapshot(_Closed(tmp_path / "b"), FILE, BASE, PIECES, OPTIONS)


@pytest.mark.parametrize("forgets", [True, False])
def test_what_is_read_for_a_database_that_does_not_fit_does_not_stay_in_memory(
    storage: LocalStorage, tmp_path: Path, forgets: bool
) -> None:
    written = write_snapshot(storage, FILE, BASE, PIECES, OPTIONS)
    forget(tmp_path / "b" / written)
    if any(in_memory(tmp_path / "b" / written)):
        pytest.skip("this filesystem keeps all in memory")
    with ExitStack() as files:
        reader = SnapshotReader(open_parts(storage, written, files, storage.names()), FILE, BASE)
        assert [piece for piece, _ in reader.pieces(forgets=forgets)] == PIECES
    found = in_memory(tmp_path / "b" / written)[: -(2 << 20) // PAGE]
    assert sum(found) < len(found) // 10 if forgets else all(found)
