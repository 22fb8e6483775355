"""No file is renamed over one that the process has open.

FUSE filesystems (sshfs, ntfs-3g, bindfs) and the kernel's NFS client turn that into two renames: the open file first
gets a hidden name, and a connection that drops in between loses the name. Over sshfs, two starts out of two ended so.
"""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from backends.compaction.compact import compact_log
from backends.log.writer.options import LogOptions
from backends.log.writer.writer import Writer
from backends.storage.local import LocalStorage
from tests.destinations.places import Places
from tests.destinations.second_writer import Open, opener
from tests.log.conftest import DATABASE, no_lock, small
from tests.log.histories import changes, noise, silent, source
from tests.log.model import versions

__all__ = ["no_lock", "small"]

KINDS = ("file", "sshfs", "exfat")


class Watch:
    """Records each rename, and each whose target was open at that moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.renamed: list[str] = []
        self.over_an_open_one: list[str] = []
        for method in ("rename", "rename_new", "rename_unless_there"):
            self._watch(method, monkeypatch)

    def _watch(self, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
        rename = getattr(LocalStorage, method)

        def watched(storage: LocalStorage, old: str, new: str) -> None:
            self.renamed.append(new)
            if str(storage._path / new) in _open_files():
                self.over_an_open_one.append(new)
            rename(storage, old, new)

        monkeypatch.setattr(LocalStorage, method, watched)


def _open_files() -> set[str]:
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add(str(link.readlink()))
    return found


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, small: LogOptions) -> Open:
    """A place where no backup has been created yet."""
    if request.param == "file":
        return opener((tmp_path / "lightning.bkp").as_uri(), small)
    places: Places = request.getfixturevalue("places")
    return opener(places.url(request.param), small)


def kill(writer: Writer) -> None:
    """End the writer as SIGKILL would: every descriptor is closed, nothing is tidied up."""
    segments = writer._segments
    for segment in (*segments._retired, segments.current, segments._next):
        if segment is not None:
            segment.handle.close()


def test_no_rename_replaces_an_open_file_in_a_whole_life(place: Open, watch: Watch) -> None:
    """A whole life: starts after a stop and after a kill, full segments, a new generation, a note of trouble."""
    place().create(source(DATABASE, 1))
    version = 1
    for number in range(3):
        writer = place().open(silent, f"session {number}")
        for _ in range(12):
            (change,) = changes(1, version, 1500)
            writer.append(change)
            version = change.data_version
            writer.maintain()
        if number == 1:
            writer.take_snapshot(source(noise(5000).encode(), version), "test")
        elif number == 2:
            writer.note_trouble("something to be noted")
            writer.maintain()
        if number == 0:
            kill(writer)
        else:
            writer.close()
    assert {"segment-00000001", "session", "manifest", "snapshot-00000002"} <= set(watch.renamed)
    assert watch.over_an_open_one == []
    assert versions(place())[-1] == version


def test_no_rename_replaces_an_open_file_in_a_compaction(watch: Watch, place: Open, tmp_path: Path) -> None:
    place().create(source(DATABASE, 1))
    writer = place().open(silent, "session")
    for change in changes(10, 1):
        writer.append(change)
    compacted = compact_log(writer.storage, tmp_path, leave_out=1)
    assert compacted is not None
    writer.publish_compaction(compacted)
    writer.close()
    assert "manifest" in watch.renamed
    assert watch.over_an_open_one == []


def test_harness_sees_a_rename_over_an_open_file(watch: Watch, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for name in ("old", "new"):
        storage.create(name).close()
    descriptor = os.open(tmp_path / "new", os.O_RDONLY)
    storage.rename("old", "new")
    os.close(descriptor)
    assert watch.over_an_open_one == ["new"]
