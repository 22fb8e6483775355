"""`db_write` calls as lightningd makes them: recorded ones, and ones built statement by statement."""

import gzip
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

_PACKAGE = Path(__file__).parent
_RECORDINGS = _PACKAGE.parents[1] / "backup_cli" / "drill" / "recordings"

RECORDED_CALLS = _RECORDINGS / "fresh-channel.jsonl.gz"
"""A new node from its first call to a clean stop: a channel, 60 payments both ways, a mutual close."""

RECORDED_DATABASE = _RECORDINGS / "fresh-channel.sqlite3.gz"
"""That node's database after the stop."""

ANSWERING_PLUGIN = [sys.executable, str(_PACKAGE / "answering_plugin.py")]
"""The command of a plugin that answers "continue" to every call and does nothing else."""


@dataclass(frozen=True, slots=True)
class Call:
    """One `db_write`: the version it is sent with, and its SQL statements."""

    data_version: int
    writes: tuple[str, ...]

    @property
    def outside_transaction(self) -> bool:
        """Whether it is a lone PRAGMA, which has an effect only outside any transaction."""
        return len(self.writes) == 1 and self.writes[0].startswith("PRAGMA")


def read_recording(path: Path = RECORDED_CALLS, limit: int | None = None) -> Iterator[Call]:
    """The recorded calls in their order, or the first `limit` of them."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in islice(lines, limit):
            call = json.loads(line)
            yield Call(call["data_version"], tuple(call["writes"]))


def recorded_database(path: Path, source: Path = RECORDED_DATABASE) -> Path:
    """Unpack a recorded node's database to `path`."""
    with gzip.open(source) as packed, path.open("xb") as file:
        shutil.copyfileobj(packed, file)
    return path


def bump(version: int) -> str:
    """The last statement of every transaction: it takes the database from the version before to `version`."""
    before = (version - 1) % (1 << 32)
    return f"UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {before}"


def transaction(version: int, *statements: str) -> Call:
    """A transaction that takes the database to `version`."""
    return Call(version, (*statements, bump(version)))


def foreign_keys(version: int, *, on: bool) -> Call:
    """The lone PRAGMA of a migration, sent with the version of the transaction just committed."""
    return Call(version, (f"PRAGMA foreign_keys = {'ON' if on else 'OFF'};",))


def fresh_schema() -> Call:
    """A new node's first call, version 1: the tables that everything needs, as its migrations leave them."""
    return transaction(
        1,
        "CREATE TABLE version (version INTEGER) STRICT",
        "INSERT INTO version VALUES (1)",
        "CREATE TABLE vars (  name TEXT, val TEXT, PRIMARY KEY (name));",
        "CREATE TABLE db_upgrades (upgrade_from INTEGER, lightning_version TEXT);",
        "ALTER TABLE vars ADD COLUMN intval INTEGER",
        "ALTER TABLE vars ADD COLUMN blobval BLOB",
        "INSERT INTO vars (name, intval) VALUES ('data_version', 0);",
        "UPDATE version SET version=282;",
        "INSERT INTO db_upgrades VALUES (-1, 'v26.06.6');",
    )


class History:
    """Makes consecutive calls of one node, each fitting the one before; nothing happens until a node plays them."""

    def __init__(self, version: int = 0) -> None:
        """A node whose database is at `version`; at 0, begin with `first`."""
        self.version = version

    def first(self) -> Call:
        """The first call of a new node."""
        self.version = 1
        return fresh_schema()

    def transaction(self, *statements: str) -> Call:
        """The next transaction."""
        self.version = (self.version + 1) % (1 << 32)
        return transaction(self.version, *statements)

    def note(self, text: str = "") -> Call:
        """A small transaction that leaves a row of its own in `vars`; `text` may contain anything but NUL."""
        name, value = f"note {self.version + 1}", text.replace("'", "''")
        return self.transaction(f"INSERT INTO vars (name, val) VALUES ('{name}', '{value}');")

    def notes(self, count: int) -> list[Call]:
        """`count` notes."""
        return [self.note() for _ in range(count)]

    def big(self, size: int = 1 << 20, rows: int = 64) -> Call:
        """A transaction that adds about `size` bytes to the database, in `rows` rows."""
        blob = f"x'{'a5' * (size // rows)}'"
        prefix = f"INSERT INTO vars (name, blobval) VALUES ('big {self.version + 1}"
        return self.transaction(*(f"{prefix} {row}', {blob});" for row in range(rows)))

    def foreign_keys(self, *, on: bool) -> Call:
        """A lone PRAGMA at the present version."""
        return foreign_keys(self.version, on=on)
