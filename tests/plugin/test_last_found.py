"""When a database that was to be brought forward counts as touched by something else since."""

import os
import time
from pathlib import Path

from backends.sqlite.as_found import AsFound
from backends.sqlite.source import DatabaseState
from plugin.last_found import FOUND_FILE, LastFound, last_found, leads_to
from tests.fake_lightningd.database import NAME

CRASHED = time.time() - 86400


def database_at(directory: Path, version: int, written: float) -> AsFound:
    """A database file with this modification time, and what is found in it."""
    path = directory / NAME
    path.write_bytes(b"a database")
    os.utime(path, (written, written))
    return AsFound(DatabaseState(version, None, True, False), b"header %d" % version)


def about_to_be_brought_forward(directory: Path) -> None:
    found = last_found(directory, database_at(directory, 7, CRASHED))
    assert found is not None
    leads_to(directory, found, [8, 9])


def test_interrupted_roll_forward_does_not_count_as_touched(tmp_path: Path) -> None:
    about_to_be_brought_forward(tmp_path)
    for _ in range(2):
        found = last_found(tmp_path, database_at(tmp_path, 8, time.time()))
        assert found is not None
        assert found.written < CRASHED + 1


def test_foreign_change_long_after_an_interrupted_roll_forward_counts_as_touched(tmp_path: Path) -> None:
    """The start failed, and a run without the plugin committed one change of its own."""
    about_to_be_brought_forward(tmp_path)
    noted = time.time() - 3600
    os.utime(tmp_path / FOUND_FILE, (noted, noted))
    found = last_found(tmp_path, database_at(tmp_path, 8, time.time()))
    assert found == LastFound(8, found.database if found else 0, (tmp_path / NAME).stat().st_mtime)


def test_journal_rolled_back_after_an_interrupted_roll_forward_does_not_count_as_touched(tmp_path: Path) -> None:
    """A start finds the interrupted state and is refused, and lightningd rolls a journal back long afterwards."""
    about_to_be_brought_forward(tmp_path)
    last_found(tmp_path, database_at(tmp_path, 8, time.time()))
    found = last_found(tmp_path, database_at(tmp_path, 8, time.time() + 3600))
    assert found is not None
    assert found.written < CRASHED + 1
