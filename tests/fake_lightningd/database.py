"""The node's database: the standard library's SQLite as lightningd uses it, here or in a process that can be killed.

Run as a program, it is that process: `database.py PATH CACHE_PAGES SYNCHRONOUS`, one JSON request or reply per line.

The project reads databases through another SQLite library, and closing a file drops all POSIX locks that a process has
on it: a test that calls the project's code in its own process while the node runs uses `SeparateDatabase`.
"""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

NAME = "lightningd.sqlite3"
DEFAULT_CACHE_PAGES = -2000  # SQLite's own: 2000 KiB


class OutOfStep(Exception):
    """A statement or the optimistic lock failed: this is not the database that the calls were made for."""


class NodeDatabase(Protocol):
    """What a node does to its database."""

    def execute(self, statements: Sequence[str], *, transaction: bool) -> None:
        """Run them, in a transaction that stays open or outside any. OutOfStep if one fails."""

    def commit(self) -> None:
        """End the transaction, if one is open."""

    def die(self) -> None:
        """Die: what is not committed is lost."""

    def close(self) -> None:
        """Close it, at the end of a clean stop."""


class Database:
    """The database in this process; its death is a rollback.

    Only processes die here, not the power: nothing waits for the disk, unless `synchronous` is FULL as in lightningd.
    """

    def __init__(self, directory: Path, cache_pages: int = DEFAULT_CACHE_PAGES, synchronous: str = "OFF") -> None:
        self._connection = sqlite3.connect(directory / NAME, isolation_level=None)
        self._connection.execute(f"PRAGMA synchronous = {synchronous}")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.execute(f"PRAGMA cache_size = {cache_pages}")

    def execute(self, statements: Sequence[str], *, transaction: bool) -> None:
        try:
            if transaction:
                self._connection.execute("BEGIN")
            for sql in statements:
                changed = self._connection.execute(sql).rowcount
        except sqlite3.Error as error:
            raise OutOfStep(f"{error} in: {sql[:200]}") from error
        if statements and "'data_version' AND intval =" in statements[-1] and changed != 1:
            raise OutOfStep(f"Optimistic lock on the database failed: {statements[-1]}")

    def commit(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")

    def die(self) -> None:
        self._connection.close()

    def close(self) -> None:
        self._connection.close()


class SeparateDatabase:
    """The database in a process of its own, whose death is SIGKILL.

    A transaction larger than the cache (`partial(SeparateDatabase, cache_pages=10)` with `History.big`) has by then
    been written in part to the database file, and leaves a hot journal.
    """

    def __init__(self, directory: Path, cache_pages: int = DEFAULT_CACHE_PAGES, synchronous: str = "OFF") -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(directory), str(cache_pages), synchronous],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self._ask()

    def execute(self, statements: Sequence[str], *, transaction: bool) -> None:
        self._ask("execute", list(statements), transaction)

    def commit(self) -> None:
        self._ask("commit")

    def die(self) -> None:
        self._process.kill()
        self._process.communicate()

    def close(self) -> None:
        self._process.communicate()  # it ends at the end of its stdin
        assert self._process.returncode == 0, "the database's process failed"

    def _ask(self, *request: Any) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if request:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        failure = json.loads(self._process.stdout.readline())
        if failure is not None:
            raise OutOfStep(failure)


def committed_version(directory: Path) -> int | None:
    """The committed data version of the database in `directory`; None if it has none.

    It opens the database as lightningd would: a hot journal is rolled back.
    """
    try:
        return _value(directory / NAME, "SELECT intval FROM vars WHERE name = 'data_version'")
    except sqlite3.OperationalError:
        return None


def has_hot_journal(directory: Path) -> bool:
    """Whether a killed node left a journal, which the next process that opens the database rolls back."""
    journal = directory / f"{NAME}-journal"
    return journal.exists() and any(journal.read_bytes()[:8])


def contents(path: Path) -> dict[str, list[tuple[bytes, ...]]]:
    """Everything in a database file: its schema (under "") and each table's rows, as SQL literals in the file's order.

    Two databases with equal contents are the same to lightningd.
    """
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        schema = connection.execute("SELECT quote(type), quote(name), quote(sql) FROM sqlite_master ORDER BY 1, 2")
        found = {"": schema.fetchall()}
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1").fetchall():
            table = name.decode()
            columns = [row[1].decode() for row in connection.execute(f'PRAGMA table_info("{table}")')]
            quoted = ", ".join(f'quote("{column}")' for column in columns)
            found[table] = connection.execute(f'SELECT {quoted} FROM "{table}"').fetchall()
    return found


def _value(path: Path, sql: str) -> int | None:
    if not path.exists():
        return None
    with closing(sqlite3.connect(path)) as connection:
        row = connection.execute(sql).fetchone()
    return None if row is None else row[0]


def _serve(directory: Path, cache_pages: int, synchronous: str) -> None:
    with closing(Database(directory, cache_pages, synchronous)) as database:
        print("null", flush=True)
        for line in sys.stdin:
            failure = None
            try:
                match json.loads(line):
                    case ["execute", statements, transaction]:
                        database.execute(statements, transaction=transaction)
                    case ["commit"]:
                        database.commit()
            except OutOfStep as error:
                failure = str(error)
            print(json.dumps(failure), flush=True)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
