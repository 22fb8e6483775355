"""A database that is checked in parts: the check of the whole in one go never finds what this one has not."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from backends.sqlite import in_parts, sparing
from backends.sqlite.checked_tables import Table
from backends.sqlite.connection import READ_ONLY, connect, integrity_errors
from backends.sqlite.foreign_keys import ForeignKeys, foreign_key_violations
from backends.sqlite.in_parts import whole_errors
from backends.sqlite.page_ledger import PageLedger
from backends.sqlite.recorded_pages import database_pages
from backends.sqlite.sparing import opened_sparingly
from backends.sqlite.table_tree import Lower, NotDivisible, Part, key, table_tree
from tests.sqlite.damaged_trees import DAMAGES, ROWS, SCHEMA, Bytes, N, at_random, free, leaf_pointer, root_of
from tests.sqlite.databases import execute, made

ROOM = 1 << 21


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return made(tmp_path_factory.mktemp("in_parts") / "db", *SCHEMA, "BEGIN", *ROWS, "COMMIT").read_bytes()


@pytest.fixture
def database(tmp_path: Path, pristine: bytes) -> Path:
    path = tmp_path / "db"
    path.write_bytes(pristine)
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with little memory for files. Parts are as small as the indexes allow."""
    monkeypatch.setattr(sparing, "room_for_pages", lambda: ROOM)
    monkeypatch.setattr(in_parts, "_SIZE", 1 << 14)


@pytest.fixture
def in_one_go(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One element for each check in one go."""
    asked: list[None] = []

    def noted(connection: apsw.Connection, *, cache_kib: int) -> str | None:
        asked.append(None)
        return integrity_errors(connection, cache_kib=cache_kib)

    monkeypatch.setattr(in_parts, "integrity_errors", noted)
    return asked


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Part]]:
    """The parts that are checked, with the table's name."""
    checked: list[tuple[str, Part]] = []
    check = in_parts._Check._check_part

    def noting(self: in_parts._Check, table: Table, part: Part) -> None:
        checked.append((table.name, part))
        check(self, table, part)

    monkeypatch.setattr(in_parts._Check, "_check_part", noting)
    return checked


def found(path: Path, keys: ForeignKeys | None = None) -> str | None:
    with opened_sparingly(path) as connection:
        return whole_errors(connection, keys=keys)


def found_in_one_go(path: Path) -> str | None:
    with closing(connect(path, READ_ONLY)) as connection:
        return integrity_errors(connection)


def test_database_is_proven_whole_in_parts(
    database: Path, in_one_go: list[None], parts: list[tuple[str, Part]]
) -> None:
    assert found(database) is None
    assert not in_one_go
    assert [name for name, _ in parts].count("one") > 2
    assert [name for name, _ in parts].count("two") > 5
    assert {name for name, _ in parts} == {"one", "two"}


def test_parts_are_the_whole_table(database: Path, parts: list[tuple[str, Part]]) -> None:
    found(database)
    with closing(connect(database, READ_ONLY)) as connection:
        ((root,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'two'").fetchall()
    with database.open("rb") as file:
        tree = table_tree(database_pages(file.fileno()), int(str(root)))
    assert len(tree.above) > 1  # a tree of four levels
    mine = [part for name, part in parts if name == "two"]
    mine.sort(key=lambda part: -1 << 63 if part.after is None else key(part.after))
    assert [page for part in mine for page in part.pages] == [cut.page for cut in tree.cut]
    assert [part.after for part in mine[1:]] == [part.pages[-1].bound for part in mine[:-1]]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_reported_as_by_the_check_in_one_go(
    database: Path, in_one_go: list[None], damage: Callable[[Path], None]
) -> None:
    damage(database)
    expected = found_in_one_go(database)
    assert expected is not None
    assert found(database) == expected
    assert in_one_go


def test_schemas_own_page_in_the_place_of_a_leaf_is_reported(tmp_path: Path, in_one_go: list[None]) -> None:
    """The leaf whose place it takes is free, and the order of the keys allows it."""
    path = made(
        tmp_path / "db",
        "PRAGMA page_size = 4096",
        "CREATE TABLE two (x)",
        "CREATE TABLE freed (x)",
        f"{N.format(99)} INSERT INTO two SELECT zeroblob(3000) FROM n",
        f"{N.format(99)} INSERT INTO freed SELECT zeroblob(3000) FROM n",
        "DELETE FROM freed",
        "UPDATE two SET rowid = rowid + 100",
    )
    data = Bytes(path, 4096)
    pointer = leaf_pointer(data.page(root_of(path, "two")), 0)
    free(data, int.from_bytes(pointer, "big"))
    pointer[:] = (1).to_bytes(4, "big")
    data.save()
    expected = found_in_one_go(path)
    assert expected is not None
    assert found(path) == expected
    assert in_one_go


def test_part_of_another_height_is_refused(database: Path) -> None:
    with database.open("rb") as file:
        tree = table_tree(database_pages(file.fileno()), root_of(database, "two"))
        part = next(tree.parts(1 << 14, None, 1 << 13))
        tree.check_height(part)
        for other in (tree.above[0], tree.above[1]):
            with pytest.raises(NotDivisible):
                tree.check_height(Part([Lower(other, None), *part.pages[1:]]))


@pytest.mark.parametrize("seeds", [range(12)], ids=str)
def test_random_damage_is_reported_as_by_the_check_in_one_go(database: Path, pristine: bytes, seeds: range) -> None:
    for seed in seeds:
        database.write_bytes(pristine)
        at_random(database, seed)
        outcomes = []
        for find in (found_in_one_go, found):
            try:
                outcomes.append(find(database))
            except apsw.Error as error:
                outcomes.append(type(error).__name__)
        assert outcomes[0] == outcomes[1], seed


def test_violated_foreign_keys_are_found_on_the_way(database: Path, in_one_go: list[None]) -> None:
    with closing(apsw.Connection(str(database))) as connection:
        execute(
            connection,
            "UPDATE one SET parent = 77 WHERE id IN (4000, 30)",
            "UPDATE one SET own = id + 1 WHERE id % 1000 = 7",
            "UPDATE one SET own = -1 WHERE id IN (30, 5000)",
            "UPDATE two SET parent = 88 WHERE rowid = 6999",
            "CREATE TABLE small (x REFERENCES nowhere (id))",
            "INSERT INTO small VALUES (1)",
        )
    keys = ForeignKeys()
    assert found(database, keys) is None
    assert not in_one_go
    assert keys.complete
    known = foreign_key_violations(database / "never read", keys)
    assert known == foreign_key_violations(database)
    assert known == [
        "table one: 2 rows refer to missing rows of one, first in row 30",
        "table one: 2 rows refer to missing rows of parent, first in row 30",
        "table small: 1 row refers to a missing row of nowhere, first in row 1",
        "table two: 1 row refers to a missing row of parent, first in row 6999",
    ]


def test_foreign_keys_that_make_no_sense_are_looked_at_again(database: Path, in_one_go: list[None]) -> None:
    with closing(apsw.Connection(str(database))) as connection:
        execute(connection, "CREATE TABLE odd (x REFERENCES two (x))", "INSERT INTO odd VALUES (1)")
    keys = ForeignKeys()
    assert found(database, keys) is None
    assert not in_one_go
    assert foreign_key_violations(database, keys) == [
        "the foreign keys of table odd cannot be checked: foreign key mismatch - odd referencing two"
    ]


def test_foreign_keys_of_a_database_checked_in_one_go_are_not_known(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparing, "room_for_pages", lambda: None)
    keys = ForeignKeys()
    assert found(database, keys) is None
    assert not keys.complete


def test_tables_are_not_divided_if_their_indexes_do_not_stay_in_memory(
    database: Path, in_one_go: list[None], parts: list[tuple[str, Part]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparing, "room_for_pages", lambda: ROOM >> 4)
    assert found(database) is None
    assert not in_one_go
    assert {name for name, _ in parts} == {"two"}  # it has no index


@pytest.mark.parametrize("pragma", ["auto_vacuum = FULL", "journal_mode = WAL"])
def test_database_of_another_kind_is_checked_in_one_go(database: Path, in_one_go: list[None], pragma: str) -> None:
    with closing(apsw.Connection(str(database))) as connection:
        execute(connection, f"PRAGMA {pragma}", "DELETE FROM keyed" if "WAL" in pragma else "VACUUM")
        assert found(database) is None
    assert in_one_go


def test_database_with_very_many_tables_is_checked_in_one_go(database: Path, in_one_go: list[None]) -> None:
    """In parts, that would take minutes."""
    with closing(apsw.Connection(str(database))) as connection:
        execute(connection, "BEGIN", *(f"CREATE TABLE t{i} (x)" for i in range(500)), "COMMIT")
    assert found(database) is None
    assert in_one_go


def test_database_is_checked_in_one_go_if_memory_for_the_parts_is_missing(
    database: Path, in_one_go: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def use(self: PageLedger, bits: int) -> None:
        raise MemoryError

    monkeypatch.setattr(PageLedger, "use", use)
    assert found(database) is None
    assert in_one_go


def test_check_that_is_to_stop_stops_between_parts(database: Path) -> None:
    answers = iter([False] * 3 + [True] * 99)
    with opened_sparingly(database) as connection, pytest.raises(apsw.InterruptError):
        whole_errors(connection, stops=lambda: next(answers))
    assert len(list(answers)) == 98
