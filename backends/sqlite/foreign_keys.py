"""Foreign keys that are violated: rows that refer to missing rows. A node's own database may have some."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from backends.sqlite.connection import error_text, sqlite_errors
from backends.sqlite.names import quoted, tables
from backends.sqlite.recovered_copy import recovered_copy
from backends.sqlite.sparing import opened_sparingly
from backends.text import counted

_Found = dict[tuple[str, int], tuple[int, int | None]]
"""By the table that rows refer to, and the key's number: how many refer to missing rows, and the rowid of the first."""


@dataclass(slots=True)
class ForeignKeys:
    """What a check of a whole database has found out about its foreign keys on the way."""

    complete: bool = False
    """Whether it has looked at all of them. Only then does the rest count."""
    violated: dict[str, _Found] = field(default_factory=dict)
    """By the table with the key."""

    def look_at(self, connection: apsw.Connection, table: str) -> None:
        """Add what is violated in the rows of this table that the connection shows. Raises apsw.Error."""
        found = self.violated.setdefault(table, {})
        for _, rowid, parent, key in connection.execute(f"PRAGMA foreign_key_check({quoted(table)})"):
            count, first = found.get((parent, key), (0, rowid))
            found[parent, key] = count + 1, first if first is None or rowid is None else min(first, rowid)


def foreign_key_violations(path: Path, known: ForeignKeys | None = None) -> list[str]:
    """A sentence for each foreign key that is violated: how many rows refer to missing rows.

    A node's own database may have violations, so a backup that has the same ones is still good. What is `known` of this
    database is not looked for again. A hot journal or a WAL is recovered as SQLite would when the node starts, but in a
    copy in the temporary directory. Raises Busy, Corrupt or BackupError.
    """
    if known is not None and known.complete:
        return [sentence for table in sorted(known.violated) for sentence in _sentences(table, known.violated[table])]
    sentences = []
    with recovered_copy(path) as file, sqlite_errors(path), opened_sparingly(file) as connection:
        for table in tables(connection, "main"):
            looking = ForeignKeys()
            try:
                looking.look_at(connection, table)
            except apsw.SQLError as error:
                sentences.append(f"the foreign keys of table {table} cannot be checked: {error_text(error)}")
            sentences += _sentences(table, looking.violated[table])
    return sentences


def _sentences(table: str, found: _Found) -> Iterator[str]:
    def order(key: tuple[str, int]) -> tuple[int, int]:
        return found[key][1] or 0, key[1]

    for parent, number in found if any(first is None for _, first in found.values()) else sorted(found, key=order):
        count, first = found[parent, number]
        where = "" if first is None else f", first in row {first}"
        refer = f"{counted(count, 'row')} {'refers' if count == 1 else 'refer'}"
        missing = f"{'a missing row' if count == 1 else 'missing rows'} of {parent}"
        yield f"table {table}: {refer} to {missing}{where}"
