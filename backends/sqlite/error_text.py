"""SQLite's error messages, reduced to what may be shown: SQLite quotes from statements and from a damaged schema.

Names of tables, columns and indexes are kept; anything else that SQLite puts into a message is left out. Of a message
that is not known here, only SQLite's error code is shown.
"""

import re

import apsw

from backends.sqlite.statement_outline import plain_name

_UNSAID: dict[type[Exception], str] = {apsw.FullError: "the disk is full", apsw.IOError: "the disk failed"}

NOT_UTF8 = "it holds text that is not UTF-8, which no node's database does"
FOREIGN_JOURNAL = (
    "the journal beside it names another file, which no node's journal does, and SQLite would look for that file and "
    "delete it"
)
SEVERAL_ROWS = "several rows where a node's database has one"
MANY_ROWS = "thousands of rows where a node's database has a few"
NOT_TO_BE_READ = "only the database and its journal may be read"

_OURS = frozenset({NOT_UTF8, FOREIGN_JOURNAL, SEVERAL_ROWS, MANY_ROWS, NOT_TO_BE_READ})
"""Our own messages, for errors raised where SQLite itself would have gone on."""

_WITHOUT_NAMES = frozenset(
    {
        "attempt to write a readonly database",
        "cannot commit - no transaction is active",
        "cannot start a transaction within a transaction",
        "constraint failed",
        "database disk image is malformed",
        "database is locked",
        "database or disk is full",
        "database schema has changed",
        "database schema is locked",
        "database table is locked",
        "datatype mismatch",
        "disk I/O error",
        "file is not a database",
        "FOREIGN KEY constraint failed",
        "incomplete input",
        "integer overflow",
        "interrupted",
        "large file support is disabled",
        "locking protocol",
        "not authorized",
        "out of memory",
        "parser stack overflow",
        "string or blob too big",
        "too many attached databases",
        "unable to open database file",
        "unsupported file format",
    }
)

_NAMES_FROM_THE_SCHEMA = tuple(
    re.compile(form, re.DOTALL)
    for form in (
        r"((?:UNIQUE|NOT NULL) constraint failed: )(.*)",
        r"(no such (?:table|index|view|trigger): )(.*)",
        r"(duplicate column name: )(.*)",
        r"((?:table|index|view|trigger|object name) )(.*)( already exists)",
        r"(table )(.*)( has \d+ columns but \d+ values were supplied)",
        r"(the function )(\w+)( is not allowed)",
        r"(too many arguments on function )(.*)",
        r"(foreign key mismatch - )(.*)( referencing )(.*)",
        r"(\d+ values for \d+ columns)",
        r"(Cannot add a (?:PRIMARY KEY|UNIQUE) column)",
        r"(Cannot add a REFERENCES column with non-NULL default value)",
        r"(Cannot add a NOT NULL column with default value NULL)",
    )
)
"""Messages that contain names: the groups are SQLite's words and names in turn. SQL allows no value where these name a
table or a column, so a value can never be taken for a name."""

_BEFORE_FOREIGN_TEXT = (
    "syntax error",
    "unrecognized token",
    "no such column",
    "no such function",
    "wrong number of arguments to function",
    "no such module",
    "ambiguous column name",
    "malformed database schema",
    "CHECK constraint failed",
)
"""Beginnings of messages that continue with a piece of the statement, or of a row taken for part of the schema. Only
the beginning is shown."""

_SYNTAX = re.compile(r'near ".*": syntax error', re.DOTALL)


def sqlite_words(error: Exception) -> str:
    """SQLite's message, printable and without values; for an error that is not SQLite's, the name of its class."""
    said = _said(error)
    if _SYNTAX.fullmatch(said):
        return "syntax error"
    for form in _NAMES_FROM_THE_SCHEMA:
        found = form.fullmatch(said)
        if found is not None:
            words = found.groups()
            return "".join(word if not at % 2 else _names(word) for at, word in enumerate(words))
    kept = next((words for words in _BEFORE_FOREIGN_TEXT if said.startswith(words)), None)
    if kept is not None or said in _WITHOUT_NAMES or said in _OURS or said in _UNSAID.values():
        return kept or said
    return _UNSAID.get(type(error)) or _code(error)


def whole_words(error: Exception) -> str:
    """SQLite's message with everything that it quotes: only for an operator who asked for it (--show-statements)."""
    return _said(error)


def _said(error: Exception) -> str:
    said = str(error).removeprefix(f"{type(error).__name__}: ")  # older APSW prefixes the exception's name
    # When a backup step fails, SQLite does not set the connection's message, and the text is only "not an error".
    return _UNSAID.get(type(error), said) if said in ("not an error", "error") else said


def _names(listed: str) -> str:
    """The names in a list such as `table.column, table.column`, quoted or not, each reduced by `plain_name`."""
    names = (name.strip('"').split(".") for name in listed.split(", "))
    return ", ".join(".".join(map(plain_name, parts)) for parts in names)


def _code(error: Exception) -> str:
    """SQLite's code for an error, such as `SQLITE_CONSTRAINT_TRIGGER`; for any other error its class: `ValueError`."""
    code = getattr(error, "extendedresult", 0)
    name = apsw.mapping_extended_result_codes.get(code) or apsw.mapping_result_codes.get(code)
    return str(name or type(error).__name__)
