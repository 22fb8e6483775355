"""The witness: what the database file looked like, and that only a whole note counts."""

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from backends.node.witness import (
    WITNESS_FILE,
    Fingerprint,
    Witness,
    fingerprint,
    read_witness,
    remove_witness,
    write_witness,
)

WITNESS = Witness("0123456789abcdef", 77, 42, 0xDEADBEEF, Fingerprint(12, 4096, 1_700_000_000_123_456_789, 9), None)


def execute(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(sql)


def test_the_fingerprint_of_a_database(tmp_path: Path) -> None:
    path = tmp_path / "lightningd.sqlite3"
    execute(path, "CREATE TABLE vars (name TEXT)")
    status = path.stat()
    assert fingerprint(path) == Fingerprint(status.st_ino, status.st_size, status.st_mtime_ns, 1)


def test_each_commit_changes_the_fingerprint_even_when_the_clock_stands(tmp_path: Path) -> None:
    path = tmp_path / "lightningd.sqlite3"
    execute(path, "CREATE TABLE vars (name TEXT)")
    before = fingerprint(path)
    assert before is not None
    execute(path, "INSERT INTO vars VALUES ('x')")
    os.utime(path, ns=(before.mtime_ns, before.mtime_ns))
    assert fingerprint(path) == replace(before, change_counter=before.change_counter + 1)


def test_reading_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lightningd.sqlite3"
    execute(path, "CREATE TABLE vars (name TEXT)")
    before = fingerprint(path)
    execute(path, "SELECT * FROM vars")
    assert fingerprint(path) == before


def test_a_copy_has_another_fingerprint(tmp_path: Path) -> None:
    path, copy = tmp_path / "lightningd.sqlite3", tmp_path / "copy"
    execute(path, "CREATE TABLE vars (name TEXT)")
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    assert fingerprint(copy) != fingerprint(path)


@pytest.mark.parametrize("size", [0, 28, 99])
def test_a_file_without_a_header_has_no_counter(tmp_path: Path, size: int) -> None:
    path = tmp_path / "lightningd.sqlite3"
    path.write_bytes(b"\x01" * size)
    found = fingerprint(path)
    assert found is not None
    assert (found.size, found.change_counter) == (size, 0)


def test_a_missing_file_has_none(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "lightningd.sqlite3") is None


@pytest.mark.parametrize(
    "witness", [WITNESS, replace(WITNESS, fingerprint=None, failure="the disk is full"), replace(WITNESS, sequence=0)]
)
def test_what_is_written_is_read(tmp_path: Path, witness: Witness) -> None:
    write_witness(tmp_path, replace(WITNESS, sequence=1))
    write_witness(tmp_path, witness)
    assert read_witness(tmp_path) == witness
    assert (tmp_path / "backup.witness").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [WITNESS_FILE]


def test_no_witness(tmp_path: Path) -> None:
    assert read_witness(tmp_path) is None
    assert read_witness(tmp_path / "missing") is None


def test_a_removed_witness_is_gone(tmp_path: Path) -> None:
    write_witness(tmp_path, WITNESS)
    remove_witness(tmp_path)
    assert read_witness(tmp_path) is None
    remove_witness(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 300, b"null", b"[]", b'"x"', b"\xff", b"{", b"[" * 60000, b'{"sequence": 1}', b" " * 70000]
)
def test_anything_else_is_no_witness(tmp_path: Path, content: bytes) -> None:
    (tmp_path / WITNESS_FILE).write_bytes(content)
    assert read_witness(tmp_path) is None


def test_a_directory_is_no_witness(tmp_path: Path) -> None:
    (tmp_path / WITNESS_FILE).mkdir()
    assert read_witness(tmp_path) is None


def test_no_part_of_a_witness_is_one(tmp_path: Path) -> None:
    write_witness(tmp_path, WITNESS)
    whole = (tmp_path / WITNESS_FILE).read_bytes().rstrip()
    for length in range(len(whole)):
        (tmp_path / WITNESS_FILE).write_bytes(whole[:length])
        assert read_witness(tmp_path) is None


@pytest.mark.parametrize("field", ["backup_id", "sequence", "data_version", "checksum", "fingerprint", "failure"])
@pytest.mark.parametrize("value", [True, 1.5, [], {}, {"inode": 1}, "missing", "wrong"])
def test_a_wrong_type_is_no_witness(tmp_path: Path, field: str, value: object) -> None:
    write_witness(tmp_path, WITNESS)
    path = tmp_path / WITNESS_FILE
    document = json.loads(path.read_text())
    if value == "missing":
        del document[field]
    elif value == "wrong":
        document[field] = 7 if field in ("backup_id", "failure", "fingerprint") else "7"
    else:
        document[field] = value
    path.write_text(json.dumps(document))
    assert read_witness(tmp_path) is None


@pytest.mark.parametrize("field", ["inode", "size", "mtime_ns", "change_counter"])
@pytest.mark.parametrize("value", [None, True, "1", 1.0])
def test_a_wrong_fingerprint_is_no_witness(tmp_path: Path, field: str, value: object) -> None:
    write_witness(tmp_path, WITNESS)
    path = tmp_path / WITNESS_FILE
    document = json.loads(path.read_text())
    document["fingerprint"][field] = value
    path.write_text(json.dumps(document))
    assert read_witness(tmp_path) is None
