"""What a change may do to the database that is being rebuilt: a backup may come from a stranger's disk.

Three things confine a change to its file and to a bounded time. The connection (`connect`) has no extensions, no
virtual tables, no attached database, and only the functions that a node calls, so a plain statement on tables can only
write to them. For every other statement, SQLite asks `ReplayAuthorizer` about each action. And the authorizer ends a
change that runs too long.
"""

import re
from collections.abc import Iterable

import apsw

from backends.sqlite.connection import STEPS_BETWEEN_CALLS
from backends.sqlite.statement_outline import plain_name

MAX_STEPS = 6_000_000_000
"""Virtual-machine steps that the long statements of one change may take: 40 s on the machine where it was measured."""

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
        apsw.SQLITE_FUNCTION,  # the connection allows only those that a node calls
    }
)

_RUNS_INSIDE_LIGHTNINGD = frozenset({apsw.SQLITE_CREATE_TRIGGER, apsw.SQLITE_CREATE_VIEW})
"""Objects that run inside lightningd. A restore reports them by name; a replay into a node's own database refuses to
create them."""

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
"""Beginnings of statements that, if they are a single statement, only write rows or define tables and indexes.

Nearly all of a node's statements are of this kind. Asking the authorizer about each of their columns would take a fifth
of the time of a replay.
"""


_MADE_WHEN_NAMED = re.compile(r"(pragma_(?!quick_check\Z)|jsonb?_(each|tree)\Z|carray\Z)", re.ASCII | re.IGNORECASE)
"""Virtual tables that SQLite creates as soon as a statement names them. `pragma_quick_check` is left out: SQLite itself
reads from it for an ALTER TABLE."""

_NEVER_REPLAYED = re.compile(
    r"\s*(PRAGMA(?!\s+foreign_keys\b)|ATTACH|DETACH|VACUUM|BEGIN|COMMIT|END|ROLLBACK|SAVEPOINT|RELEASE"
    r"|CREATE\s+(VIRTUAL|TEMP|TEMPORARY))\b",
    re.ASCII | re.IGNORECASE,
)


def never_replayed(statements: Iterable[str]) -> str | None:
    """The first of a change's statements that `ReplayAuthorizer` is certain to refuse at a restore; None if there is
    none."""
    for statement in statements:
        if not statement.startswith(PLAIN) and _NEVER_REPLAYED.match(statement):
            return statement
    return None


class ReplayAuthorizer:
    """The authorizer and progress handler of a replay. `refused` says, for people, what it refused in this change."""

    def __init__(self, *, in_place: bool = False) -> None:
        """`in_place`: the replay writes to a node's own database."""
        self.refused: str | None = None
        self._may = _NODES_DO - _RUNS_INSIDE_LIGHTNINGD if in_place else _NODES_DO
        self._calls = 0
        self._alone = False

    def begin_change(self, *, alone: bool = False) -> None:
        """A new change begins; `alone`: it consists of a single statement."""
        self.refused = None
        self._calls, self._alone = 0, alone

    def too_long(self) -> bool:
        """Whether the change has run too long. For a progress handler that runs every STEPS_BETWEEN_CALLS steps."""
        self._calls += 1
        if self._calls * STEPS_BETWEEN_CALLS <= MAX_STEPS:
            return False
        self.refused = "a statement that does not end"
        return True

    def may(self, action: int, first: str | None, second: str | None, database: str | None, cause: str | None) -> int:
        """SQLite's authorizer callback: allow or deny `action`, whose objects are named in `first` and `second`."""
        if action in self._may and not (action == apsw.SQLITE_READ and _MADE_WHEN_NAMED.match(first or "")):
            return apsw.SQLITE_OK
        if action == apsw.SQLITE_PRAGMA and first == "foreign_keys" and not self._alone:
            return apsw.SQLITE_OK  # inside a transaction it has no effect, just as it had none on the node
        if action == apsw.SQLITE_PRAGMA and first == "quick_check":
            return apsw.SQLITE_OK  # run by SQLite itself for an ALTER TABLE of a STRICT table
        name = str(apsw.mapping_authorizer_function.get(action, action)).removeprefix("SQLITE_")
        self.refused = name if first is None else f"{name} {plain_name(first)}"
        return apsw.SQLITE_DENY
