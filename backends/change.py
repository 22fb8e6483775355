"""A change: what one `db_write` call carries, and what its statements say about the version.

Facts about lightningd (v26.06): a transaction that changes anything ends with the bump of `data_version`;
a migration may also send a lone PRAGMA, with the version of the transaction just committed.
"""

import re
from collections.abc import Sequence
from zlib import crc32

VERSIONS = 1 << 32
"""`data_version` is an unsigned 32-bit number and wraps to 0."""

MAX_CHANGE = 1 << 30
"""Bytes of SQL in one change; the largest recorded one has 21 kB."""

_BUMP = re.compile(
    r"UPDATE vars SET intval = intval \+ 1 WHERE name = 'data_version' AND intval = (\d{1,10});?\s*\Z",
    re.ASCII,  # other digits and blanks are none to SQLite
)
_FOREIGN_KEYS = re.compile(r"\s*PRAGMA\s+foreign_keys\s*=\s*(ON|OFF)\s*;?\s*\Z", re.IGNORECASE | re.ASCII)


DATABASE_HEADER = 96
"""Bytes at the beginning of a SQLite file that hold its change counter, size, schema cookie and free list.

The four after them only say which version of SQLite wrote it last: lightningd's is not the one that replays here.
"""

UNKNOWN_DATABASE = 0
"""The fingerprint of a database that nothing is known of: it equals no other."""


def database_fingerprint(header: bytes) -> int:
    """What a record remembers of the database before its change, given the file's first DATABASE_HEADER bytes.

    They tell at which commit of which line a database stands (seen on a real node through a channel's life). A new
    file has none yet, and that is a fingerprint, too. In WAL mode they tell nothing: a commit leaves them alone.
    """
    if header[18:20] == b"\2\2":
        return UNKNOWN_DATABASE
    return crc32(header) or 1


class Change:
    """One `db_write` call: the version it was sent with and its SQL statements, in order.

    `database` is the fingerprint of the node's database before the change.
    """

    __slots__ = ("advances", "data_version", "database", "statements")

    def __init__(self, data_version: int, statements: Sequence[str], database: int = UNKNOWN_DATABASE) -> None:
        self.data_version, self.statements, self.database = data_version, statements, database
        bump = _BUMP.match(statements[-1]) if statements else None
        self.advances = bump is not None and int(bump[1]) % VERSIONS == (data_version - 1) % VERSIONS
        """Whether the call ends with the bump, so that the database stood at `data_version - 1` before it."""

    @property
    def database_stood_at(self) -> int:
        """The version that the database had committed when the call was made."""
        return previous(self.data_version) if self.advances else self.data_version

    def encode(self) -> bytes:
        """The statements as UTF-8, joined by NUL bytes (SQLite's own statements cannot contain one).

        Raises ValueError for a statement with a NUL and UnicodeEncodeError for one that is no Unicode text.
        """
        joined = "\0".join(self.statements)
        if joined.count("\0") >= len(self.statements):
            raise ValueError("a statement contains a NUL byte, which SQLite cannot execute")
        return joined.encode()


def previous(version: int) -> int:
    """The version before this one."""
    return (version - 1) % VERSIONS


def bumped_from(statement: str) -> int | None:
    """The version from which this statement, if it is lightningd's bump, counts up; None for any other."""
    bump = _BUMP.match(statement)
    return None if bump is None else int(bump[1])


def foreign_keys_setting(statements: Sequence[str]) -> bool | None:
    """True or False when the statements are a lone `PRAGMA foreign_keys = ON` or `OFF`, else None.

    Only such a call runs outside any transaction, and only there does the PRAGMA have an effect.
    """
    if len(statements) != 1:
        return None
    found = _FOREIGN_KEYS.match(statements[0])
    return None if found is None else found[1].upper() == "ON"


WRAP_WINDOW = 1 << 16
"""How near to 2^32 a version must be for a small one to come after it; elsewhere a small one is an emptied database."""


def ahead(version: int, other: int) -> int:
    """By how many changes `version` is ahead of `other`; negative when it is behind. Versions wrap at 2^32."""
    distance = version - other
    if other >= VERSIONS - WRAP_WINDOW and version < WRAP_WINDOW:
        return distance + VERSIONS
    if version >= VERSIONS - WRAP_WINDOW and other < WRAP_WINDOW:
        return distance - VERSIONS
    return distance
