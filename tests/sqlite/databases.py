"""Databases for the tests, some of them as a crash leaves them. All are made with APSW, as in the code under test."""

import shutil
from contextlib import closing
from pathlib import Path

import apsw

VARS = "CREATE TABLE vars (name TEXT, val TEXT, intval INTEGER, blobval BLOB, PRIMARY KEY (name))"

NODE = (
    VARS,
    "CREATE TABLE version (version INTEGER) STRICT",
    "INSERT INTO version VALUES (282)",
    "INSERT INTO vars VALUES ('data_version', NULL, 7, NULL)",
    "INSERT INTO vars VALUES ('node_id', NULL, NULL, x'02AB')",
)
"""The minimum that makes a database look like lightningd's."""


def execute(connection: apsw.Connection, *statements: str) -> None:
    for statement in statements:
        list(connection.execute(statement))


def made(path: Path, *statements: str) -> Path:
    """A database file in which these statements have been executed."""
    with closing(apsw.Connection(str(path))) as connection:
        execute(connection, *statements)
    return path


def node(path: Path, *statements: str) -> Path:
    return made(path, *NODE, *statements)


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
        return list(connection.execute(sql))


def with_hot_journal(directory: Path) -> Path:
    """A node's database after a power cut in the middle of a write; before that write, `blob` held zeros."""
    live = node(directory / "live.sqlite3", *_BLOBS)
    with closing(apsw.Connection(str(live))) as connection:
        execute(connection, "PRAGMA cache_size = 5", "BEGIN", "UPDATE blobs SET blob = randomblob(1000)")
        return _as_it_lies(live, "-journal")


def with_wal(directory: Path) -> Path:
    """A node's database whose 100 blobs are only in its WAL."""
    live = node(directory / "live.sqlite3", "PRAGMA journal_mode = WAL")
    with closing(apsw.Connection(str(live))) as connection:
        execute(connection, "PRAGMA wal_autocheckpoint = 0", *_BLOBS)
        return _as_it_lies(live, "-wal")


def beside(path: Path) -> dict[str, bytes]:
    """Every file in the database's directory, with its bytes."""
    return {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}


_BLOBS = (
    "CREATE TABLE blobs (id INTEGER PRIMARY KEY, blob BLOB)",
    "INSERT INTO blobs WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) "
    "SELECT i, zeroblob(1000) FROM n",
)


def _as_it_lies(live: Path, suffix: str) -> Path:
    crashed = live.parent / "crashed"
    crashed.mkdir()
    for file in (live, live.with_name(live.name + suffix)):
        shutil.copyfile(file, crashed / file.name.replace("live", "lightningd"))
    return crashed / "lightningd.sqlite3"
