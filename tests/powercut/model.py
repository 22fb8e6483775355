"""What the node's database holds after each of a recording's calls, worked out without plugin, backup or disk."""

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from tests.end_to_end.db_compare import everything
from tests.fake_lightningd import Call, recorded_database


def digest(database: Path) -> str:
    """A digest of everything in a database; equal for two databases that are the same to lightningd."""
    return hashlib.sha256(repr(sorted(everything(database).items())).encode()).hexdigest()


class Model:
    """The states that a node goes through; state `n` is after its first `n` calls."""

    def __init__(self, calls: Sequence[Call], scratch: Path, before: Path | None = None) -> None:
        """`before` is the packed database that the node had before the first of these calls."""
        path = scratch / "model.sqlite3"
        if before is not None:
            recorded_database(path, before)
        self.states = list(_states(calls, path))

    def behind(self, found: str, state: int) -> int | None:
        """How many calls the content with this digest is behind that state; None if it is no state up to that one."""
        for behind, known in enumerate(reversed(self.states[: state + 1])):
            if known == found:
                return behind
        return None


def _states(calls: Sequence[Call], path: Path) -> Iterator[str]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA foreign_keys = ON")
        yield digest(path)
        for call in calls:
            if not call.outside_transaction:
                connection.execute("BEGIN")
            for sql in call.writes:
                connection.execute(sql)
            if connection.in_transaction:
                connection.execute("COMMIT")
            yield digest(path)
    path.unlink()
