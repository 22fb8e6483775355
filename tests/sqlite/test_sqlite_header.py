"""The bytes that say that a database is in WAL mode, held against SQLite itself."""

from contextlib import closing
from pathlib import Path

import apsw
import pytest

from backends.change import UNKNOWN_DATABASE, database_fingerprint
from backends.sqlite_header import FILE_FORMAT, MAGIC, NOT_WAL, in_wal_mode


@pytest.mark.parametrize("versions", [b"\1\1", b"\1\2", b"\2\1", b"\2\2"])
def test_file_is_in_wal_mode_if_sqlite_opens_a_wal_for_it(tmp_path: Path, versions: bytes) -> None:
    path = tmp_path / "database"
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("CREATE TABLE t (a)")
    content = bytearray(path.read_bytes())
    assert content.startswith(MAGIC)
    assert content[FILE_FORMAT] == NOT_WAL
    content[FILE_FORMAT] = versions
    path.write_bytes(content)
    with closing(apsw.Connection(str(path))) as connection:
        ((mode,),) = connection.execute("PRAGMA journal_mode").fetchall()
        ((_,),) = connection.execute("SELECT count(*) FROM t").fetchall()
        opened = path.with_name("database-wal").exists()
    assert in_wal_mode(bytes(content)) == opened == (mode == "wal")
    assert (database_fingerprint(bytes(content[:96])) == UNKNOWN_DATABASE) == opened


def test_file_that_is_empty_or_cut_short_is_not_in_wal_mode() -> None:
    assert not in_wal_mode(b"")
    assert not in_wal_mode(MAGIC + b"\2\2\2")
