"""What may be shown of a statement to anybody: its kind and its table. Its values are the node's secrets.

A backup may come from a stranger's disk, and in a damaged one a statement may begin in the middle of another. So only
what is recognised for certain is shown.
"""

import re
from collections.abc import Iterator
from itertools import islice

from backends.text import counted

_TOKEN = re.compile(
    r"""(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*"""
    r"""(?:(?P<word>[^\W\d]\w*)|"(?P<double>(?:[^"]|"")*)"|`(?P<back>(?:[^`]|``)*)`|\[(?P<square>[^\]]*)\]"""
    r"""|'(?P<single>(?:[^']|'')*)'|(?P<other>\S))""",
    re.ASCII | re.DOTALL,
)

_LOOKED_AT = 500
"""Characters of a statement that are examined, from its beginning; a table that is named later is not shown."""

_TOKENS = 12

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}", re.ASCII)
"""The form of the names of lightningd's tables, columns and indexes."""

_KINDS = (
    ("INSERT", "INTO"),
    ("REPLACE", "INTO"),
    ("UPDATE",),
    ("DELETE", "FROM"),
    ("ALTER", "TABLE"),
    *((verb, kind) for verb in ("CREATE", "DROP") for kind in ("TABLE", "INDEX", "VIEW", "TRIGGER")),
    ("CREATE", "UNIQUE", "INDEX"),
    ("CREATE", "VIRTUAL", "TABLE"),
    *(("CREATE", how, kind) for how in ("TEMP", "TEMPORARY") for kind in ("TABLE", "VIEW", "TRIGGER")),
    ("PRAGMA",),
)
"""Beginnings of statements that are followed by a name."""

_NAMELESS = frozenset(
    {
        *("SELECT", "VALUES", "WITH", "EXPLAIN", "ATTACH", "DETACH", "VACUUM", "ANALYZE", "REINDEX"),
        *("BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"),
    }
)

_ASIDE = (("IF", "NOT", "EXISTS"), ("IF", "EXISTS"))


def outline(statement: str) -> str:
    """A statement as `INSERT INTO payments`: printable, short, without any value. If its kind is not known:
    `a statement of 9 bytes`."""
    tokens = list(islice(_tokens(statement[:_LOOKED_AT]), _TOKENS))
    verb = tokens[0][0].upper() if tokens and not tokens[0][1] else ""
    if verb in _NAMELESS:
        return verb
    kind, rest = _kind(tokens)
    if kind:
        return f"{kind} {_named(rest)}"
    return f"a statement of {counted(len(statement.encode(errors='replace')), 'byte')}"


def plain_name(name: str) -> str:
    """The name of a table, column or function: unchanged if a node might use such a name, otherwise three dots."""
    return name if _NAME.fullmatch(name) else "..."


def _tokens(text: str) -> Iterator[tuple[str, bool]]:
    """Each token, and whether it was in quotes. A quote that is not closed ends the tokens."""
    position = 0
    while (found := _TOKEN.match(text, position)) is not None:
        position, kind = found.end(), str(found.lastgroup)
        token = found[kind]
        if kind == "other" and token in "\"'`[":
            return
        yield token, kind not in ("word", "other")


def _kind(tokens: list[tuple[str, bool]]) -> tuple[str, list[tuple[str, bool]]]:
    """The kind of a statement ("INSERT INTO"), and the tokens after it; "" when none of _KINDS fits."""
    words = ["" if quoted else token.upper() for token, quoted in tokens]
    for aside in _ASIDE:
        for at in range(1, min(5, len(words))):
            if tuple(words[at : at + len(aside)]) == aside:
                del words[at : at + len(aside)], tokens[at : at + len(aside)]
    if words[1:2] == ["OR"]:  # INSERT OR REPLACE INTO
        del words[1:3], tokens[1:3]
    for kind in _KINDS:
        if tuple(words[: len(kind)]) == kind:
            return " ".join(kind), tokens[len(kind) :]
    return "", []


def _named(tokens: list[tuple[str, bool]]) -> str:
    """The name at the beginning of `tokens`, without the name of a database before it."""
    if len(tokens) > 2 and tokens[1] == (".", False):
        tokens = tokens[2:]
    return plain_name(tokens[0][0]) if tokens else "..."
