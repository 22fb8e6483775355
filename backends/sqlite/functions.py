"""The SQL functions that may be called on a connection: an allowlist, for every statement and every database file.

What is not on it is overridden on the connection by a function that refuses. So it holds wherever a call may stand (a
statement, a trigger, a view, a CHECK, a DEFAULT, an index), it costs a statement nothing, and nobody has to be asked.

Where the list comes from: all recorded nodes (one from its first start, four upgraded in place from databases of 2018
to 2023) and every migration in lightningd's `wallet/migrations.c` up to v26.06 call these five, and no other. What
SQLite's own ALTER TABLE calls (substr, printf, like, ...) are the built-in functions all the same: SQLite prefers them
for statements of its own. `CAST` is no function.
"""

from collections.abc import Callable
from typing import NoReturn

import apsw

NODES_CALL = frozenset({"coalesce", "max", "min", "replace", "strftime"})

WE_CALL = frozenset({"count", "typeof"})
"""What this package's own queries need, on the same connections."""

A_NODE_MAY_CALL = frozenset({"abs", "ifnull", "iif", "length", "lower", "nullif", "substr", "sum", "upper"})
"""No node does. Should a lightningd of tomorrow, its backup must be one that can be restored; and each of them takes no
more time than reading its arguments, and no more memory than they have."""

ALLOWED = NODES_CALL | WE_CALL | A_NODE_MAY_CALL

MAX_ARGUMENTS = 4
"""Of one call; a node's have three at most. Each is copied for the function that refuses, and that memory SQLite does
not count."""

LONGEST_SOUGHT = 16
"""Bytes that `replace` looks for at most; nodes look for a colon. SQLite compares at each place, so that a long text of
one letter, looked through for half of itself, takes hours in one step."""

_HARMLESS = apsw.SQLITE_INNOCUOUS | apsw.SQLITE_DETERMINISTIC
"""So that a schema with such a call can be read, and told by name, and only what really calls it is refused."""


class FunctionRefused(apsw.AuthError):
    """A statement, or something in the schema, called a function that is not on the list."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the function {name} is not allowed")
        self.name = name


def allow_only_known(connection: apsw.Connection) -> None:
    """Refuse, from here on, every function that is not on the list. Raises apsw.Error.

    A function that an extension registered for so many arguments is found before one that takes any number of them
    (`fts3_tokenizer` is such a one, and crashes): each number is overridden by itself.
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
    else:  # aggregates and window functions, or SQLite would only say that there is none of that kind
        refuse = _refusing(name)
        connection.create_window_function(name, lambda: (None, refuse, refuse, refuse, refuse), arguments)


def _refusing(name: str) -> Callable[..., NoReturn]:
    def refuse(*arguments: object) -> NoReturn:
        raise FunctionRefused(name)

    return refuse


class _Replace:
    """SQLite's own `replace`, for what nodes look for."""

    def __init__(self) -> None:
        self._sqlite: apsw.Connection | None = None

    def __call__(self, *arguments: "apsw.SQLiteValue") -> "apsw.SQLiteValue":
        text, sought, by = arguments
        if not isinstance(sought, str) or len(sought.encode()) > LONGEST_SOUGHT:
            raise FunctionRefused("replace")
        if self._sqlite is None:
            self._sqlite = apsw.Connection(":memory:")
        return self._sqlite.execute("SELECT replace(?, ?, ?)", (text, sought, by)).get
