"""The tables of a database that is checked in parts, and what becomes known of each on the way."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import apsw

from backends.sqlite.connection import Value, run
from backends.sqlite.table_tree import Part, TableTree


class Unexpected(Exception):
    """Something is not as in a database that is whole, and that can be checked in parts."""


@dataclass(slots=True)
class Table:
    """A table with its indexes."""

    name: str
    root: int
    indexes: dict[str, int] = field(default_factory=dict)
    """For each index that has an entry for each row, its root. SQLite does not count the entries of a partial one."""
    tree: TableTree | None = None
    """None if the table is checked as a whole."""
    not_rows: int = 0
    """Pages (a set of `PageSet`) of its indexes."""
    parts: list[Part] = field(default_factory=list)
    refers_to_itself: bool = False
    """Whether a foreign key of it does: then no part shows whether it is violated."""
    rows: int = 0
    """How many the parts had."""


def tables_of(connection: apsw.Connection) -> list[Table]:
    """All tables. Raises apsw.Error, UnicodeDecodeError, Unexpected."""
    tables = run(connection, "SELECT name, rootpage FROM sqlite_schema WHERE type = 'table' AND rootpage > 0")
    found = {str(name).lower(): Table(str(name), number((root,))) for name, root in tables}
    indexes = "SELECT name, lower(tbl_name), rootpage FROM sqlite_schema WHERE type = 'index' AND rootpage > 0"
    partial = {name for each in found.values() for name in _partial_indexes(connection, each.name)}
    for name, table, root in run(connection, indexes):
        if str(table) not in found:
            raise Unexpected
        if str(name) not in partial:
            found[str(table)].indexes[str(name)] = number((root,))
    for name, each in found.items():
        parents = run(connection, 'SELECT lower("table") FROM pragma_foreign_key_list(?)', (each.name,))
        each.refers_to_itself = (name,) in parents
    return list(found.values())


def _partial_indexes(connection: apsw.Connection, table: str) -> Iterator[str]:
    for (name,) in run(connection, "SELECT name FROM pragma_index_list(?) WHERE partial", (table,)):
        yield str(name)


def number(row: tuple[Value, ...] | None) -> int:
    """The number that is all of this row, or its beginning. Raises Unexpected."""
    if row is None or not isinstance(row[0], int):
        raise Unexpected
    return row[0]
