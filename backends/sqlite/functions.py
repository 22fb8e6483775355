"""The SQL functions that may be called on a connection: an allowlist for every statement and every database file.

Every other function is overridden on the connection by one that refuses. That works wherever a call may be (in a
statement, a trigger, a view, a CHECK, a DEFAULT, an index), costs a statement nothing, and needs no authorizer.

Where the list comes from: all recorded nodes (one from its first start, four upgraded in place from databases of 2018
to 2023) and every migration in lightningd's `wallet/migrations.c` up to v26.06 call the five of NODES_CALL, and no
others. SQLite's own ALTER TABLE calls more (substr, printf, like, ...), but still reaches the built-in ones: SQLite
prefers them for its own statements. `CAST` is not a function.
"""

from collections.abc import Callable
from typing import NoReturn

import apsw

NODES_CALL = frozenset({"coalesce", "max", "min", "replace", "strftime"})

WE_CALL = frozenset({"count", "typeof"})
"""Functions that this package's own queries call on the same connections."""

A_NODE_MAY_CALL = frozenset({"abs", "ifnull", "iif", "length", "lower", "nullif", "substr", "sum", "upper"})
"""Functions that no node calls today. If a future lightningd does, its backup must still be restorable. None of them
takes more time than reading its arguments, or more memory than they occupy."""

ALLOWED = NODES_CALL | WE_CALL | A_NODE_MAY_CALL

MAX_ARGUMENTS = 4
"""Arguments of one call; a node's calls have at most three. Each is copied for a function that refuses, and SQLite's
memory limit does not count those copies."""

LONGEST_SOUGHT = 16
"""Bytes of the longest text that `replace` may search for; nodes search for a colon. SQLite compares at every position,
so searching a long run of one letter for a run half as long takes hours in a single step."""

_HARMLESS = apsw.SQLITE_INNOCUOUS | apsw.SQLITE_DETERMINISTIC
"""Flags with which a schema that contains such a call can still be read and its objects named: only what really calls
the function is refused."""


class FunctionRefused(apsw.AuthError):
    """A statement, or something in the schema, called the function `name`, which is not on the allowlist."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the function {name} is not allowed")
        self.name = name


def allow_only_known(connection: apsw.Connection) -> None:
    """From here on, refuse every function that is not on the allowlist. Raises apsw.Error.

    SQLite prefers a function that an extension registered for a fixed number of arguments to one that takes any number
    (`fts3_tokenizer` is registered so, and crashes), so each number is overridden separately.
    """
    connection.limit(apsw.SQLITE_LIMIT_FUNCTION_ARG, MAX_ARGUMENTS)
    found = list(connection.execute("PRAGMA function_list"))
    kinds = {name: kind for name, _, kind, *_ in found if name not in ALLOWED}
    numbers = {(name, max(arguments, -1)) for name, _, _, _, arguments, _ in found} | {(name, -1) for name in kinds}
    for name, arguments in numbers:
        if name in kinds:
            _override(connection, name, kinds[name], arguments)
    connection.create_scalar_function("replace", _Replace(), 3, flags=_HARMLESS)


def _override(connection: apsw.Connection, name: str, kind: str, arguments: int) -> None:
    if kind == "s":
        connection.create_scalar_function(name, _refusing(name), arguments, flags=_HARMLESS)
    else:  # an override as a scalar would make SQLite report only that it is no aggregate or window function
        refuse = _refusing(name)
        connection.create_window_function(name, lambda: (None, refuse, refuse, refuse, refuse), arguments)


def _refusing(name: str) -> Callable[..., NoReturn]:
    def refuse(*arguments: object) -> NoReturn:
        raise FunctionRefused(name)

    return refuse


class _Replace:
    """SQLite's own `replace`, which refuses to search for more than LONGEST_SOUGHT bytes."""

    def __init__(self) -> None:
        self._sqlite: apsw.Connection | None = None

    def __call__(self, *arguments: "apsw.SQLiteValue") -> "apsw.SQLiteValue":
        text, sought, by = arguments
        if not isinstance(sought, str) or len(sought.encode()) > LONGEST_SOUGHT:
            raise FunctionRefused("replace")
        if self._sqlite is None:
            self._sqlite = apsw.Connection(":memory:")
        return self._sqlite.execute("SELECT replace(?, ?, ?)", (text, sought, by)).get
