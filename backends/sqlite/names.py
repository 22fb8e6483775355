"""The names of tables: which there are, and how a statement says them."""

import apsw

from backends.sqlite.connection import run


def quoted(name: str) -> str:
    """The name as an identifier in a statement, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def tables(connection: apsw.Connection, schema: str) -> list[str]:
    """The names of the tables with stored rows; not SQLite's own (`sqlite_...`), which hold none of the node's data."""
    sql = f"SELECT name FROM {schema}.sqlite_schema WHERE type = 'table' AND rootpage > 0 ORDER BY name"
    return [str(name) for (name,) in run(connection, sql) if not str(name).startswith("sqlite_")]
