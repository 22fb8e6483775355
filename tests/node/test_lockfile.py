"""`backup.lock`, and every way in which it can be wrong."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from backends.errors import BackupError, FromTheFuture
from backends.log.format.members import MAX_MEMBERS, Member
from backends.node.lockfile import DEFAULT_GRACE, LOCK_FILE, MAX_GRACE, Settings, read_settings, write_settings

SETTINGS = Settings("file:///backups/lightning.bkp", "0123456789abcdef")

STICK = Member("stick", "usb://STICK/lightning.bkp")
NAS = Member("nas", "nfs:///mnt/nas/lightning.bkp")
FAR = Member("far", "file:///mnt/far/lightning.bkp", trailing=True)
SEVERAL = Settings(STICK.url, "0123456789abcdef", (STICK, NAS, FAR), 2, 7.5)


@pytest.mark.parametrize("settings", [SETTINGS, Settings("usb://STICK/lightning.bkp", None), SEVERAL])
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


def test_backup_lock_of_one_destination_is_what_the_first_release_wrote_byte_for_byte(tmp_path: Path) -> None:
    write_settings(tmp_path, SETTINGS)
    assert (tmp_path / LOCK_FILE).read_bytes() == (
        b'{\n  "backend_url": "file:///backups/lightning.bkp",\n  "backup_id": "0123456789abcdef",\n  "version": 1\n}\n'
    )


def test_backup_lock_of_several_members_has_a_version_that_the_first_release_refuses(tmp_path: Path) -> None:
    """The first release would write to the first member only, and the others would fall behind."""
    write_settings(tmp_path, SEVERAL)
    document = json.loads((tmp_path / LOCK_FILE).read_text())
    assert document["version"] == 2
    assert document["backend_url"] == STICK.url


def test_settings_name_all_urls_of_the_backup() -> None:
    assert SETTINGS.urls == (SETTINGS.url,)
    assert SEVERAL.urls == (STICK.url, NAS.url, FAR.url)


def test_backup_lock_of_one_destination_has_no_members_whatever_else_it_says(tmp_path: Path) -> None:
    document = {"backend_url": STICK.url, "backup_id": "x", "version": 1, "members": 7, "need": 9, "grace": -1}
    (tmp_path / LOCK_FILE).write_text(json.dumps(document))
    assert read_settings(tmp_path) == Settings(STICK.url, "x", (), 1, DEFAULT_GRACE)


def several(directory: Path, **changed: Any) -> None:
    """Write the backup.lock of three members with other fields; `...` leaves a field out."""
    write_settings(directory, SEVERAL)
    path = directory / LOCK_FILE
    fields = {**json.loads(path.read_text()), **changed}
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not ...}))


def test_grace_in_whole_seconds_and_fields_of_later_release_are_read(tmp_path: Path) -> None:
    several(tmp_path, grace=7, later={"more": 1})
    assert read_settings(tmp_path) == Settings(STICK.url, SEVERAL.backup_id, SEVERAL.members, 2, 7.0)


def test_as_many_members_as_there_may_be_are_read(tmp_path: Path) -> None:
    members = tuple(Member(str(number), f"file:///mnt/{number}") for number in range(MAX_MEMBERS))
    settings = Settings(members[0].url, "x", members, MAX_MEMBERS, MAX_GRACE)
    write_settings(tmp_path, settings)
    assert read_settings(tmp_path) == settings


ONE = {"name": "stick", "url": STICK.url, "trailing": False}
TWO = [ONE, {"name": "nas", "url": NAS.url, "trailing": False}]


MALFORMED: list[tuple[str, list[Any], str]] = [
    ("members", [..., None, 7, "x", {}, []], '"members" is not a list of destinations'),
    ("members", [[{**ONE, "name": str(number)} for number in range(MAX_MEMBERS + 1)]], '"members" is not a list'),
    ("members", [[None], [7], ["x"], [[]], [{}], [{**ONE, "name": 7}]], "an impossible value of name"),
    ("members", [[{**ONE, "url": 7}], [{**ONE, "url": None}], [{"name": "x"}]], "an impossible value of url"),
    ("members", [[{**ONE, "url": "x" * 2001}]], "an impossible value of url"),
    ("members", [[TWO[1], {**ONE, key: ""}] for key in ("name", "url")], "no name or no URL"),
    ("members", [[ONE, ONE]], "two members have one name"),
    ("members", [[{**each, "trailing": True} for each in TWO]], '"need" is not a number of members that are waited'),
    ("backup_id", [..., None], "the backup has none"),
    ("backup_id", [7, ""], '"backup_id" is not the id'),
    ("need", [..., None, "1", True, 1.0, 0, -1, 3, float("nan")], '"need" is not'),
    ("grace", [..., None, "5", True, 0, -1, MAX_GRACE + 1, 10**400], '"grace" is not'),
    ("grace", [float("nan"), float("inf"), float("-inf")], '"grace" is not'),
]


@pytest.mark.parametrize(
    ("field", "value", "what"), [(field, value, what) for field, values, what in MALFORMED for value in values]
)
def test_backup_lock_of_several_members_with_malformed_field_is_refused(
    tmp_path: Path, field: str, value: Any, what: str
) -> None:
    several(tmp_path, **{field: value})
    with pytest.raises(BackupError, match=r"does not say where this node's backup is: .*untouched") as caught:
        read_settings(tmp_path)
    assert what in str(caught.value)
    assert not isinstance(caught.value, FromTheFuture)


@pytest.mark.parametrize("version", [3, 10**9])
def test_backup_lock_of_several_members_of_later_release_is_refused(tmp_path: Path, version: int) -> None:
    several(tmp_path, version=version)
    with pytest.raises(FromTheFuture, match="later release"):
        read_settings(tmp_path)


def test_backup_lock_of_several_members_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    write_settings(tmp_path, SEVERAL)
    data = (tmp_path / LOCK_FILE).read_bytes()
    for length in range(len(data) - 1):  # without its last byte, a line end, it is still whole
        (tmp_path / LOCK_FILE).write_bytes(data[:length])
        with pytest.raises(BackupError):
            read_settings(tmp_path)
