"""A check and a reader of one file, in step: neither gets far ahead, and neither waits for one that has ended."""

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import apsw
import pytest

from backends import backup_at
from backends.base import SnapshotSource
from backends.change import Change
from backends.compaction import checked_pieces, compact
from backends.compaction.compact import compact_log
from backends.errors import BackupError
from backends.log.reader.snapshot import PIECE
from backends.sqlite import in_parts, sparing
from backends.sqlite.checked_tables import Table
from backends.sqlite.connection import Corrupt, integrity_errors
from backends.sqlite.in_place import in_place
from backends.sqlite.in_step import InStep
from backends.sqlite.rebuild import rebuild
from backends.sqlite.replay_errors import ReplayFailed
from backends.sqlite.table_tree import Part
from tests.sqlite.damaged_trees import PAGE, ROWS, SCHEMA, invent_index_entry, share_overflow_page
from tests.sqlite.databases import NODE, made

ROOM = 1 << 20


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("in_step") / "db"
    return made(path, SCHEMA[0], *NODE, *SCHEMA[1:], "BEGIN", *ROWS, "COMMIT").read_bytes()


@pytest.fixture
def database(tmp_path: Path, pristine: bytes) -> Path:
    path = tmp_path / "db"
    path.write_bytes(pristine)
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with little memory for files."""
    monkeypatch.setattr(sparing, "room_for_pages", lambda: ROOM)
    monkeypatch.setattr(in_parts, "_SIZE", 1 << 16)


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """When each part is checked: how many bytes the reader is ahead of the part's end."""
    seen: list[int] = []
    check = in_parts._Check._check_part

    def noting(self: in_parts._Check, table: Table, part: Part) -> None:
        assert self._how.step is not None
        seen.append(self._how.step._read - part.highest * PAGE)
        check(self, table, part)

    monkeypatch.setattr(in_parts._Check, "_check_part", noting)
    return seen


def ended(*actions: Callable[[], object]) -> bool:
    """Whether all of these end, each in a thread of its own."""
    threads = [threading.Thread(target=action, daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return not any(thread.is_alive() for thread in threads)


def test_pages_are_checked_soon_after_they_were_read(
    database: Path, pristine: bytes, small: None, ahead: list[int]
) -> None:
    with in_place(database, beside=True) as source:
        assert source is not None
        assert b"".join(source.pieces) == pristine
    assert len(ahead) > 5
    assert all(0 <= lead <= ROOM // 4 + PIECE for lead in ahead[:-2])
    assert len(pristine) > 4 * ROOM  # so that somebody who does not wait is far ahead


def test_damage_is_raised_at_the_end_of_the_pieces(database: Path, small: None) -> None:
    share_overflow_page(database)
    with in_place(database, beside=True) as source:
        assert source is not None
        with pytest.raises(Corrupt, match="2nd reference to page"):
            for _ in source.pieces:
                pass


def test_reader_that_gives_up_ends_the_check(database: Path, small: None) -> None:
    def read_one() -> None:
        with in_place(database, beside=True) as source:
            assert source is not None
            next(iter(source.pieces))

    assert ended(read_one)


@pytest.mark.parametrize("damaged", [False, True])
def test_database_is_read_again_after_the_first_snapshot_did_not_fit(
    database: Path, pristine: bytes, small: None, damaged: bool
) -> None:
    """A destination was full, and history was given up for it: what was read, and checked, is read once more."""
    if damaged:
        share_overflow_page(database)

    def read_twice() -> None:
        with in_place(database, beside=True) as source:
            assert source is not None
            assert len(list(islice(source.pieces, 8))) == 8
            if damaged:
                with pytest.raises(Corrupt, match="2nd reference to page"):
                    b"".join(source.pieces)
            else:
                assert b"".join(source.pieces) == pristine
            done.append(True)

    done = list[bool]()
    assert ended(read_twice)
    assert done


def test_reader_goes_on_alone_when_the_check_has_failed(
    database: Path, pristine: bytes, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: in_parts._Check, table: Table, part: Part) -> None:
        raise apsw.NoMemError

    monkeypatch.setattr(in_parts._Check, "_check_part", failing)
    with in_place(database, beside=True) as source:
        assert source is not None
        assert b"".join(source.pieces) == pristine


def test_each_side_waits_for_the_other_until_that_ends() -> None:
    step, order = InStep(), list[str]()

    def read() -> None:
        for until in (0, 10, 20, 30):
            order.append(f"read {until} {step.may_read(until)}")
        step.end_reading()

    def check() -> None:
        step.wait_until_read(10, 5)
        order.append("checked 10")
        step.wait_until_read(25, 0)
        order.append("checked 25")
        step.end_check()
        step.wait_until_read(99, 0)

    assert ended(read, check)
    assert set(order) == {"read 0 True", "read 10 True", "read 20 True", "read 30 False", "checked 10", "checked 25"}
    assert order.index("checked 10") < order.index("read 20 True")
    assert order.index("checked 25") < order.index("read 30 False")


BUMP = "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {}"


def logged(tmp_path: Path, database: bytes) -> str:
    """A backup of this database (which nobody has checked) with some changes in its log."""
    url = (tmp_path / "backup").as_uri()
    backup_at(url).create(
        SnapshotSource([database[at : at + PIECE] for at in range(0, len(database), PIECE)], 7, "02ab")
    )
    with closing(backup_at(url).open(lambda level, line: None, "0123456789abcdef")) as writer:
        for version in range(7, 12):
            writer.append(Change(version + 1, [f"INSERT INTO parent (x) VALUES ({version})", BUMP.format(version)]))
    return url


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch, small: None) -> list[str]:
    """Each check of a whole database in one go."""
    asked: list[str] = []

    def noted(connection: apsw.Connection, *, cache_kib: int) -> str | None:
        asked.append("in one go")
        return integrity_errors(connection, cache_kib=cache_kib)

    monkeypatch.setattr(in_parts, "integrity_errors", noted)
    return asked


def test_compaction_checks_in_step_with_writing(
    tmp_path: Path, pristine: bytes, checks: list[str], ahead: list[int]
) -> None:
    url = logged(tmp_path, pristine)
    compacted = compact_log(backup_at(url).storage, tmp_path, leave_out=2)
    assert compacted is not None
    assert len(ahead) > 5
    assert not checks


@pytest.mark.parametrize("damage", [invent_index_entry, share_overflow_page])
def test_compaction_of_a_damaged_database_fails_as_with_enough_memory(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    damage(database)
    url = logged(tmp_path, database.read_bytes())
    storage = backup_at(url).storage
    before, said = sorted(storage.names()), []
    for room in (None, ROOM):
        monkeypatch.setattr(sparing, "room_for_pages", lambda room=room: room)
        with pytest.raises(ReplayFailed, match="fails SQLite's integrity check") as caught:
            compact_log(storage, tmp_path, leave_out=2)
        said.append((str(caught.value), caught.value.finding))
        assert sorted(storage.names()) == before
    assert said[0] == said[1]


def test_compaction_of_what_is_no_database_fails_as_with_enough_memory(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The damage is such that SQLite gives up, and reports no fault."""
    url = logged(tmp_path, database.read_bytes())

    def rotten(*args: object, **options: object) -> object:
        rebuilt = rebuild(*args, **options)  # type: ignore[arg-type]
        path = args[1]
        assert isinstance(path, Path)
        with path.open("r+b") as file:
            file.seek(100)
            file.write(bytes(PAGE - 100))
        return rebuilt

    monkeypatch.setattr(sparing, "room_for_pages", lambda: ROOM)
    monkeypatch.setattr(compact, "rebuild", rotten)
    with pytest.raises(ReplayFailed, match="the snapshot in this backup is not an intact database"):
        compact_log(backup_at(url).storage, tmp_path, leave_out=2)


@pytest.mark.parametrize(("room", "reader"), [(None, "file_pieces"), (ROOM, "pieces_in_step")])
def test_compaction_says_that_the_rebuilt_database_cannot_be_read(
    tmp_path: Path, pristine: bytes, monkeypatch: pytest.MonkeyPatch, room: int | None, reader: str
) -> None:
    """And not that the destination fails. What was written is removed."""
    read = getattr(checked_pieces, reader)

    def failing(*args: object) -> Iterator[bytes]:
        yield from islice(read(*args), 3)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sparing, "room_for_pages", lambda: room)
    monkeypatch.setattr(checked_pieces, reader, failing)
    storage = backup_at(logged(tmp_path, pristine)).storage
    before = sorted(storage.names())
    with pytest.raises(BackupError, match=r"compacted.sqlite3 could not be read: Input/output error; nothing was repl"):
        compact_log(storage, tmp_path, leave_out=2)
    assert sorted(storage.names()) == before
