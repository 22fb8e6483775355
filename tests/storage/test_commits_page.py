"""The page that shows another process when this one commits, and bytes that are brought to the disk without a sync."""

import os
from pathlib import Path

import pytest

from backends.mounts.table import mount_at
from backends.storage.local import LocalStorage
from backends.system import write_out
from backends.system.commits import Commits, read_shared


def test_shared_page_shows_commits_before_and_after_it_was_shared() -> None:
    commits = Commits()
    commits.begin()
    commits.end(100)
    shared = commits.share()
    assert shared is not None
    seen = read_shared(shared)
    assert seen is not None
    commits.begin()
    assert (seen.begun, seen.ended, seen.under_way, seen.written) == (2, 1, True, 100)
    commits.end(150)
    assert (seen.ended, seen.under_way, seen.written) == (2, False, 150)
    assert len(seen.since(0)) == 2
    assert commits.share() == shared
    os.close(shared)


def test_whoever_gets_the_page_can_neither_change_nor_shrink_it() -> None:
    """A compaction reads what a stranger may have written. If it shrank the page, the next commit would be a SIGBUS."""
    shared = Commits().share()
    assert shared is not None
    for attempt in (lambda: os.ftruncate(shared, 0), lambda: os.pwrite(shared, b"x", 0)):
        with pytest.raises(OSError):
            attempt()
    writable = os.open(f"/proc/self/fd/{shared}", os.O_RDWR)  # as the same user may
    with pytest.raises(OSError):
        os.ftruncate(writable, 0)
    os.close(writable)
    os.close(shared)


def test_page_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    empty = os.open(tmp_path / "empty", os.O_RDONLY | os.O_CREAT)
    assert read_shared(empty) is None
    os.close(empty)
    assert read_shared(empty) is None


def test_local_file_is_written_out_in_portions(tmp_path: Path) -> None:
    handle = LocalStorage(tmp_path).create("snapshot")
    handle.write(0, b"x" * 10_000)
    assert handle.write_out(0, 4096)
    assert handle.write_out(4096, 5904)
    handle.close()
    with pytest.raises(OSError):
        handle.write_out(0, 10)


def test_fuse_file_says_that_only_a_sync_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setattr(write_out, "mount_at", lambda descriptor: replace(mount_at(descriptor), kind="fuse.exfat"))
    handle = LocalStorage(tmp_path).create("snapshot")
    handle.write(0, b"x" * 10_000)
    assert not handle.write_out(0, 10_000)
    handle.close()


def test_kernel_that_forbids_writing_out_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox may. What is tried here on a pipe, the kernel refuses in the same way."""
    reading, writing = os.pipe()
    assert not write_out.write_out(writing, 0, 10)
    os.close(reading)
    os.close(writing)
