"""The first bytes of a SQLite database file (sqlite.org/fileformat2.html), as far as several modules read them."""

MAGIC = b"SQLite format 3\0"
"""What every database file begins with. One that is still empty has no bytes at all."""

FILE_FORMAT = slice(18, 20)
"""The two bytes that say how the file is written and how it is read: 1 with a rollback journal, 2 in WAL mode."""

NOT_WAL = b"\1\1"
"""These two bytes of a database with a rollback journal."""


def in_wal_mode(header: bytes) -> bool:
    """Whether a file that begins with these bytes is in WAL mode: then its newest changes may be in a file beside it,
    and SQLite makes files there even to read it.

    The second byte alone says so, as for SQLite, which looks at nothing else before it opens a WAL. SQLite itself
    always sets both; a file that somebody else has made may say 1 and 2.
    """
    return header[19:20] == b"\2"
