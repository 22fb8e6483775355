"""A database that does not fit into memory: what is read of it, what stays, and that a check finds the same."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import apsw
import pytest

from backends import backup_at
from backends.base import SnapshotSource
from backends.compaction.from_copy import _check as check_copy
from backends.errors import BackupError
from backends.log.format.documents import Base
from backends.log.reader.snapshot import SnapshotReader
from backends.sqlite import rebuild as rebuilding
from backends.sqlite import sparing
from backends.sqlite.connection import READ_ONLY, Corrupt, connect, integrity_errors
from backends.sqlite.copy import file_pieces
from backends.sqlite.foreign_keys import foreign_key_violations
from backends.sqlite.in_place import in_place
from backends.sqlite.replay import Replay
from backends.sqlite.replay_errors import ReplayFailed
from backends.sqlite.source import copy_database
from backends.sqlite.sparing import opened_sparingly, reading_sparingly
from tests.in_memory import PAGE, forget, in_memory
from tests.sqlite.databases import node

N = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Two tables whose pages alternate in the file, 6 MiB each, and an index in the order of neither."""
    rows = (
        f"{N.format(300)} INSERT INTO {table} SELECT randomblob(4), zeroblob(3000) FROM n"
        for _ in range(5)
        for table in ("one", "two")
    )
    return node(
        tmp_path / "db",
        "PRAGMA synchronous = OFF",
        "CREATE TABLE one (x, y)",
        "CREATE TABLE two (x, y)",
        *rows,
        "CREATE INDEX by_x ON one (x)",
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 1 MiB for files."""
    monkeypatch.setattr(sparing, "room_for_pages", lambda: 1 << 20)


@pytest.fixture
def cached(database: Path) -> Callable[[], list[bool]]:
    """Whether each page of the database is in the kernel's memory. None is at first."""
    forget(database)
    if any(in_memory(database)):
        pytest.skip("this filesystem keeps all in memory")
    return lambda: in_memory(database)


def pages_of(database: Path, name: str) -> set[int]:
    connection = apsw.Connection(str(database))
    rows = connection.execute("SELECT pageno - 1 FROM dbstat WHERE name = ?", (name,)).fetchall()
    connection.close()
    return {int(str(page)) for (page,) in rows}


@pytest.fixture
def reading(database: Path) -> Iterator[Callable[[int], apsw.Connection]]:
    with ExitStack() as held:

        def read(keep: int) -> apsw.Connection:
            descriptor = os.open(database, os.O_RDONLY)
            held.callback(os.close, descriptor)
            return held.enter_context(reading_sparingly(database, descriptor, keep))

        yield read


Reading = Callable[[int], apsw.Connection]
Cached = Callable[[], list[bool]]


def test_check_finds_nothing_wrong(reading: Reading) -> None:
    assert integrity_errors(reading(0)) is None


def test_other_tables_pages_are_not_read(database: Path, reading: Reading, cached: Cached) -> None:
    two = pages_of(database, "two")
    forget(database)
    reading(1 << 30).execute("SELECT sum(length(y)) FROM one").fetchall()
    found = cached()
    assert sum(found[page] for page in two) < len(two) // 10
    assert sum(found) > len(two) // 2


def test_pages_are_read_before_they_are_asked_for(database: Path, reading: Reading, cached: Cached) -> None:
    one = pages_of(database, "one")
    forget(database)
    rows = reading(1 << 30).execute("SELECT y FROM one")
    next(rows)
    until = time.monotonic() + 10
    while (ahead := sum(map(cached().__getitem__, one))) < 300 and time.monotonic() < until:
        time.sleep(0.01)
    assert ahead >= 300


def test_only_the_files_end_stays_after_a_check(database: Path, reading: Reading, cached: Cached) -> None:
    keep = 2 << 20
    assert integrity_errors(reading(keep)) is None
    found = cached()
    assert all(found[-keep // PAGE + 1 :])
    assert sum(found[: -keep // PAGE]) < len(found) // 4  # the index, and the last pages that were read ahead


def spoil(database: Path) -> None:
    """Change the last bytes of a page of the index: one of its keys, or the row that one leads to."""
    page = max(pages_of(database, "by_x"))
    with database.open("r+b") as file:
        file.seek(PAGE * page + PAGE - 2)
        file.write(b"\x7e\x7e")


def test_damage_is_found(database: Path, reading: Reading) -> None:
    spoil(database)
    found = integrity_errors(reading(0))
    with_all_memory = connect(database, READ_ONLY)
    assert found == integrity_errors(with_all_memory)
    assert found is not None
    with_all_memory.close()


@pytest.mark.parametrize("share", [1, 3, 7])
def test_any_bytes_for_an_inner_page_are_no_more_than_damage(database: Path, reading: Reading, share: int) -> None:
    inner = sorted(pages_of(database, "two"))
    data = bytearray(database.read_bytes())
    for page in inner[::share]:
        data[page * PAGE : page * PAGE + PAGE] = b"\5" + os.urandom(PAGE - 1)
    database.write_bytes(data)
    assert integrity_errors(reading(0)) is not None


def can_write(database: Path) -> bool:
    """Whether another process can commit to the database."""
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('PRAGMA user_version = 7')"
    return not subprocess.run([sys.executable, "-c", code, database], stderr=subprocess.DEVNULL, check=False).returncode


def test_nobody_can_commit_during_a_transaction(database: Path, reading: Reading) -> None:
    connection = reading(0)
    connection.execute("BEGIN; SELECT * FROM one LIMIT 1").fetchall()
    assert not can_write(database)
    connection.execute("COMMIT")
    assert can_write(database)


def test_disk_that_fails_is_named_as_sqlite_would(database: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: object, amount: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sparing.PageReader, "read", failing)
    with in_place(database, beside=True) as source:
        assert source is not None
        with pytest.raises(BackupError, match="could not be read or written: disk I/O error") as caught:
            list(source.pieces)
    assert not isinstance(caught.value, Corrupt)


def test_wal_is_read_too(database: Path, small: None) -> None:
    connection = apsw.Connection(str(database))
    connection.execute("PRAGMA journal_mode = WAL; DELETE FROM two").fetchall()
    with opened_sparingly(database) as found:
        assert found.execute("SELECT count(*) FROM two").fetchall() == [(0,)]
    connection.close()


@pytest.mark.parametrize("room", [None, 1 << 30])
def test_database_that_fits_is_read_as_usual(database: Path, monkeypatch: pytest.MonkeyPatch, room: int | None) -> None:
    monkeypatch.setattr(sparing, "room_for_pages", lambda: room)
    monkeypatch.setattr(sparing, "reading_sparingly", None)
    with opened_sparingly(database) as connection:
        assert integrity_errors(connection) is None


@pytest.fixture
def sparing_opens(monkeypatch: pytest.MonkeyPatch, small: None) -> list[Path]:
    """The databases that were read sparingly."""
    paths: list[Path] = []

    def noted(path: Path, descriptor: int, keep: int) -> AbstractContextManager[apsw.Connection]:
        paths.append(path)
        return reading_sparingly(path, descriptor, keep)

    monkeypatch.setattr(sparing, "reading_sparingly", noted)
    return paths


def test_every_check_of_a_whole_database_is_sparing(database: Path, sparing_opens: list[Path]) -> None:
    with in_place(database, beside=True) as source:
        assert source is not None
        assert sum(map(len, source.pieces)) == database.stat().st_size
    copy = database.with_name("copy")
    copy_database(database, copy, writable=True)
    with Replay(copy) as replay:
        replay.finish()
    foreign_key_violations(copy)
    assert sparing_opens == [database, copy, copy, copy]


def test_copy_for_a_renewed_snapshot_is_checked_sparingly(database: Path, sparing_opens: list[Path]) -> None:
    base = Base(0, 7, 0, foreign_keys=True)
    check_copy(database, base, lambda: None)
    spoil(database)
    with pytest.raises(BackupError, match="by_x"):
        check_copy(database, base, lambda: None)
    assert sparing_opens == [database, database]


def test_every_sparing_check_finds_damage(database: Path, sparing_opens: list[Path]) -> None:
    spoil(database)
    with in_place(database, beside=True) as source, pytest.raises(Corrupt, match="by_x"):
        assert source is not None
        list(source.pieces)
    with pytest.raises(Corrupt, match="by_x"):
        copy_database(database, database.with_name("copy"), writable=True)
    with Replay(database) as replay, pytest.raises(ReplayFailed, match="by_x"):
        replay.finish()
    assert len(sparing_opens) == 3


def test_lock_outlives_the_sparing_check(database: Path, sparing_opens: list[Path]) -> None:
    with in_place(database, beside=False) as source:
        assert source is not None
        assert sparing_opens
        assert not can_write(database)
    assert can_write(database)


def read_from_a_copy(database: Path) -> None:
    for _ in file_pieces(database):
        pass


def read_in_place(database: Path) -> None:
    with in_place(database, beside=False) as source:
        assert source is not None
        for _ in source.pieces:
            pass


@pytest.mark.parametrize("read", [read_from_a_copy, read_in_place])
def test_only_the_files_end_stays_when_it_was_read_for_a_snapshot(
    small: None, database: Path, cached: Cached, read: Callable[[Path], None]
) -> None:
    read(database)
    found = cached()
    assert sum(found[: (8 << 20) // PAGE]) < 100  # SQLite itself has looked at a few
    assert all(found[-100:])


@pytest.mark.parametrize("read", [read_from_a_copy, read_in_place])
def test_all_that_was_read_for_a_snapshot_stays_if_it_fits(
    database: Path, cached: Cached, read: Callable[[Path], None]
) -> None:
    read(database)
    assert all(cached())


@pytest.mark.parametrize("fits", [True, False])
def test_snapshot_does_not_stay_in_memory_beside_a_database_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    asked: list[bool] = []
    pieces = SnapshotReader.pieces

    def noting(self: SnapshotReader, *, forgets: bool = False) -> Iterator[tuple[bytes, int]]:
        asked.append(forgets)
        return pieces(self, forgets=forgets)

    backup = backup_at((tmp_path / "b").as_uri())
    backup.create(SnapshotSource([node(tmp_path / "db").read_bytes()], 7, "02ab"))
    monkeypatch.setattr(SnapshotReader, "pieces", noting)
    monkeypatch.setattr(rebuilding, "room_for_pages", lambda: 1 << 30 if fits else 1 << 10)
    with backup.read() as reader:
        rebuilding.rebuild(reader, tmp_path / "restored")
    assert asked == [not fits]
