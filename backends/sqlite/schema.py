"""Unknown objects: what a database's schema holds that no lightningd creates, and that would run inside lightningd.

All recorded nodes, and every migration of lightningd up to v26.06, create two kinds of objects: tables whose columns
have a type, literal defaults and foreign keys, and indexes of columns, one of them with a condition. A trigger, a view,
a virtual table, a CHECK, a generated column, or an expression as a default or in an index was added by somebody else.

A definition that is not plain ASCII, or contains a character that none of lightningd's contains, also counts as
unknown: SQLite might parse it differently from this module.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import apsw

from backends.text import printable

SHOWN = 20
"""Unknown objects that are listed by name; the rest are only counted."""

_MAX_TEXT = 1 << 16
"""Characters of one definition that are read; lightningd's largest has 5,000."""

_NAME = 60
"""Characters of a name that are shown."""

_SQLITES_OWN = re.compile(r"sqlite_(sequence|stat[1-4])")


@dataclass(frozen=True, slots=True)
class UnknownObjects:
    """The unknown objects of one database. False when there are none."""

    objects: tuple[str, ...] = ()
    """A printable description of each: its kind, its name, and what is unknown in it. At most SHOWN of them."""

    count: int = 0

    def __bool__(self) -> bool:
        return self.count > 0

    def sentence(self) -> str:
        """All of them in one line, the rest as a number."""
        more = f" and {self.count - len(self.objects)} more" if self.count > len(self.objects) else ""
        return ", ".join(self.objects) + more


NONE_UNKNOWN = UnknownObjects()


def unknown_objects(connection: apsw.Connection) -> UnknownObjects:
    """The objects in an open database's schema that no lightningd creates. Raises apsw.Error."""
    shown: list[str] = []
    count = 0
    query = (
        "SELECT CAST(type AS BLOB), CAST(name AS BLOB), CAST(tbl_name AS BLOB), rootpage, length(sql), "
        "CAST(substr(sql, 1, ?) AS BLOB) FROM sqlite_schema ORDER BY type, name, tbl_name, rowid"
    )
    for raw_kind, raw_name, raw_table, page, length, raw_sql in connection.execute(query, (_MAX_TEXT,)):
        kind, name, table, sql = map(_text, (raw_kind, raw_name, raw_table, raw_sql))
        what = _unknown_in(kind, name, page, length, sql)
        if what is None:
            continue
        count += 1
        if len(shown) < SHOWN:
            shown.append(_in_words(kind, name, table, what))
    return UnknownObjects(tuple(shown), count) if count else NONE_UNKNOWN


def _text(raw: bytes | None) -> str | None:
    """Text read as bytes, because text from a stranger's database may not be UTF-8."""
    return None if raw is None else raw.decode(errors="surrogateescape")


def _in_words(kind: str | None, name: str | None, table: str | None, what: str) -> str:
    on = f" on {printable(table, _NAME)}" if kind == "trigger" else ""
    return f"{printable(kind, 10)} {printable(name, _NAME)}{on}" + (f" ({what})" if what else "")


def _unknown_in(kind: str | None, name: str | None, page: object, length: object, sql: str | None) -> str | None:
    """What is unknown in an object; "" for the whole object; None when lightningd might have created it."""
    if kind not in ("table", "index") or not page or name is None:
        return "virtual" if kind == "table" else ""
    if sql is None:
        return None if kind == "index" and name.startswith("sqlite_autoindex_") else ""
    if not isinstance(length, int) or length > _MAX_TEXT:
        return "its definition"
    if name.lower().startswith("sqlite_") and not (kind == "table" and _SQLITES_OWN.fullmatch(name)):
        return ""
    tokens = _tokens(sql)
    if tokens is None:
        return "its definition"
    return _unknown_in_table(tokens) if kind == "table" else _unknown_in_index(tokens)


_TOKEN = re.compile(
    r"""
      (?P<space> [ \t\n\f\r]+ | --[^\n]*\n? | /\*.*?\*/ )
    | (?P<string> [xX]?'(?:[^']|'')*' )
    | (?P<quoted> "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^]]*\] )
    | (?P<word> [A-Za-z_][A-Za-z_0-9]* )
    | (?P<number> [0-9]+(?:\.[0-9]+)? (?![A-Za-z_0-9.]) )
    | (?P<sign> [(),;.+=<>!-] )
    """,
    re.VERBOSE | re.DOTALL,
)

_QUOTED = '"'
"""The token for any name in quotes: it is never a keyword, whatever the name is."""

_LITERAL = "'"
"""The token for any string or number."""


def _tokens(sql: str) -> Sequence[str] | None:
    """The words (in capitals) and signs of a definition; None when it contains something that no node's does.

    A string or a name in quotes may contain anything.
    """
    tokens: list[str] = []
    at = 0
    while at < len(sql):
        found = _TOKEN.match(sql, at)
        if found is None:
            return None
        at = found.end()
        if found.lastgroup == "space":
            continue
        text = {"string": _LITERAL, "number": _LITERAL, "quoted": _QUOTED}.get(found.lastgroup or "", found.group())
        tokens.append(text.upper())
    return tokens


_RUNS_IN_A_TABLE = {"CHECK": "CHECK", "AS": "a generated column", "GENERATED": "a generated column"}


def _unknown_in_table(tokens: Sequence[str]) -> str | None:
    if tokens[:2] != ["CREATE", "TABLE"]:
        return "virtual" if "VIRTUAL" in tokens[:2] else "its definition"
    for token, after in zip(tokens, [*tokens[1:], ""], strict=True):
        if token in _RUNS_IN_A_TABLE:
            return _RUNS_IN_A_TABLE[token]
        if token == "DEFAULT" and (after == "(" or after.startswith("CURRENT_")):
            return "an expression as a default"
    return "an expression" if set(tokens) & set("=<>!") else None


def _unknown_in_index(tokens: Sequence[str]) -> str | None:
    """What is unknown in an index; None if it is `CREATE [UNIQUE] INDEX name ON table (column, ...) [WHERE condition]`
    and nothing more."""
    rest = list(tokens)
    if rest[1:2] == ["UNIQUE"]:
        del rest[1]
    if rest[:2] != ["CREATE", "INDEX"] or rest[3:4] != ["ON"] or rest[5:6] != ["("] or ")" not in rest:
        return "its definition"
    end = rest.index(")")
    if any(not _is_column(column) for column in _divided(rest[6:end])):
        return "an expression"
    condition = [token for token in rest[end + 1 :] if token != ";"]
    if not condition:
        return None
    return None if condition[0] == "WHERE" and _is_plain(condition[1:]) else "its condition"


def _divided(tokens: Sequence[str]) -> list[list[str]]:
    """The tokens, split at the commas."""
    parts: list[list[str]] = [[]]
    for token in tokens:
        if token == ",":
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _is_column(tokens: Sequence[str]) -> bool:
    """Whether these tokens are a column's name, optionally with ASC or DESC."""
    is_name = bool(tokens) and (tokens[0] == _QUOTED or (tokens[0][0].isalpha() or tokens[0][0] == "_"))
    return is_name and not tokens[0].startswith("CURRENT_") and list(tokens[1:]) in ([], ["ASC"], ["DESC"])


_CALL_A_FUNCTION = frozenset({
    "LIKE", "GLOB", "REGEXP", "MATCH", "SELECT", "EXISTS", "RAISE", "CAST", "CASE", "COLLATE",
    "CURRENT_TIME", "CURRENT_DATE", "CURRENT_TIMESTAMP",
})  # fmt: skip
"""Keywords that call a function, or are equally foreign to the condition of a node's index."""

_BEFORE_A_BRACKET = frozenset({"IN", "AND", "OR", "NOT", "(", ",", "=", "<", ">", "!"})


def _is_plain(condition: Sequence[str]) -> bool:
    """Whether a condition only compares columns and literals, and calls nothing."""
    if set(condition) & (_CALL_A_FUNCTION | {"-", "+", "."}):
        return False
    before = ["(", *condition[:-1]]
    return all(b in _BEFORE_A_BRACKET for b, token in zip(before, condition, strict=True) if token == "(")
