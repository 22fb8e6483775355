"""What a change may do to the database that is being rebuilt: a backup may come from a stranger's disk.

Three things keep a change inside its file and its time. The connection has no extensions, no virtual tables, nothing
attached, and only the functions that a node calls (`connect`), so that a statement on tables can do no more than write
to them; SQLite asks `ReplayAuthorizer` about every action of all others; and it ends a change that runs on and on.
"""

import re
from collections.abc import Iterable

import apsw

from backends.sqlite.connection import STEPS_BETWEEN_CALLS
from backends.sqlite.statement_outline import plain_name

MAX_STEPS = 6_000_000_000
"""Virtual-machine steps of one change's long statements: 40 s here."""

_NODES_DO = frozenset(
    {
        apsw.SQLITE_SELECT,
        apsw.SQLITE_READ,
        apsw.SQLITE_RECURSIVE,
        apsw.SQLITE_INSERT,
        apsw.SQLITE_UPDATE,
        apsw.SQLITE_DELETE,
        apsw.SQLITE_CREATE_TABLE,
        apsw.SQLITE_CREATE_INDEX,
        apsw.SQLITE_CREATE_TRIGGER,
        apsw.SQLITE_CREATE_VIEW,
        apsw.SQLITE_ALTER_TABLE,
        apsw.SQLITE_DROP_TABLE,
        apsw.SQLITE_DROP_INDEX,
        apsw.SQLITE_DROP_TRIGGER,
        apsw.SQLITE_DROP_VIEW,
        apsw.SQLITE_REINDEX,
        apsw.SQLITE_ANALYZE,
        apsw.SQLITE_FUNCTION,  # the connection has only those that a node calls
    }
)

_RUNS_INSIDE_LIGHTNINGD = frozenset({apsw.SQLITE_CREATE_TRIGGER, apsw.SQLITE_CREATE_VIEW})
"""What a restore tells by name afterwards. Into a node's own database it is not written."""

PLAIN = (
    "UPDATE ",
    "INSERT ",
    "DELETE ",
    "ALTER TABLE ",
    "CREATE TABLE ",
    "CREATE INDEX ",
    "CREATE UNIQUE INDEX ",
    "DROP TABLE ",
    "DROP INDEX ",
)
"""How statements begin that write rows, or define tables and indexes, and do no more if they are one statement.

Nearly all are so. Asking about each column of each of them would take a fifth of the time of a replay.
"""


_MADE_WHEN_NAMED = re.compile(r"(pragma_(?!quick_check\Z)|jsonb?_(each|tree)\Z|carray\Z)", re.ASCII | re.IGNORECASE)
"""Tables that SQLite makes for whoever names them. Of these, it asks itself for one, for an ALTER TABLE."""

_NEVER_REPLAYED = re.compile(
    r"\s*(PRAGMA(?!\s+foreign_keys\b)|ATTACH|DETACH|VACUUM|BEGIN|COMMIT|END|ROLLBACK|SAVEPOINT|RELEASE"
    r"|CREATE\s+(VIRTUAL|TEMP|TEMPORARY))\b",
    re.ASCII | re.IGNORECASE,
)


def never_replayed(statements: Iterable[str]) -> str | None:
    """The first of a change's statements that `ReplayAuthorizer` would surely refuse when the backup is restored."""
    for statement in statements:
        if not statement.startswith(PLAIN) and _NEVER_REPLAYED.match(statement):
            return statement
    return None


class ReplayAuthorizer:
    """Answers SQLite's questions, and remembers in words what it refused."""

    def __init__(self, *, in_place: bool = False) -> None:
        """`in_place`: what is written to is a node's own database."""
        self.refused: str | None = None
        self._may = _NODES_DO - _RUNS_INSIDE_LIGHTNINGD if in_place else _NODES_DO
        self._calls = 0
        self._alone = False

    def begin_change(self, *, alone: bool = False) -> None:
        """From here on a new change is executed, of one statement `alone` or of several."""
        self.refused = None
        self._calls, self._alone = 0, alone

    def too_long(self) -> bool:
        """SQLite's progress handler, called each `STEPS_BETWEEN_CALLS` steps of one statement."""
        self._calls += 1
        if self._calls * STEPS_BETWEEN_CALLS <= MAX_STEPS:
            return False
        self.refused = "a statement that does not come to an end"
        return True

    def may(self, action: int, first: str | None, second: str | None, database: str | None, cause: str | None) -> int:
        """SQLite's authorizer: what the action is done to is in `first` and `second`."""
        if action in self._may and not (action == apsw.SQLITE_READ and _MADE_WHEN_NAMED.match(first or "")):
            return apsw.SQLITE_OK
        if action == apsw.SQLITE_PRAGMA and first == "foreign_keys" and not self._alone:
            return apsw.SQLITE_OK  # in a transaction it has no effect, as it had none at the node
        if action == apsw.SQLITE_PRAGMA and first == "quick_check":
            return apsw.SQLITE_OK  # asked by SQLite itself, for an ALTER TABLE of a STRICT table
        name = str(apsw.mapping_authorizer_function.get(action, action)).removeprefix("SQLITE_")
        self.refused = name if first is None else f"{name} {plain_name(first)}"
        return apsw.SQLITE_DENY
