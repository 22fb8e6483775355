"""The sync point, in `backup.witness`: the fingerprint of the database file, and that only a whole note counts."""

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import pytest

from backends.change import DATABASE_HEADER
from backends.node.sync_point import (
    SIZE,
    SYNC_POINT_FILE,
    Fingerprint,
    OpenSyncPoint,
    SyncPoint,
    fingerprint,
    read_sync_point,
    remove_sync_point,
    write_sync_point,
)

SYNC_POINT = SyncPoint(
    "0123456789abcdef", 77, 42, 0xDEADBEEF, Fingerprint(12, 4096, 1_700_000_000_123_456_789, 9, 77), None
)


def execute(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(sql)


def test_fingerprint_holds_inode_size_time_counter_and_header(tmp_path: Path) -> None:
    path = tmp_path / "lightningd.sqlite3"
    execute(path, "CREATE TABLE vars (name TEXT)")
    status = path.stat()
    header = crc32(path.read_bytes()[:DATABASE_HEADER])
    assert fingerprint(path) == Fingerprint(status.st_ino, status.st_size, status.st_mtime_ns, 1, header)


def test_fingerprint_changes_with_each_commit_even_when_the_clock_does_not_move(tmp_path: Path) -> None:
    path = tmp_path / "lightningd.sqlite3"
    execute(path, "CREATE TABLE vars (name TEXT)")
    before = fingerprint(path)
    assert before is not None
    execute(path, "INSERT INTO vars VALUES ('x')")
    os.utime(path, ns=(before.mtime_ns, before.mtime_ns))
    after = fingerprint(path)
    assert after is not None
    assert after == replace(before, change_counter=before.change_counter + 1, header=after.header)
    assert after.header != before.header


def test_fingerprint_is_unchanged_by_reading(tmp_path: Path) -> None:
    path = tmp_path / "lightningd.sqlite3"
    execute(path, "CREATE TABLE vars (name TEXT)")
    before = fingerprint(path)
    execute(path, "SELECT * FROM vars")
    assert fingerprint(path) == before


def test_fingerprint_of_a_copy_differs(tmp_path: Path) -> None:
    path, copy = tmp_path / "lightningd.sqlite3", tmp_path / "copy"
    execute(path, "CREATE TABLE vars (name TEXT)")
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    assert fingerprint(copy) != fingerprint(path)


@pytest.mark.parametrize("size", [0, 28, 95])
def test_fingerprint_of_file_without_header_has_no_counter(tmp_path: Path, size: int) -> None:
    path = tmp_path / "lightningd.sqlite3"
    path.write_bytes(b"\x01" * size)
    found = fingerprint(path)
    assert found is not None
    assert (found.size, found.change_counter) == (size, 0)


def test_fingerprint_of_missing_file_is_none(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "lightningd.sqlite3") is None


@pytest.mark.parametrize(
    "sync_point",
    [SYNC_POINT, replace(SYNC_POINT, fingerprint=None, failure="the disk is full"), replace(SYNC_POINT, sequence=0)],
)
def test_sync_point_is_read_back_as_written(tmp_path: Path, sync_point: SyncPoint) -> None:
    write_sync_point(tmp_path, replace(SYNC_POINT, sequence=1))
    write_sync_point(tmp_path, sync_point)
    assert read_sync_point(tmp_path) == sync_point
    assert (tmp_path / "backup.witness").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [SYNC_POINT_FILE]


def test_missing_sync_point_is_none(tmp_path: Path) -> None:
    assert read_sync_point(tmp_path) is None
    assert read_sync_point(tmp_path / "missing") is None


def test_removed_sync_point_is_gone_and_can_be_removed_again(tmp_path: Path) -> None:
    write_sync_point(tmp_path, SYNC_POINT)
    remove_sync_point(tmp_path)
    assert read_sync_point(tmp_path) is None
    remove_sync_point(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 300, b"null", b"[]", b'"x"', b"\xff", b"{", b"[" * 60000, b'{"sequence": 1}', b" " * 70000]
)
def test_file_with_other_content_is_no_sync_point(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SYNC_POINT_FILE).write_bytes(content)
    assert read_sync_point(tmp_path) is None


def test_directory_is_no_sync_point(tmp_path: Path) -> None:
    (tmp_path / SYNC_POINT_FILE).mkdir()
    assert read_sync_point(tmp_path) is None


def rewrite(directory: Path, document: object) -> None:
    """Write a sync point with a valid checksum, whatever it contains."""
    line = json.dumps(document).encode()
    (directory / SYNC_POINT_FILE).write_bytes(line + b"\n%08x\n" % crc32(line))


def test_sync_point_rewritten_by_these_tests_is_whole(tmp_path: Path) -> None:
    write_sync_point(tmp_path, SYNC_POINT)
    rewrite(tmp_path, json.loads((tmp_path / SYNC_POINT_FILE).read_bytes().splitlines()[0]))
    assert read_sync_point(tmp_path) == SYNC_POINT


def test_truncated_sync_point_is_none(tmp_path: Path) -> None:
    write_sync_point(tmp_path, SYNC_POINT)
    whole = (tmp_path / SYNC_POINT_FILE).read_bytes().rstrip()
    for length in range(len(whole)):
        (tmp_path / SYNC_POINT_FILE).write_bytes(whole[:length])
        assert read_sync_point(tmp_path) is None


@pytest.mark.parametrize("field", ["backup_id", "sequence", "data_version", "checksum", "fingerprint", "failure"])
@pytest.mark.parametrize("value", [True, 1.5, [], {}, {"inode": 1}, "missing", "wrong"])
def test_sync_point_with_wrong_type_is_none(tmp_path: Path, field: str, value: object) -> None:
    write_sync_point(tmp_path, SYNC_POINT)
    path = tmp_path / SYNC_POINT_FILE
    document = json.loads(path.read_bytes().splitlines()[0])
    if value == "missing":
        del document[field]
    elif value == "wrong":
        document[field] = 7 if field in ("backup_id", "failure", "fingerprint") else "7"
    else:
        document[field] = value
    rewrite(tmp_path, document)
    assert read_sync_point(tmp_path) is None


@pytest.mark.parametrize("field", ["inode", "size", "mtime_ns", "change_counter", "header"])
@pytest.mark.parametrize("value", [None, True, "1", 1.0])
def test_sync_point_with_wrong_type_in_fingerprint_is_none(tmp_path: Path, field: str, value: object) -> None:
    write_sync_point(tmp_path, SYNC_POINT)
    path = tmp_path / SYNC_POINT_FILE
    document = json.loads(path.read_bytes().splitlines()[0])
    document["fingerprint"][field] = value
    rewrite(tmp_path, document)
    assert read_sync_point(tmp_path) is None


def test_flip_of_any_byte_of_sync_point_is_none(tmp_path: Path) -> None:
    write_sync_point(tmp_path, SYNC_POINT)
    path = tmp_path / SYNC_POINT_FILE
    whole = path.read_bytes()
    for place in [*range(len(whole.rstrip())), SIZE - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert read_sync_point(tmp_path) is None


def test_sync_point_overwritten_in_place_is_never_a_mixture_of_two(tmp_path: Path) -> None:
    """Each is read as written, also a shorter one. A mixture of two, as after a power cut, is not a sync point."""
    file = OpenSyncPoint(tmp_path)
    path = tmp_path / SYNC_POINT_FILE
    notes = [SYNC_POINT, replace(SYNC_POINT, sequence=10**9), replace(SYNC_POINT, fingerprint=None, sequence=1)]
    images = []
    for note in notes:
        file.write(note)
        file.sync()
        assert read_sync_point(tmp_path) == note
        assert path.stat().st_mode & 0o777 == 0o600
        images.append(path.read_bytes())
    file.close()
    assert {len(image) for image in images} == {SIZE}
    for old in images:
        for new in images:
            for place in range(512):
                path.write_bytes(new[:place] + old[place:])
                assert read_sync_point(tmp_path) in (None, *notes)


def test_sync_point_replaced_by_another_file_is_not_overwritten(tmp_path: Path) -> None:
    file = OpenSyncPoint(tmp_path)
    file.write(SYNC_POINT)
    failed = replace(SYNC_POINT, failure="the disk is full")
    write_sync_point(tmp_path, failed)
    file.write(SYNC_POINT)
    file.close()
    assert read_sync_point(tmp_path) == failed


@pytest.mark.parametrize("failure", ["x" * 100_000, "\U0001f4a3" * 10_000], ids=["long", "long in JSON"])
def test_sync_point_with_failure_of_any_length_is_read_back_cut(tmp_path: Path, failure: str) -> None:
    write_sync_point(tmp_path, replace(SYNC_POINT, failure=failure))
    found = read_sync_point(tmp_path)
    assert found is not None
    assert found.failure == failure[:4000]
    file = OpenSyncPoint(tmp_path)
    file.write(SYNC_POINT)
    file.close()
    assert read_sync_point(tmp_path) == SYNC_POINT


def test_link_in_place_of_sync_point_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / SYNC_POINT_FILE).symlink_to(tmp_path / "elsewhere")
    file = OpenSyncPoint(tmp_path)
    file.write(SYNC_POINT)
    file.close()
    assert read_sync_point(tmp_path) == SYNC_POINT
    assert not (tmp_path / "elsewhere").exists()
