"""The database file seen from outside: at which moments it holds exactly what was committed."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from backends.node.database_file import DatabaseFile
from backends.node.sync_point import fingerprint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "lightningd.sqlite3"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE vars (name TEXT)")
    return path


def test_database_file_at_rest_has_the_fingerprint_of_a_start(path: Path) -> None:
    file = DatabaseFile(path)
    assert file.committed() == fingerprint(path)
    file.close()


@pytest.mark.parametrize("link", [False, True], ids=["file", "link"])
def test_database_file_with_hot_journal_has_no_committed_fingerprint(path: Path, tmp_path: Path, link: bool) -> None:
    named = path
    if link:
        (tmp_path / "node").mkdir()
        named = tmp_path / "node" / path.name
        named.symlink_to(path)
    file = DatabaseFile(named)
    assert file.directory == tmp_path
    at_rest = file.committed()
    journal = path.with_name(path.name + "-journal")
    journal.write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7".ljust(512))
    assert file.committed() is None
    assert fingerprint(named) != at_rest
    journal.write_bytes(bytes(512))
    assert file.committed() == fingerprint(named) == at_rest
    journal.write_bytes(b"")
    assert file.committed() == at_rest
    file.close()


def test_missing_database_file_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DatabaseFile(tmp_path / "lightningd.sqlite3")
