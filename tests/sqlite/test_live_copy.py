"""A copy that is made while the node commits: whatever it commits meanwhile, the copy is the database as it was."""

import errno
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.sqlite import live_copy as module
from backends.sqlite.live_copy import CopyFailed, LiveCopy
from tests.fake_lightningd.database import contents

PAGE = 512


class Committer:
    """A node's database, in which one transaction after the other is made."""

    def __init__(
        self, path: Path, cache_pages: int = -2000, synchronous: str = "FULL", seed: int = 0, *, secure: bool = True
    ) -> None:
        """Unless `secure`, what is deleted is not overwritten, as by a SQLite that is built from its own sources; most
        distributions build it otherwise."""
        self.path, self._random = path, random.Random(seed)
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.connection.execute(f"PRAGMA page_size = {PAGE}")
        self.connection.execute(f"PRAGMA secure_delete = {'ON' if secure else 'OFF'}")
        self.connection.execute(f"PRAGMA synchronous = {synchronous}")
        self.connection.execute(f"PRAGMA cache_size = {cache_pages}")
        self.connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a BLOB, b TEXT)")
        self.connection.execute("CREATE INDEX by_b ON t (b)")
        self.connection.execute("CREATE TABLE version (n INTEGER)")
        self.connection.execute("INSERT INTO version VALUES (0)")
        self.change(200)
        self.connection.execute("COMMIT")

    def change(self, rows: int) -> None:
        """Begin a transaction that changes, adds and removes about so many rows."""
        execute, pick = self.connection.execute, self._random
        execute("BEGIN")
        execute("UPDATE version SET n = n + 1")
        for _ in range(rows):
            blob, text, row = pick.randbytes(pick.choice((10, 90, 2000))), str(pick.random()), pick.randrange(1, 500)
            match pick.randrange(3):
                case 0:
                    execute("INSERT INTO t (a, b) VALUES (?, ?)", (blob, text))
                case 1:
                    execute("UPDATE t SET a = ?, b = ? WHERE id = ?", (blob, text, row))
                case _:
                    execute("DELETE FROM t WHERE id = ?", (row,))

    def hook(self, rows: int, hook: Callable[[], None]) -> None:
        """One transaction as lightningd makes it."""
        self.change(rows)
        hook()
        self.connection.execute("COMMIT")

    def close(self) -> None:
        self.connection.close()


@pytest.fixture(autouse=True)
def _small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PORTION", 4 * PAGE)


def copied_beside(
    node: Committer, target: Path, transactions: Iterator[int], when: Iterator[bool], first: int = 1
) -> LiveCopy:
    """Copy while transactions are made: one between two portions, wherever `when` says so."""
    copy = LiveCopy(node.path, target)
    node.hook(first, copy.begin)

    def between(done: int, total: int) -> bool:
        while next(when, False):
            node.hook(next(transactions, 1), lambda: copy.capture(writes=True))
        return True

    copy.run(between)
    return copy


@pytest.mark.parametrize("failing", range(0, 40, 3))
def test_full_disk_of_the_copy_fails_the_copy_and_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Whoever writes there then, the thread or, where too much waits, the hook."""
    monkeypatch.setattr(module, "MAX_WAITING", 2 * PAGE)
    write, writes = LiveCopy._write, [0]

    def full(copy: LiveCopy, first: int, data: bytes) -> None:
        writes[0] += 1
        if writes[0] > failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(copy, first, data)

    monkeypatch.setattr(LiveCopy, "_write", full)
    with closing(Committer(tmp_path / "node.sqlite3")) as node:
        copy = LiveCopy(node.path, tmp_path / "copy.sqlite3")
        if failing == 0:
            with pytest.raises(CopyFailed, match="No space"):
                node.hook(30, copy.begin)
            return
        node.hook(1, copy.begin)
        when = iter([True] * 30)

        def between(done: int, total: int) -> bool:
            if next(when, False):
                node.hook(30, lambda: copy.capture(writes=True))
            return True

        copy.run(between)
        before = contents(node.path)
        node.hook(0, lambda: copy.capture(writes=True))
        assert writes[0] <= failing or "No space" in str(copy.failure)
        assert contents(node.path) != before
        copy.close()


def assert_is(target: Path, expected: object) -> None:
    with closing(sqlite3.connect(target)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert contents(target) == expected


@dataclass(frozen=True)
class Meanwhile:
    """What is committed while the copy is made, and on what terms."""

    transactions: list[int]
    when: list[bool]
    first: int
    cache: int
    waiting: int
    seed: int

    def failure_of_copy(self, directory: Path, *, synchronous: str = "FULL", secure: bool = True) -> CopyFailed | None:
        """Make the copy. It is the database at its beginning, or has failed: returns why."""
        with (
            patch.object(module, "MAX_WAITING", self.waiting),
            closing(Committer(directory / "node.sqlite3", self.cache, synchronous, self.seed, secure=secure)) as node,
        ):
            before, target = contents(node.path), directory / "copy.sqlite3"
            copy = copied_beside(node, target, iter(self.transactions), iter(self.when), self.first)
            if copy.failure is None:
                assert_is(target, before)
            copy.close()
            return copy.failure


anything = st.builds(
    Meanwhile,
    transactions=st.lists(st.integers(0, 120), max_size=30),
    when=st.lists(st.booleans(), max_size=200),
    first=st.integers(0, 120),
    cache=st.sampled_from((-2000, 10)),
    waiting=st.sampled_from((0, 3 * PAGE, 1 << 20)),
    seed=st.integers(0, 1 << 16),
)


@settings(max_examples=60, deadline=None)
@given(meanwhile=anything, synchronous=st.sampled_from(("FULL", "OFF")))
def test_copy_is_the_database_at_its_beginning_whatever_is_committed_meanwhile(
    tmp_path_factory: pytest.TempPathFactory, meanwhile: Meanwhile, synchronous: str
) -> None:
    """With 10 pages of cache, most transactions write into the database before the hook is called."""
    assert meanwhile.failure_of_copy(tmp_path_factory.mktemp("live"), synchronous=synchronous) is None


@settings(max_examples=60, deadline=None)
@given(meanwhile=anything)
def test_page_that_is_freed_and_used_again_without_being_journalled_is_in_the_copy(
    tmp_path_factory: pytest.TempPathFactory, meanwhile: Meanwhile
) -> None:
    """With 10 pages of cache, such a page may be written before the hook is called: then the copy fails."""
    failure = meanwhile.failure_of_copy(tmp_path_factory.mktemp("live"), secure=False)
    if failure is not None:
        assert meanwhile.cache == 10
        assert "that had just become free" in str(failure)


@pytest.mark.parametrize("pragma", ["auto_vacuum = FULL", "auto_vacuum = INCREMENTAL", "journal_mode = WAL"])
def test_database_whose_journal_does_not_tell_all_is_not_copied(tmp_path: Path, pragma: str) -> None:
    with closing(Committer(tmp_path / "node.sqlite3")) as node:
        node.connection.execute(f"PRAGMA {pragma}")
        node.connection.execute("VACUUM")
        copy = LiveCopy(node.path, tmp_path / "copy.sqlite3")
        with pytest.raises(CopyFailed):
            node.hook(1, copy.begin)
        copy.close()


def test_vacuum_meanwhile_makes_the_copy_fail(tmp_path: Path) -> None:
    """lightningd does that after a migration, and calls no hook for it."""
    with closing(Committer(tmp_path / "node.sqlite3")) as node:
        copy = LiveCopy(node.path, tmp_path / "copy.sqlite3")
        node.hook(1, copy.begin)
        node.connection.execute("VACUUM")
        copy.run(lambda done, total: True)
        assert copy.failure is not None
        copy.close()


def test_error_that_nobody_foresaw_is_a_failure_of_the_copy(tmp_path: Path) -> None:
    def between(done: int, total: int) -> bool:
        raise MemoryError

    with closing(Committer(tmp_path / "node.sqlite3")) as node:
        copy = LiveCopy(node.path, tmp_path / "copy.sqlite3")
        node.hook(1, copy.begin)
        copy.run(between)
        assert "MemoryError" in str(copy.failure)
        copy.close()
