"""`backup.lock`, and every way in which it can be wrong."""

import json
import os
from pathlib import Path

import pytest

from backends.errors import BackupError, FromTheFuture
from backends.node.lockfile import LOCK_FILE, Settings, read_settings, write_settings

SETTINGS = Settings("file:///backups/lightning.bkp", "0123456789abcdef")


@pytest.mark.parametrize("settings", [SETTINGS, Settings("usb://STICK/lightning.bkp", None)])
def test_backup_lock_is_read_back_as_written(tmp_path: Path, settings: Settings) -> None:
    write_settings(tmp_path, settings)
    assert read_settings(tmp_path) == settings


def test_backup_lock_is_private_json_with_nothing_beside_it(tmp_path: Path) -> None:
    write_settings(tmp_path, SETTINGS)
    path = tmp_path / "backup.lock"
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text()) == {"backend_url": SETTINGS.url, "backup_id": SETTINGS.backup_id, "version": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_rewrite_of_backup_lock_replaces_file_and_leftover_of_a_crash(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("keep me")
    (tmp_path / "backup.lock.tmp").symlink_to(elsewhere)
    (tmp_path / LOCK_FILE).write_text("old")
    (tmp_path / LOCK_FILE).chmod(0o644)
    write_settings(tmp_path, SETTINGS)
    assert read_settings(tmp_path) == SETTINGS
    assert (tmp_path / LOCK_FILE).stat().st_mode & 0o777 == 0o600
    assert elsewhere.read_text() == "keep me"


def test_backup_lock_is_synced_before_its_rename_and_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, replace = os.fsync, os.replace

    def watched_sync(descriptor: int) -> None:
        steps.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        sync(descriptor)

    def watched_replace(old: str, new: str, **directories: int) -> None:
        steps.append("rename")
        replace(old, new, **directories)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_settings(tmp_path, SETTINGS)
    assert steps == ["sync backup.lock.tmp", "rename", f"sync {tmp_path.name}"]


def test_failed_write_leaves_old_backup_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_settings(tmp_path, SETTINGS)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackupError, match="could not be written \\(No space left on device\\)"):
        write_settings(tmp_path, Settings("file:///other", None))
    assert read_settings(tmp_path) == SETTINGS
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


def test_backup_lock_in_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="could not be written"):
        write_settings(tmp_path / "missing", SETTINGS)


def test_backup_lock_of_the_older_plugin_is_read(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text('{"backend_url": "file:///mnt/backup/file.bkp"}')
    assert read_settings(tmp_path) == Settings("file:///mnt/backup/file.bkp", None)


def test_missing_backup_lock_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="stop the node and run: backup-cli init"):
        read_settings(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"file:///mnt/backup",
        b"\xff\xfe\x00",
        b"[" * 60000,
        b"x" * 70000,
        b"null",
        b'["file:///mnt"]',
        b"{}",
        b'{"backend_url": null}',
        b'{"backend_url": ""}',
        b'{"backend_url": 7}',
        b'{"backend_url": "file:///b", "backup_id": 7}',
        b'{"backend_url": "file:///b", "backup_id": ""}',
        b'{"backend_url": "file:///b", "version": "1"}',
        b'{"backend_url": "file:///b", "version": true}',
        b'{"backend_url": "file:///b", "version": 0}',
    ],
)
def test_backup_lock_with_senseless_content_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_FILE).write_bytes(content)
    with pytest.raises(BackupError, match=r"does not say where this node's backup is: .*untouched.*backup-cli init"):
        read_settings(tmp_path)


def test_backup_lock_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(BackupError, match="Is a directory"):
        read_settings(tmp_path)


def test_unreadable_backup_lock_is_refused_and_says_whose_it_must_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path, flags: int) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("backends.node.files.os.open", denied)  # a test that runs as root may read everything
    with pytest.raises(BackupError, match=r"cannot be read \(Permission denied\).*must give it to that one"):
        read_settings(tmp_path)


def test_backup_lock_of_later_release_is_refused(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text('{"backend_url": {"several": []}, "version": 3}')
    with pytest.raises(FromTheFuture, match="later release"):
        read_settings(tmp_path)
