"""The check of a restored database whose snapshot was checked when it was made: of what the replay touched, no more.

No writer publishes a snapshot before `integrity_check` has passed for the very bytes that it holds, and whoever reads
it compares their SHA-256. So a table that no change of the log names is as it was then. docs/durability.md says when
this is relied on.
"""

import re
from collections.abc import Iterable

import apsw

from backends.sqlite.connection import CHECK_CACHE_KIB, faults, one_row, run
from backends.sqlite.in_parts import whole_errors

ALWAYS_WHOLE = 128 << 20
"""Bytes. A database of up to this size is always checked as a whole, which takes half a second."""

MAX_CHANGES = 50_000
"""With more changes than this in the log, the whole database is checked: replaying them takes longer than that."""

MAX_ROWS = 50_000
"""A touched table with more rows than this is checked by `quick_check`, which does not look up each row in each
index: looking up those of a large table takes as long as checking the whole database."""

_WRITES = re.compile(
    r"(?:(?P<deletes>DELETE FROM|(?:INSERT OR )?REPLACE INTO|UPDATE OR REPLACE)|INSERT (?:OR IGNORE )?INTO|UPDATE)"
    r"\s+(?P<table>\w+)(?=[\s(;]|\Z)",
    re.ASCII,
)


class Touched:
    """The tables that the changes of a log write to. What is not understood counts as a change to all of them."""

    def __init__(self) -> None:
        self.everything = False
        self._written, self._deleted_from = set[str](), set[str]()
        self._changes = 0

    def note(self, statements: Iterable[str]) -> None:
        """These statements of one change are about to be executed."""
        if self.everything:
            return
        self._changes += 1
        if self._changes > MAX_CHANGES or not isinstance(statements, list):  # not a list: too large for memory
            self.everything = True
            return
        for statement in statements:
            writes = _WRITES.match(statement)
            if writes is None or statement.find(";", 0, -1) >= 0:  # a semicolon: another statement may follow it
                self.everything = True
                return
            (self._deleted_from if writes["deletes"] else self._written).add(writes["table"].lower())

    def faults(self, connection: apsw.Connection) -> str | None:
        """The first faults found in what was touched, as SQLite words them, or None. Raises apsw.Error.

        Afterwards, `everything` says whether all was checked.
        """
        tables = None if self.everything else self._tables(connection)
        if tables is None:
            self.everything = True
            return whole_errors(connection)
        run(connection, f"PRAGMA cache_size = -{CHECK_CACHE_KIB}")
        for table in tables:
            rows = one_row(connection, f'SELECT count(*) FROM (SELECT 1 FROM "{table}" LIMIT {MAX_ROWS + 1})')
            check = "integrity_check" if rows is not None and rows[0] <= MAX_ROWS else "quick_check"  # type: ignore[operator]
            found = faults(connection, f'PRAGMA {check}("{table}")')
            if found is not None:
                return found
        return None

    def _tables(self, connection: apsw.Connection) -> list[str] | None:
        """The names of all tables that may have been written to; None if the schema has other ways to change rows."""
        ours = run(connection, "SELECT lower(name) FROM sqlite_schema WHERE type = 'table' AND rootpage > 0")
        existing = {str(name) for (name,) in ours}
        schema = run(connection, "SELECT type, sql FROM sqlite_schema")
        if any(_allows_other_ways(str(kind), str(sql)) for kind, sql in schema):
            return None
        if not self._written | self._deleted_from <= existing:
            return None
        actions = {name: list(_actions(connection, name)) for name in existing}
        written, deleted_from = set(self._written), set(self._deleted_from)
        grown = True
        while grown:  # what foreign keys do to the rows of other tables
            grown = False
            for child, keys in actions.items():
                for parent, on_update, on_delete in keys:
                    if child not in deleted_from and parent in deleted_from and on_delete == "CASCADE":
                        deleted_from.add(child)
                        grown = True
                    sets = on_delete.startswith("SET") and parent in deleted_from
                    follows = on_update != "NO ACTION" and parent in written | deleted_from
                    if child not in written and (sets or follows):
                        written.add(child)
                        grown = True
        return sorted(written | deleted_from)


def _allows_other_ways(kind: str, definition: str) -> bool:
    """Whether a statement may change rows of tables that it does not name, or of this one in another way than it says.

    A trigger does, a view may be what it names, and where a table is defined with ON CONFLICT REPLACE, a plain INSERT
    deletes rows. No lightningd makes any of these.
    """
    return kind not in ("table", "index") or "CONFLICT" in definition.upper() or "VIRTUAL" in definition.upper()


def _actions(connection: apsw.Connection, table: str) -> Iterable[tuple[str, str, str]]:
    """For each foreign key of the table: the table that it refers to, and what follows from an update or a delete."""
    for row in run(connection, f'PRAGMA foreign_key_list("{table}")'):
        yield str(row[2]).lower(), str(row[5]), str(row[6])
