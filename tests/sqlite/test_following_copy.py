"""The copy that follows a backup: whole after any kill, and it says itself which change it holds."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from backends.change import FOLLOWING, is_following
from backends.errors import BackupError
from backends.sqlite.following import FollowingCopy, NoCopy, mark_copy, release_copy
from backends.sqlite.replay_errors import ReplayFailed
from tests.end_to_end.db_compare import everything, faults
from tests.fake_lightningd.calls import History

FIRST, SECOND = 0xFFFFFFF0, 7  # checksums are 32 bits without a sign, SQLite's fields have one


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def path(tmp_path: Path, history: History) -> Path:
    """A copy at version 1."""
    path = tmp_path / "following.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as made:
        for statement in history.first().writes:
            made.execute(statement)
    mark_copy(path, FIRST)
    return path


def where(path: Path) -> tuple[int, int | None]:
    """Which change the copy says that it holds."""
    with closing(FollowingCopy(path)) as copy:
        return copy.checksum, copy.data_version


def test_copy_says_which_change_it_holds_and_what_it_is(path: Path, history: History) -> None:
    assert where(path) == (FIRST, 1)
    assert is_following(path.read_bytes()[:96]) and path.stat().st_mode & 0o777 == 0o400
    with closing(FollowingCopy(path)) as copy:
        copy.execute(list(history.note().writes), 2)
        copy.commit(SECOND, 2)
    assert where(path) == (SECOND, 2)


def test_what_was_not_committed_is_gone_when_the_copy_is_closed(path: Path, history: History) -> None:
    before = everything(path)
    with closing(FollowingCopy(path)) as copy:
        copy.execute(list(history.note().writes), 2)
    assert where(path) == (FIRST, 1) and everything(path) == before


def test_lone_pragma_is_noted_and_counts_for_what_follows(path: Path, history: History) -> None:
    with closing(FollowingCopy(path)) as copy:
        copy.execute(["PRAGMA foreign_keys = OFF;"], 1)
        copy.commit(SECOND, 1)
        assert not copy.foreign_keys
    assert where(path) == (SECOND, 1)


def test_change_that_leads_to_another_version_is_refused(path: Path, history: History) -> None:
    with closing(FollowingCopy(path)) as copy:
        copy.execute(list(history.note().writes), 9)
        with pytest.raises(ReplayFailed, match="leads to version 2"):
            copy.commit(SECOND, 9)
    assert where(path) == (FIRST, 1)


def test_released_copy_is_an_ordinary_database(path: Path) -> None:
    assert release_copy(path).data_version == 1
    assert not is_following(path.read_bytes()[:96]) and path.read_bytes()[60:64] == bytes(4)
    with pytest.raises(NoCopy):
        FollowingCopy(path)


def test_database_of_somebody_else_is_no_copy(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite3"
    with closing(sqlite3.connect(other, isolation_level=None)) as made:
        made.execute("CREATE TABLE t (x)")
    before = other.read_bytes()
    with pytest.raises(NoCopy):
        FollowingCopy(other)
    assert other.read_bytes() == before


def test_all_tables_are_checked_one_after_the_other(path: Path) -> None:
    with closing(FollowingCopy(path)) as copy:
        for _ in range(2):
            steps = 1
            while not copy.check_next_table():
                steps += 1
            assert steps == 4, "the schema, vars, version and db_upgrades"


def test_fault_in_a_table_is_found_by_the_check(path: Path) -> None:
    with closing(sqlite3.connect(path)) as made:
        (root,) = made.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_vars_1'").fetchone()
    data = bytearray(path.read_bytes())
    start = (root - 1) * 4096
    data[start + 4000 : start + 4096] = bytes(96)
    path.chmod(0o600)
    path.write_bytes(data)
    with closing(FollowingCopy(path)) as copy, pytest.raises(BackupError):
        while not copy.check_next_table():
            pass


DYING = """
import sys
from pathlib import Path
from tests.dying_disk import for_each_number_read
from backends.sqlite.following import FollowingCopy
from tests.fake_lightningd.calls import History
path, checksum = Path(sys.argv[1]), int(sys.argv[2])

def replay():
    copy, history = FollowingCopy(path), History(1)
    copy.execute(list(history.big(200_000).writes), 2)
    copy.execute(list(history.note().writes), 3)
    copy.commit(checksum, 3)
    copy.close()

for_each_number_read(replay)
"""


def test_kill_at_any_write_leaves_the_state_before_or_after_and_the_copy_knows_which(path: Path) -> None:
    """A transaction of two changes, killed before each write, sync and deletion."""
    saved, states = path.read_bytes(), set[tuple[int, int | None]]()
    process = subprocess.Popen(
        [sys.executable, "-c", DYING, path, str(SECOND)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    number, step = 0, 1
    with process:
        while True:
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            said = process.stdout.readline().strip().partition(" ")[0]
            assert said in ("killed", "done"), said
            held = where(path)
            assert held in {(FIRST, 1), (SECOND, 3)}
            states.add(held)
            assert [fault for fault in faults(path) if fault != f"{path.name}-journal"] == [], "it is not hot any more"
            assert _notes(path) == ([("note 3",)] if held == (SECOND, 3) else [])
            _put_back(path, saved)
            if said == "done":
                break
            number += step
            step = 1 if number < 12 else 5
        process.stdin.close()
    assert number > 20 and states == {(FIRST, 1), (SECOND, 3)}


def _notes(path: Path) -> list[tuple[str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT name FROM vars WHERE name LIKE 'note%'").fetchall()


def _put_back(path: Path, saved: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(saved)
    Path(f"{path}-journal").unlink(missing_ok=True)


def test_moved_copy_is_noticed(path: Path) -> None:
    with closing(FollowingCopy(path)) as copy:
        assert copy.is_where_it_was()
        path.rename(path.with_name("away"))
        assert not copy.is_where_it_was()
        shutil.copy(path.with_name("away"), path)
        assert not copy.is_where_it_was()
    assert FOLLOWING.to_bytes(4, "big") == b"LNBf"
