"""Random SQL of the kinds that lightningd writes; any of it can follow any other, whatever was committed before."""

import random
from collections.abc import Callable

from tests.fake_lightningd import Call, foreign_keys, fresh_schema, transaction
from tests.fake_lightningd.calls import bump

SCHEMA = (
    "CREATE TABLE parents (id INTEGER PRIMARY KEY, kept TEXT)",
    "CREATE TABLE children (id INTEGER PRIMARY KEY, parent REFERENCES parents(id) ON DELETE CASCADE, note BLOB)",
    "CREATE INDEX children_of ON children (parent)",
    "CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT)",
    "CREATE TABLE pairs (a TEXT, b INTEGER, c, PRIMARY KEY (a, b)) WITHOUT ROWID",
    "CREATE TABLE strict_ones (id INTEGER PRIMARY KEY, n INT, t TEXT, x BLOB, r REAL) STRICT",
    "CREATE TABLE loose (x, y)",
    "CREATE TABLE wide (id INTEGER PRIMARY KEY, a TEXT UNIQUE)",
)

ODD = (
    "",
    "it's",
    "a;b -- c",
    "/* not a comment",
    "*/",
    "line\nline\r\n\tend",
    '"quoted" `ticks` [brackets]',
    "x'00'",
    "naïve ☃ 𝄞 \u2028 \u202e",
    "\x01\x7f\u0085\ufeff",
    "%s {} \\ ?1 :a @b $c",
    "'" * 7,
    "lange " * 300,
)


def quoted(text: str) -> str:
    """The text as an SQL literal, the way SQLite itself expands it."""
    return "'" + text.replace("'", "''") + "'"


def blob(chance: random.Random) -> str:
    """A literal of bytes, mostly small ones."""
    return f"x'{chance.randbytes(chance.choice((0, 1, 32, 33, 300, 2500))).hex()}'"


def value(chance: random.Random) -> str:
    """A literal of any kind."""
    kind = chance.randrange(6)
    if kind == 0:
        return "NULL"
    if kind == 1:
        return str(chance.choice((0, 1, -1, (1 << 63) - 1, -(1 << 63), chance.randrange(1 << 40))))
    if kind == 2:
        return repr(chance.choice((0.5, -1e300, 1e-300, chance.random())))
    return blob(chance) if kind == 3 else text(chance)


def text(chance: random.Random) -> str:
    """A literal of odd text."""
    return quoted(chance.choice(ODD))


def _parent(chance: random.Random) -> str:
    return f"INSERT OR REPLACE INTO parents VALUES ({chance.randrange(20)}, {text(chance)})"


def _child(chance: random.Random) -> str:
    some = f"SELECT id, {blob(chance)} FROM parents ORDER BY id LIMIT 1 OFFSET {chance.randrange(6)}"
    return f"INSERT INTO children (parent, note) {some}"


def _cascade(chance: random.Random) -> str:
    return f"DELETE FROM parents WHERE id % 5 = {chance.randrange(5)}"


def _event(chance: random.Random) -> str:
    return f"INSERT INTO events (what) VALUES ({text(chance)})"


def _forget_events(chance: random.Random) -> str:
    return f"DELETE FROM events WHERE id % 3 = {chance.randrange(3)} OR id > 40"


def _pair(chance: random.Random) -> str:
    return f"INSERT OR REPLACE INTO pairs VALUES ({text(chance)}, {chance.randrange(5)}, {value(chance)})"


def _unpair(chance: random.Random) -> str:
    return f"DELETE FROM pairs WHERE b = {chance.randrange(5)}"


def _strict(chance: random.Random) -> str:
    row = f"{chance.randrange(30)}, {chance.randrange(-9, 9)}, {text(chance)}, {blob(chance)}, {chance.random()!r}"
    return f"INSERT OR REPLACE INTO strict_ones VALUES ({row})"


def _update(chance: random.Random) -> str:
    return f"UPDATE strict_ones SET n = n + 1, t = {text(chance)} WHERE id < {chance.randrange(30)}"


def _loose(chance: random.Random) -> str:
    return f"INSERT INTO loose VALUES ({value(chance)}, {value(chance)})"


def _reuse_rowids(chance: random.Random) -> str:
    """Delete rows, so that their rowids are given to later ones."""
    return f"DELETE FROM loose WHERE rowid > {chance.randrange(30)} OR rowid % 4 = {chance.randrange(4)}"


def _wide(chance: random.Random) -> str:
    return f"INSERT OR REPLACE INTO wide (id, a) VALUES ({chance.randrange(9)}, {text(chance)})"


_ROWS: tuple[Callable[[random.Random], str], ...] = (
    _parent, _parent, _child, _child, _cascade, _event, _event, _forget_events, _pair, _pair, _unpair,
    _strict, _update, _loose, _loose, _reuse_rowids, _wide,
)  # fmt: skip


def rows(chance: random.Random, most: int = 6) -> list[str]:
    """At most `most` statements on rows, each ending as lightningd's do, with a ';' or without."""
    return [chance.choice(_ROWS)(chance) + chance.choice(("", ";")) for _ in range(chance.randint(1, most))]


def _tables(chance: random.Random, version: int) -> list[str]:
    """What a migration does to tables; `version` makes a name new."""
    kind = chance.randrange(4)
    if kind == 0:
        return [f"ALTER TABLE wide ADD COLUMN c{version} TEXT DEFAULT {text(chance)};"]
    if kind == 1:
        return ["DROP TABLE IF EXISTS spare", f"CREATE TABLE spare (a, b{version} PRIMARY KEY) WITHOUT ROWID"]
    if kind == 2:
        return [f"CREATE INDEX IF NOT EXISTS events_{version % 3} ON events (what)", "DROP INDEX IF EXISTS events_1;"]
    return [
        "CREATE TABLE wide_new (id INTEGER PRIMARY KEY, a TEXT UNIQUE)",
        "INSERT INTO wide_new SELECT id, a FROM wide",
        "DROP TABLE wide",
        "ALTER TABLE wide_new RENAME TO wide;",
    ]


def _rebuild_parents() -> list[str]:
    """Rebuild a table as a migration does. With foreign keys on, every child would go with the dropped table."""
    return [
        "CREATE TABLE parents_new (id INTEGER PRIMARY KEY, kept TEXT)",
        "INSERT INTO parents_new SELECT id, kept FROM parents",
        "DROP TABLE parents",
        "ALTER TABLE parents_new RENAME TO parents",
    ]


def first_call() -> Call:
    """A new node's first call, with all these tables."""
    fresh = fresh_schema()
    return Call(1, (*fresh.writes[:-1], *SCHEMA, bump(1)))


def some_calls(chance: random.Random, version: int, *, without_foreign_keys: bool = False) -> list[Call]:
    """What a node at `version` does next: a transaction, or a migration with its lone PRAGMAs.

    `without_foreign_keys`: they are off on this connection, so that the migration is under way.
    """
    if without_foreign_keys:
        return [transaction(version + 1, *_rebuild_parents()), foreign_keys(version + 1, on=True)]
    kind = chance.randrange(12)
    if kind == 0:
        off, on = foreign_keys(version, on=False), foreign_keys(version + 1, on=True)
        return [off, transaction(version + 1, *_rebuild_parents(), *rows(chance)), on]
    if kind == 1:
        return [transaction(version + 1, *_tables(chance, version + 1), *rows(chance))]
    return [transaction(version + 1, *rows(chance))]
