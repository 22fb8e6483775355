"""A change: what one `db_write` call carries, and what its statements say about the version.

Facts about lightningd (v26.06): a transaction that changes anything ends with the bump of `data_version` (the UPDATE
that counts it up by one); a migration may also send a lone PRAGMA, with the version of the transaction just committed.
"""

import re
from collections.abc import Sequence
from zlib import crc32

from backends.sqlite_header import in_wal_mode

VERSIONS = 1 << 32
"""`data_version` is an unsigned 32-bit number and wraps to 0."""

MAX_CHANGE = 1 << 30
"""Bytes of SQL in one change; the largest recorded one has 21 kB."""

_BUMP = re.compile(
    r"UPDATE vars SET intval = intval \+ 1 WHERE name = 'data_version' AND intval = (\d{1,10});?\s*\Z",
    re.ASCII,  # SQLite does not accept other Unicode digits and spaces
)
_FOREIGN_KEYS = re.compile(r"\s*PRAGMA\s+foreign_keys\s*=\s*(ON|OFF)\s*;?\s*\Z", re.IGNORECASE | re.ASCII)


DATABASE_HEADER = 96
"""Bytes at the beginning of a SQLite file that hold its change counter, size, schema cookie and free list.

The four bytes after them are left out: they only say which version of SQLite wrote the file last, and lightningd's
SQLite is not the one that replays changes here.
"""

UNKNOWN_DATABASE = 0
"""The fingerprint of a database about which nothing is known: no real fingerprint has this value."""


def change_counter(header: bytes) -> int:
    """How many transactions have changed the file (bytes 24 to 28); 0 when it is too short to have a header."""
    return int.from_bytes(header[24:28], "big") if len(header) >= DATABASE_HEADER else 0


def database_fingerprint(header: bytes) -> int:
    """The fingerprint that a record keeps of the database before its change.

    `header` is the first DATABASE_HEADER bytes of the database file. They identify the commit of the database, and tell
    different histories apart (observed on a real node through the life of a channel). A new file is still empty; that
    is a valid fingerprint as well. In WAL mode the result is UNKNOWN_DATABASE: a commit does not change these bytes.
    """
    if in_wal_mode(header):
        return UNKNOWN_DATABASE
    return crc32(header) or 1


FOLLOWING = 0x4C4E4266
"""The `application_id` in the header of a copy that `backup-cli follow` keeps, until it is promoted; lightningd leaves
it at 0."""

_APPLICATION_ID = slice(68, 72)


def is_following(header: bytes) -> bool:
    """Whether these first bytes of a database file are those of a copy that follows a backup: no node may run from it,
    because it may be behind."""
    return header[_APPLICATION_ID] == FOLLOWING.to_bytes(4, "big")


class Change:
    """One `db_write` call: the version it was sent with and its SQL statements, in order.

    `database` is the fingerprint of the node's database before the change.
    """

    __slots__ = ("advances", "data_version", "database", "statements")

    def __init__(self, data_version: int, statements: Sequence[str], database: int = UNKNOWN_DATABASE) -> None:
        self.data_version, self.statements, self.database = data_version, statements, database
        bump = _BUMP.match(statements[-1]) if statements else None
        self.advances = bump is not None and int(bump[1]) % VERSIONS == (data_version - 1) % VERSIONS
        """Whether the call ends with the bump, so that the database was at `data_version - 1` before it."""

    @property
    def database_stood_at(self) -> int:
        """The version that the database had last committed when the call was made."""
        return previous(self.data_version) if self.advances else self.data_version

    def encode(self) -> bytes:
        """The statements as UTF-8, joined by NUL bytes (SQLite cannot execute a statement that contains one).

        Raises ValueError for a statement with a NUL, UnicodeEncodeError for a statement that is not valid Unicode.
        """
        joined = "\0".join(self.statements)
        if joined.count("\0") >= len(self.statements):
            raise ValueError("a statement contains a NUL byte, which SQLite cannot execute")
        return joined.encode()


def previous(version: int) -> int:
    """The version before this one; versions wrap at 2^32."""
    return (version - 1) % VERSIONS


def bumped_from(statement: str) -> int | None:
    """The version from which lightningd's bump counts up; None if the statement is not that bump."""
    bump = _BUMP.match(statement)
    return None if bump is None else int(bump[1])


def foreign_keys_setting(statements: Sequence[str]) -> bool | None:
    """True if the only statement is `PRAGMA foreign_keys = ON`, False if it is `... = OFF`, otherwise None.

    Only such a call runs outside a transaction, and only there does the PRAGMA have an effect.
    """
    if len(statements) != 1:
        return None
    found = _FOREIGN_KEYS.match(statements[0])
    return None if found is None else found[1].upper() == "ON"


WRAP_WINDOW = 1 << 16
"""A version this close to 2^32 may be followed by a small one. After any other, a small one means an emptied
database."""


def ahead(version: int, other: int) -> int:
    """How many changes `version` is ahead of `other`; negative if it is behind. Versions wrap at 2^32."""
    distance = version - other
    if other >= VERSIONS - WRAP_WINDOW and version < WRAP_WINDOW:
        return distance + VERSIONS
    if version >= VERSIONS - WRAP_WINDOW and other < WRAP_WINDOW:
        return distance - VERSIONS
    return distance
