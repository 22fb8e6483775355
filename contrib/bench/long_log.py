"""A long log: the recording, then its changes again and again, as in a node that pays and is paid all day.

A change is repeated if the database allows it; what can exist only once (a block, an invoice) is not repeated, nor is
a migration, which happens once and would copy whole tables of a large database.
"""

import re
import sqlite3
from pathlib import Path

from backends import backup_at
from backends.change import Change
from backends.sqlite.copy import nothing
from contrib.bench.contestants import Call

LOOPS = 20
BUMP = re.compile(r"(?<=AND intval = )\d+")
"""The version before, in the statement that counts it up."""


def long_log(calls: list[Call], loops: int = LOOPS) -> list[Call]:
    """The recorded calls, then `loops` times those of them that can be repeated, each with its own version."""
    again = repeatable(calls)
    longer = list(calls)
    version = calls[-1]["data_version"]
    for _ in range(loops):
        for call in again:
            bump = BUMP.sub(str(version), call["writes"][-1])
            version += 1
            # Copies, as a node would send them: the same few strings would stay in the processor's cache.
            copies = [statement.encode().decode() for statement in call["writes"][:-1]]
            longer.append({"data_version": version, "writes": [*copies, bump]})
    return longer


def repeatable(calls: list[Call]) -> list[Call]:
    """Those of the recorded changes that the database allows again and again, in this order."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.execute("PRAGMA foreign_keys = ON")
    for call in calls:
        for statement in call["writes"]:
            database.execute(statement)
    again = [call for call in calls if BUMP.search(call["writes"][-1]) and not _migrates(call)]
    passed = 0
    while passed < 2:  # a change that one round allows may fail in the next
        allowed = [call for call in again if _allows(database, call["writes"][:-1])]
        passed = passed + 1 if len(allowed) == len(again) else 0
        again = allowed
    database.close()
    return again


def _migrates(call: Call) -> bool:
    return any(statement.startswith(("CREATE", "ALTER", "DROP")) for statement in call["writes"])


def _allows(database: sqlite3.Connection, statements: list[str]) -> bool:
    database.execute("BEGIN")
    try:
        for statement in statements:
            database.execute(statement)
    except sqlite3.Error:
        database.execute("ROLLBACK")
        return False
    database.execute("COMMIT")
    return True


def stored(directory: Path, calls: list[Call], *, encrypted: bool = False) -> str:
    """Create a backup in `directory` with all these changes in its log, and return its URL.

    The key of an encrypted one is known to this process alone.
    """
    url = (directory / ("long-log-encrypted" if encrypted else "long-log")).as_uri()
    backup = backup_at(url)
    backup.create(nothing(), encrypt=(lambda key: None) if encrypted else None)
    writer = backup.open(lambda level, line: None, "0123456789abcdef")
    for number, call in enumerate(calls):
        writer.append(Change(call["data_version"], call["writes"]))
        if number % 100 == 0:
            writer.maintain()
    writer.close()
    return url
