"""Two databases compared by content: schema, every row with its rowid, the last automatic ids.

SQLite itself compares the rows, table by table in the order of their keys, so memory does not grow with the tables.
No value is ever shown: a node's rows are its secrets.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import apsw

from backends.sqlite.connection import READ_ONLY, as_backup_error, corrupt, error_text, opened, run
from backends.sqlite.names import quoted, tables
from backends.sqlite.recovered_copy import recovered_copy

_ROWIDS = ("rowid", "_rowid_", "oid")

_NO_SEQUENCE = "SELECT NULL, NULL WHERE 0"


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much was compared, and each difference as a sentence: none when both databases hold the same."""

    tables: int
    rows: int
    differences: list[str]


def compare(a: Path, b: Path, a_name: str = "the first", b_name: str = "the second") -> Comparison:
    """Compare two databases that nobody is writing to; `a_name` and `b_name` stand for them in the sentences.

    A hot journal or a WAL is recovered as SQLite would when the node starts, but in a copy in the temporary directory:
    neither database is changed. `rows` of the result counts the rows of `a`. Raises Busy, Corrupt or BackupError.
    """
    with _both(a, b) as connection:
        differences = _schema_differences(connection, a_name, b_name)
        compared = rows = 0
        for table in tables(connection, "main"):
            pair = _Pair(connection, table, a_name, b_name)
            if pair.alike:
                compared += 1
                rows += pair.compare(differences)
            elif not pair.numbered:
                differences.append(f"table {table} cannot be compared: its columns hide the rowid")
        differences += _sequence_differences(connection)
        return Comparison(compared, rows, differences)


@contextmanager
def _both(a: Path, b: Path) -> Iterator[apsw.Connection]:
    """A connection to `a` as `main`, with `b` as `other`."""
    with recovered_copy(a) as first, recovered_copy(b) as second, opened(first, READ_ONLY, a) as connection:
        run(connection, "SELECT count(*) FROM sqlite_schema")
        connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 1)
        try:
            connection.execute("ATTACH ? AS other", (str(second.absolute()),))
            run(connection, "SELECT count(*) FROM other.sqlite_schema")
        except apsw.Error as error:
            raise as_backup_error(error, b) from error
        try:
            yield connection
        except apsw.CorruptError as error:
            raise corrupt(f"{a} or {b}", error_text(error)) from error


class _Pair:
    """A table that is compared between the databases `main` (in SQL: x) and `other` (y)."""

    def __init__(self, connection: apsw.Connection, table: str, a_name: str, b_name: str) -> None:
        self._connection, self._table = connection, table
        self._a_name, self._b_name = a_name, b_name
        self._columns, self._key = _shape(connection, "main", table)
        self.numbered = bool(self._key)
        """Whether each row has a key (rowid or primary key) by which to find it in the other database."""
        self.alike = self.numbered and (self._columns, self._key) == _shape(connection, "other", table)
        """Whether the rows can be compared: both have the same columns. A differing schema is reported separately."""

    def compare(self, differences: list[str]) -> int:
        """Append what differs to `differences`, and return the number of rows in `main`."""
        both = self._joined("main", "x", "other", "y")
        differ = f"NOT ({self._missing('y')}) AND {self._differ(self._columns)}"
        here, only_here, changed = self._one(
            f"count(*), count(*) FILTER (WHERE {self._missing('y')}), count(*) FILTER (WHERE {differ})", both
        )
        (there,) = self._one("count(*)", f"other.{quoted(self._table)}")
        only_there = there - (here - only_here)
        if only_here:
            where = self._first("x", both, self._missing("y"))
            differences.append(f"table {self._table}: {_rows(only_here)} only in {self._a_name}{where}")
        if only_there:
            where = self._first("y", self._joined("other", "y", "main", "x"), self._missing("x"))
            differences.append(f"table {self._table}: {_rows(only_there)} only in {self._b_name}{where}")
        if changed:
            where = self._first("x", both, differ, self._columns)
            differences.append(f"table {self._table}: {_rows(changed)} with other content{where}")
        return here

    def _one(self, what: str, source: str) -> tuple[int, ...]:
        (row,) = run(self._connection, f"SELECT {what} FROM {source}")
        return cast(tuple[int, ...], row)

    def _first(self, side: str, source: str, condition: str, columns: Sequence[str] = ()) -> str:
        """The rowid of the first row that meets `condition`, and which of `columns` differ in it, as text to append.

        Empty for a table without rowids.
        """
        if self._key[0] not in _ROWIDS:
            return ""
        rowid = f"{side}.{self._key[0]}"
        selected = ", ".join([rowid, *(self._differ([column]) for column in columns)])
        sql = f"SELECT {selected} FROM {source} WHERE {condition} ORDER BY {rowid} LIMIT 1"
        ((row, *flags),) = cast(list[tuple[int, ...]], run(self._connection, sql))
        names = [column for column, differs in zip(columns, flags, strict=True) if differs]
        more = ", …" if len(names) > 5 else ""
        return f", first row {row}" + (f" ({', '.join(names[:5])}{more})" if names else "")

    def _joined(self, left: str, x: str, right: str, y: str) -> str:
        table = quoted(self._table)
        same = " AND ".join(f"{y}.{quoted(column)} = {x}.{quoted(column)}" for column in self._key)
        return f"{left}.{table} {x} LEFT JOIN {right}.{table} {y} ON {same}"

    def _missing(self, side: str) -> str:
        return f"{side}.{quoted(self._key[0])} IS NULL"

    @staticmethod
    def _differ(columns: Sequence[str]) -> str:
        """SQL that is true when any value differs, in type too: a plain comparison takes 1 and 1.0 for equal, and in
        some columns "a" and "A"."""
        x, y = (
            ", ".join(f"typeof({side}.{quoted(c)}), {side}.{quoted(c)} COLLATE BINARY" for c in columns)
            for side in ("x", "y")
        )
        return f"({x}) IS NOT ({y})"


def _shape(connection: apsw.Connection, schema: str, table: str) -> tuple[Sequence[str], Sequence[str]]:
    """The stored columns, and those of the row's key: the primary key of a table without rowids, else the rowid under a
    name that no column has (empty if columns have all its names)."""
    columns = run(connection, f"PRAGMA {schema}.table_xinfo({quoted(table)})")
    names = [str(name) for _, name, _, _, _, _, hidden in columns if not hidden]
    if any(row[4] for row in run(connection, f"PRAGMA {schema}.table_list({quoted(table)})")):
        ordered = sorted((int(str(pk)), str(name)) for _, name, _, _, _, pk, _ in columns if pk)
        return names, [name for _, name in ordered]
    taken = {name.lower() for name in names}
    return names, [name for name in _ROWIDS if name not in taken][:1]


def _schema_differences(connection: apsw.Connection, a_name: str, b_name: str) -> list[str]:
    a, b = (
        {
            (str(kind), str(name)): (table, sql)
            for kind, name, table, sql in run(
                connection, f"SELECT type, name, tbl_name, sql FROM {schema}.sqlite_schema"
            )
            if not str(name).startswith("sqlite_")
        }
        for schema in ("main", "other")
    )
    differences = []
    for kind, name in sorted(a.keys() | b.keys()):
        one, other = a.get((kind, name)), b.get((kind, name))
        if one is None or other is None:
            differences.append(f"{kind} {name} is only in {a_name if other is None else b_name}")
        elif one != other:
            differences.append(f"{kind} {name} is defined differently")
    return differences


def _sequence_differences(connection: apsw.Connection) -> list[str]:
    """Differences in `sqlite_sequence`: the largest id that each AUTOINCREMENT table has ever had."""
    here, there = (
        f"SELECT name, seq FROM {schema}.sqlite_sequence"
        if run(connection, f"SELECT 1 FROM {schema}.sqlite_schema WHERE name = 'sqlite_sequence'")
        else _NO_SEQUENCE
        for schema in ("main", "other")
    )
    either_way = (run(connection, f"{one} EXCEPT {two}") for one, two in ((here, there), (there, here)))
    tables = {str(name) for found in either_way for name, _ in found}
    return [f"the last automatic id of table {table} differs" for table in sorted(tables)]


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
