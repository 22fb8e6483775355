"""A large file that is removed is cut piece by piece, and never while somebody still reads it."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from backends.mounts.table import Mount, mount_at
from backends.storage.local import LocalStorage
from backends.system import giving_back
from backends.system.giving_back import LARGE, STEP
from backends.system.scratch import scratch_directory

SIZE = LARGE + 12345


class Calls:
    """The calls to the kernel, in their order: `(size, None)` for a cut, `(None, size)` for a sync."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[int | None, int | None]] = []
        self._cut, self._sync = os.ftruncate, os.fsync
        monkeypatch.setattr(os, "ftruncate", self._ftruncate)
        monkeypatch.setattr(os, "fsync", self._fsync)
        monkeypatch.setattr(giving_back, "_REST", 0.0)
        self.kind(monkeypatch, "ext4")

    def kind(self, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        """Let every file appear to be on a filesystem of this kind."""

        def there(descriptor: int) -> Mount:
            return replace(mount_at(descriptor), kind=kind)

        monkeypatch.setattr(giving_back, "mount_at", there)

    def _ftruncate(self, descriptor: int, size: int) -> None:
        assert os.fstat(descriptor).st_nlink == 0, "a file that still has a name was cut"
        self.made.append((size, None))
        self._cut(descriptor, size)

    def _fsync(self, descriptor: int) -> None:
        self.made.append((None, os.fstat(descriptor).st_size))
        self._sync(descriptor)

    @property
    def cuts(self) -> list[int]:
        return [size for size, _ in self.made if size is not None]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path / "lightning.bkp")
    storage.make()
    return storage


def sparse(path: Path, size: int = SIZE) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def wait_until_given_back() -> None:
    """Wait until every removed file is gone."""
    for thread in threading.enumerate():
        if thread.name == "giving back":
            thread.join(30)
            assert not thread.is_alive()


def in_steps() -> list[int]:
    sizes = [SIZE]
    while sizes[-1]:
        sizes.append(max(sizes[-1] - STEP, 0))
    return sizes[1:]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_removed_large_file_of_backup_is_cut_and_synced_step_by_step(
    tmp_path: Path, storage: LocalStorage, calls: Calls
) -> None:
    path, before = sparse(tmp_path / "lightning.bkp" / "snapshot-00000001"), descriptors()
    calls.made.clear()
    storage.remove(path.name)
    assert not path.exists()
    wait_until_given_back()
    assert calls.made == [pair for size in in_steps() for pair in ((size, None), (None, size))]
    assert descriptors() == before


def test_removed_file_that_somebody_reads_stays_whole(tmp_path: Path, storage: LocalStorage, calls: Calls) -> None:
    """A restore that began before a compaction ended still reads the previous generation to its end."""
    path = sparse(tmp_path / "lightning.bkp" / "snapshot-00000001")
    with path.open("r+b") as file:
        file.seek(SIZE - 3)
        file.write(b"end")
    reader = storage.open(path.name)
    storage.remove(path.name)
    wait_until_given_back()
    assert not path.exists()
    assert calls.cuts == []
    assert reader.size() == SIZE
    assert reader.read(SIZE - 3, 10) == b"end"
    reader.close()


def test_removed_file_that_has_another_name_stays_whole(tmp_path: Path, storage: LocalStorage, calls: Calls) -> None:
    path = sparse(tmp_path / "lightning.bkp" / "snapshot-00000001")
    (tmp_path / "copy").hardlink_to(path)
    storage.remove(path.name)
    wait_until_given_back()
    assert calls.cuts == []
    assert (tmp_path / "copy").stat().st_size == SIZE


def test_file_whose_name_cannot_be_removed_loses_no_byte(
    tmp_path: Path, storage: LocalStorage, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = sparse(tmp_path / "lightning.bkp" / "snapshot-00000001"), descriptors()

    def unlink(name: str, *, dir_fd: int) -> None:
        raise PermissionError(1, "not allowed", name)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(PermissionError):
        storage.remove(path.name)
    wait_until_given_back()
    assert calls.cuts == []
    assert path.stat().st_size == SIZE
    assert descriptors() == before


def test_small_file_is_removed_without_being_cut(tmp_path: Path, storage: LocalStorage, calls: Calls) -> None:
    sparse(tmp_path / "lightning.bkp" / "segment-00000001", LARGE - 1)
    storage.remove("segment-00000001")
    wait_until_given_back()
    assert calls.cuts == []
    assert storage.names() == []


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs", "cifs", "xfs"])
def test_file_on_share_or_xfs_is_not_open_while_it_is_removed(
    tmp_path: Path, storage: LocalStorage, calls: Calls, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """NFS and FUSE would keep an open file under a hidden name, and its space with it."""
    path = sparse(tmp_path / "lightning.bkp" / "snapshot-00000001")
    calls.kind(monkeypatch, kind)
    before, unlink, during = descriptors(), os.unlink, []

    def counted(name: str, *, dir_fd: int) -> None:
        during.append(descriptors() - before - 1)  # without the directory's own
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", counted)
    storage.remove(path.name)
    wait_until_given_back()
    assert during == [0]
    assert calls.cuts == []
    assert not path.exists()


def test_removed_link_leaves_its_target_whole(tmp_path: Path, storage: LocalStorage, calls: Calls) -> None:
    other = sparse(tmp_path / "other")
    (tmp_path / "lightning.bkp" / "snapshot-00000001").symlink_to(other)
    storage.remove("snapshot-00000001")
    wait_until_given_back()
    assert calls.cuts == []
    assert other.stat().st_size == SIZE


def test_removed_scratch_copy_is_cut_step_by_step_and_not_synced(tmp_path: Path, calls: Calls) -> None:
    """A sync would write the rest of the copy to the disk, where it has never been."""
    with scratch_directory(tmp_path) as directory:
        sparse(directory / "compacted.sqlite3")
        calls.made.clear()
    assert calls.made == [(size, None) for size in in_steps()]
    assert list(tmp_path.iterdir()) == []
