"""A stopped node's database is read from its own file: what keeps it whole meanwhile, and what is found."""

import os
import threading
from hashlib import sha256
from pathlib import Path

import apsw
import pytest

from backends.errors import BackupError
from backends.sqlite.connection import Corrupt
from backends.sqlite.in_place import in_place
from tests.sqlite.databases import node

ROWS = "INSERT INTO large WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) "


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return node(
        tmp_path / "db",
        "PRAGMA synchronous = OFF",
        "CREATE TABLE large (x, y)",
        "CREATE INDEX by_x ON large (x)",
        ROWS.format(3000) + "SELECT randomblob(700), i FROM n",
    )


@pytest.mark.parametrize("beside", [False, True])
def test_pieces_are_the_file(database: Path, beside: bool) -> None:
    with in_place(database, beside=beside) as source:
        assert source is not None
        assert (source.data_version, source.node_id) == (7, "02ab")
        assert sha256(b"".join(source.pieces)).digest() == sha256(database.read_bytes()).digest()


def test_nobody_can_commit_while_it_is_read(database: Path) -> None:
    with in_place(database, beside=True) as source:
        assert source is not None
        pieces = iter(source.pieces)
        next(pieces)
        writer = apsw.Connection(str(database))
        with pytest.raises(apsw.BusyError):
            writer.execute("UPDATE large SET y = 0")
        writer.close()
        assert sum(map(len, pieces)) > 0


def test_hot_journal_is_rolled_back_first(database: Path) -> None:
    before = database.read_bytes()
    child = os.fork()
    if child == 0:
        writer = apsw.Connection(str(database))
        writer.execute("PRAGMA cache_size = 50; BEGIN; UPDATE large SET x = randomblob(700)")
        os._exit(0)
    os.waitpid(child, 0)
    assert database.with_name("db-journal").exists()
    with in_place(database, beside=True) as source:
        assert source is not None
        assert b"".join(source.pieces)[100:] == before[100:]


def test_wal_database_must_be_copied(database: Path) -> None:
    connection = apsw.Connection(str(database))
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.close()
    with in_place(database, beside=True) as source:
        assert source is None


def spoil(database: Path) -> None:
    """Empty a page of the index, in the middle of the file."""
    with database.open("r+b") as file:
        file.seek(4096 * (database.stat().st_size // 8192))
        file.write(bytes(4096))


def test_corrupt_database_is_found_before_the_last_piece_is_taken(database: Path) -> None:
    spoil(database)
    with in_place(database, beside=True) as source:
        assert source is not None
        with pytest.raises(Corrupt, match="db is corrupt"):
            list(source.pieces)


def test_corrupt_database_is_found_first_where_that_is_asked_for(database: Path) -> None:
    spoil(database)
    with pytest.raises(Corrupt, match="db is corrupt"), in_place(database, beside=False):
        raise AssertionError("it was yielded")


def test_writing_in_spite_of_the_lock_is_noticed(database: Path) -> None:
    with in_place(database, beside=True) as source:
        assert source is not None
        pieces = iter(source.pieces)
        next(pieces)
        descriptor = os.open(database, os.O_WRONLY)
        os.pwrite(descriptor, b"\0\0\0\7", 24)
        with pytest.raises(BackupError, match="was written to while it was read"):
            list(pieces)
    os.close(descriptor)


def test_leaving_early_ends_the_check(database: Path) -> None:
    with in_place(database, beside=True) as source:
        assert source is not None
        next(iter(source.pieces))
    assert not [thread for thread in threading.enumerate() if thread.name == "integrity check"]
    connection = apsw.Connection(str(database))
    connection.execute("UPDATE large SET y = 0 WHERE y = 1")  # the lock is gone
    connection.close()
