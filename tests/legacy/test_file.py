"""Which files are recognised as legacy backups, and what is said about those that cannot be read."""

import os
from pathlib import Path

import pytest

from backends.change import ahead
from backends.errors import BackupError, NotABackup, Unreachable
from backends.legacy import LegacyBackup, is_legacy_backup, legacy_backup_at, legacy_path, rebuild_legacy
from tests.fake_lightningd import History, recorded_database
from tests.legacy.conftest import Bench
from tests.legacy.written import Written, written


def test_legacy_backup_is_recognised_by_its_header(bench: Bench) -> None:
    assert is_legacy_backup(bench.file(Written()))
    assert is_legacy_backup(bench.file(written([History().first()])))


def test_other_files_are_not_taken_for_a_legacy_backup(tmp_path: Path) -> None:
    names = ["missing", "missing/below", "empty", "short", "text", "database", "directory", "fifo", "loop", "secret\0"]
    (tmp_path / "empty").touch()
    (tmp_path / "short").write_bytes(b"\0\0\0")
    (tmp_path / "text").write_text("not a backup at all\n" * 100)
    recorded_database(tmp_path / "database")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for name in names:
        assert not is_legacy_backup(tmp_path / name), name
    for name in names[:-1]:
        with pytest.raises((NotABackup, Unreachable), match="nothing was changed"):
            LegacyBackup(tmp_path / name)


def test_link_to_legacy_backup_is_recognised(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bench.file(Written()))
    assert is_legacy_backup(tmp_path / "link")


def test_legacy_path_accepts_paths_and_file_urls_only() -> None:
    assert legacy_path("/mnt/old.bkp") == Path("/mnt/old.bkp")
    assert legacy_path("old.bkp") == Path("old.bkp")
    assert legacy_path("~/old.bkp") == Path.home() / "old.bkp"
    assert legacy_path("file:///mnt/with%20blank.bkp") == Path("/mnt/with blank.bkp")
    with pytest.raises(BackupError, match="server of the older plugin"):
        legacy_path("socket:127.0.0.1:8700")
    with pytest.raises(BackupError, match="https"):
        legacy_path("https://example.org/old.bkp")


def test_url_of_legacy_backup_is_recognised(bench: Bench, tmp_path: Path) -> None:
    path = bench.file(Written())
    assert legacy_backup_at(path.as_uri()) == path
    assert legacy_backup_at(tmp_path.as_uri()) is None
    assert legacy_backup_at((tmp_path / "missing").as_uri()) is None
    assert legacy_backup_at(f"nfs://server{path}") is None


def test_distance_of_data_versions_wraps() -> None:
    assert (ahead(5, 3), ahead(3, 5), ahead(0, (1 << 32) - 1), ahead((1 << 32) - 1, 1)) == (2, -2, 1, -2)


def test_progress_of_legacy_restore_reaches_the_size_of_the_file(bench: Bench) -> None:
    life = History()
    path = bench.file(written([life.first(), *life.notes(1000)]))
    seen: list[tuple[int, int]] = []
    with LegacyBackup(path) as backup:
        rebuild_legacy(backup, bench.path("restored.sqlite3"), lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {path.stat().st_size}
    assert seen[-1][0] == seen[-1][1]
    assert len(seen) > 5
