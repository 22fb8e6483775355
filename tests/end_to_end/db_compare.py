"""Whether two databases are the same to lightningd, found out without any of the project's own code."""

import sqlite3
from contextlib import closing
from pathlib import Path

Everything = dict[str, list[tuple[bytes, ...]]]


def everything(path: Path) -> Everything:
    """The schema (under "") and every row with its rowid, of `sqlite_sequence` too, as SQL literals."""
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        found = {"": connection.execute("SELECT quote(type), quote(name), quote(sql) FROM sqlite_master").fetchall()}
        found[""].sort()
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in tables:
            found[name.decode()] = _rows(connection, name.decode())
    return found


def _rows(connection: sqlite3.Connection, table: str) -> list[tuple[bytes, ...]]:
    name = '"' + table.replace('"', '""') + '"'
    columns = [row[1].decode().replace('"', '""') for row in connection.execute(f"PRAGMA table_xinfo({name})")]
    values = ", ".join(f'quote("{column}")' for column in columns)
    try:
        return connection.execute(f"SELECT quote(rowid), {values} FROM {name} ORDER BY rowid").fetchall()
    except sqlite3.OperationalError:  # WITHOUT ROWID
        return sorted(connection.execute(f"SELECT {values} FROM {name}").fetchall())


def differences(restored: Path, own: Path) -> list[str]:
    """How the databases differ, and what SQLite's integrity check finds in the restored one; empty if all is well."""
    return faults(restored) + compared(everything(restored), everything(own))


def compared(restored: Everything, own: Everything) -> list[str]:
    """How the two databases differ, in sentences that explain a failed test."""
    found = []
    for table in sorted(restored.keys() | own.keys()):
        ours, theirs = restored.get(table), own.get(table)
        if ours is None or theirs is None:
            found.append(f"table {table} is only in {'the restored' if theirs is None else 'the node’s own'}")
        elif ours != theirs:
            only = [row for row in ours if row not in theirs], [row for row in theirs if row not in ours]
            found.append(f"{table or 'schema'}: only restored {only[0][:2]}, only the node’s {only[1][:2]}")
    return found


def faults(path: Path) -> list[str]:
    """What SQLite's integrity check complains about, and journal files left beside the database."""
    with closing(sqlite3.connect(path)) as connection:
        said = [row[0] for row in connection.execute("PRAGMA integrity_check")]
    beside = [path.name + suffix for suffix in ("-journal", "-wal", "-shm") if Path(f"{path}{suffix}").exists()]
    return [fault for fault in said if fault != "ok"] + beside
