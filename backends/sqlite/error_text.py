"""SQLite's own words, as far as they may be shown: it quotes from statements, and from the rows of a damaged schema.

Names of tables, columns and indexes stay; everything else that SQLite puts into a sentence of its own is left out, and
of a sentence that is not known here only SQLite's code is shown.
"""

import re

import apsw

from backends.sqlite.statement_outline import plain_name

_UNSAID: dict[type[Exception], str] = {apsw.FullError: "the disk is full", apsw.IOError: "the disk failed"}

NOT_UTF8 = "it holds text that is no UTF-8, as no node's does"
FOREIGN_JOURNAL = "the journal beside it names another file, as no node's does, which SQLite would look for and delete"
SEVERAL_ROWS = "several rows where a node's database has one"
MANY_ROWS = "thousands of rows where a node's database has a few"
NOT_TO_BE_READ = "only the database and its journal are to be read"

_OURS = frozenset({NOT_UTF8, FOREIGN_JOURNAL, SEVERAL_ROWS, MANY_ROWS, NOT_TO_BE_READ})
"""What we say ourselves where SQLite would have gone on."""

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
"""SQLite's words and names in turn. Where a table is named, a value cannot stand, or the statement is none at all."""

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
"""What is kept of a sentence that goes on with a piece of the statement, or of a row taken for the schema's."""

_SYNTAX = re.compile(r'near ".*": syntax error', re.DOTALL)


def sqlite_words(error: Exception) -> str:
    """What SQLite says, printable and without values; for another error its kind."""
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
    """SQLite's own words with what they quote: only for whoever has asked to see the statements, too."""
    return _said(error)


def _said(error: Exception) -> str:
    said = str(error).removeprefix(f"{type(error).__name__}: ")  # older APSW puts the name of the exception before them
    # A copy that fails does not tell its connection.
    return _UNSAID.get(type(error), said) if said in ("not an error", "error") else said


def _names(listed: str) -> str:
    """`table.column, table.column`, quoted or not."""
    names = (name.strip('"').split(".") for name in listed.split(", "))
    return ", ".join(".".join(map(plain_name, parts)) for parts in names)


def _code(error: Exception) -> str:
    """`SQLITE_CONSTRAINT_TRIGGER`, or `ValueError`."""
    code = getattr(error, "extendedresult", 0)
    name = apsw.mapping_extended_result_codes.get(code) or apsw.mapping_result_codes.get(code)
    return str(name or type(error).__name__)
