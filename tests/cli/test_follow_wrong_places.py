"""`backup-cli follow` where something else lies in DEST than its copy, or another backup is at URL than before."""

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from backends.confined.work import rebuild_backup
from backends.node.following import COPY, NOTE
from backup_cli.following import building
from backup_cli.following.building import build
from backup_cli.following.copy_directory import CopyDirectory
from backup_cli.following.figures import Figures, write_figures
from backup_cli.following.keeper import _check_in
from tests.cli.cli_asserts import assert_refused
from tests.cli.following import once
from tests.end_to_end.db_compare import compared, everything
from tests.end_to_end.following import version_of
from tests.end_to_end.world import World, tree
from tests.fake_lightningd import History

pytestmark = pytest.mark.usefixtures("jobs_here")


@pytest.fixture
def other(tmp_path: Path) -> World:
    """Another node, with a backup of its own that is at a later version."""
    (tmp_path / "second").mkdir()
    world = World(tmp_path / "second").init()
    history = History()
    world.run([history.first(), *history.notes(20)])
    return world


# What lies in DEST


@pytest.mark.parametrize("how", ["symlink", "hard link", "file", "directory"])
def test_what_is_called_like_the_copy_and_is_none_is_not_touched(how: str, lived: World, warm: Path) -> None:
    """It may be the database of a node that runs: SQLite changed its mode and its journal mode to find that out."""
    live = warm.parent / "live.sqlite3"
    shutil.copy(lived.database, live)
    with closing(sqlite3.connect(live)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    live.chmod(0o640)
    name = warm / COPY
    match how:
        case "symlink":
            name.symlink_to(live)
        case "hard link":
            name.hardlink_to(live)
        case "file":
            live = live.rename(name)
        case _:
            name.mkdir()
    before = tree(live, warm)
    assert_refused(once(lived, warm), "is not a copy that follows a backup")
    (warm / NOTE).unlink()
    assert tree(live, warm) == before


def test_copy_of_another_follower_is_not_written_to_through_a_hard_link(
    lived: World, history: History, warm: Path, tmp_path: Path
) -> None:
    """Its follower has another lock, and SQLite looks for the journal beside the name that it opens."""
    first = tmp_path / "first"
    assert once(lived, first).code == 0
    lived.run(history.notes(1))
    (warm / COPY).hardlink_to(first / COPY)
    before = tree(first)
    assert_refused(once(lived, warm), "is not a copy")
    assert tree(first) == before


# Which backup is at URL


def test_copy_without_its_note_is_not_rebuilt_from_another_backup(lived: World, other: World, warm: Path) -> None:
    assert once(lived, warm).code == 0
    before = everything(warm / COPY)
    for text in (None, b""):
        (warm / NOTE).unlink() if text is None else (warm / NOTE).write_bytes(text)
        assert_refused(once(other, warm), "the note beside it is gone")
        assert everything(warm / COPY) == before
        (warm / NOTE).unlink(missing_ok=True)
    said = once(lived, warm)
    assert said.code == 0, said


def test_note_is_made_again_for_the_backup_that_holds_the_copys_last_change(
    lived: World, history: History, warm: Path
) -> None:
    assert once(lived, warm).code == 0
    (warm / NOTE).unlink()
    lived.run(history.notes(2))
    assert once(lived, warm).code == 0
    assert CopyDirectory(warm).read() is not None
    assert compared(everything(warm / COPY), everything(lived.database)) == []


@pytest.mark.parametrize("when", ["before the log is opened", "before the copy is built", "while it is built"])
def test_another_backup_that_takes_the_place_of_this_one_does_not_replace_the_copy(
    when: str, lived: World, other: World, warm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another disk is mounted there, after this command has checked whose backup it is."""
    assert once(lived, warm).code == 0
    before, place = everything(warm / COPY), "backup_cli.following.keeper.follow_backup"

    def swapped(name: str) -> None:
        module, _, function = name.rpartition(".")
        real = getattr(__import__(module, fromlist=["_"]), function)

        def act(*arguments: object, **named: object) -> object:
            if other.backup.exists():
                lived.backup.rename(lived.root / "away")
                other.backup.rename(lived.backup)
            return real(*arguments, **named)

        monkeypatch.setattr(name, act)

    if when != "before the log is opened":
        damaged = bytearray((warm / COPY).read_bytes())
        damaged[100:300] = bytes(200)
        (warm / COPY).chmod(0o600)
        (warm / COPY).write_bytes(damaged)
        before = {}
        place = f"backup_cli.following.{'keeper.build' if 'before' in when else 'building.rebuild_backup'}"
    swapped(place)
    said = once(lived, warm)
    assert_refused(said, "follows|in the place of this one")
    if before:
        assert everything(warm / COPY) == before
    else:
        assert (warm / COPY).read_bytes() == damaged


def test_copy_is_not_rebuilt_from_a_backup_that_is_set_back_at_that_moment(
    lived: World, history: History, warm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = lived.root / "old"
    shutil.copytree(lived.backup, old)
    lived.run(history.notes(3))
    assert once(lived, warm).code == 0
    lived.run_without_plugin(history.notes(1))
    lived.run(history.notes(1))  # a new snapshot: the copy has to be built again
    before = everything(warm / COPY)

    def set_back(*arguments: object) -> object:
        lived.backup.rename(lived.root / "newer")
        old.rename(lived.backup)
        return build(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("backup_cli.following.keeper.build", set_back)
    assert_refused(once(lived, warm), "may be the newest state there is")
    assert everything(warm / COPY) == before


def test_change_that_only_the_fenced_writer_has_is_not_in_a_copy_that_is_built_meanwhile(
    lived: World, history: History, warm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log was read with that change at its end. Then it goes on without it."""
    shutil.copytree(lived.backup, lived.root / "without")
    lived.run(history.notes(1))
    built = rebuild_backup
    tries: Iterator[int] = iter(range(9))

    def read_before(*arguments: object, **named: object) -> object:
        outcome = built(*arguments, **named)  # type: ignore[arg-type]
        if next(tries) == 0:
            shutil.rmtree(lived.backup)
            (lived.root / "without").rename(lived.backup)
        return outcome

    monkeypatch.setattr(building, "rebuild_backup", read_before)
    said = once(lived, warm)
    assert said.code == 0, said
    assert version_of(warm / COPY) == lived.version - 1


# Clocks, and checks


def test_once_checks_all_tables_when_that_is_due(lived: World, warm: Path) -> None:
    """A timer runs it each hour, and nothing else ever checks the copy."""
    directory = CopyDirectory(warm)
    assert once(lived, warm).code == 0
    note = directory.read()
    assert note is not None and note.checked == 0
    directory.write(replace(note, rebuilt=note.rebuilt - 25 * 3600))
    assert once(lived, warm).code == 0
    note = directory.read()
    assert note is not None and abs(note.checked - time.time()) < 60
    (warm / COPY).chmod(0o600)
    with (warm / COPY).open("r+b") as file:
        file.seek(-4096 + 8, os.SEEK_END)
        file.write(bytes(4000))
    assert once(lived, warm).code == 0
    directory.write(replace(note, checked=0, rebuilt=0))
    said = once(lived, warm)
    assert said.code == 0 and "Rebuilding the copy: the copy" in said.err, said


def test_clock_that_was_ahead_hides_neither_a_check_nor_a_lag(lived: World, warm: Path) -> None:
    directory = CopyDirectory(warm)
    assert once(lived, warm).code == 0
    note, now = directory.read(), time.time()
    assert note is not None
    wrong = replace(note, in_step=int(now) + 10**8, checked=int(now) + 10**8, rebuilt=int(now) + 10**8)
    assert _check_in(wrong, 3600.0, now) == 0.0 and _check_in(note, 3600.0, now) > 3500.0
    figures = warm / "figures"
    write_figures(figures, lived.url, Figures(wrong, None, False, False), now)
    assert "lag_seconds" not in figures.read_text()
    directory.write(wrong)
    assert once(lived, warm).code == 0
    note = directory.read()
    assert note is not None and note.in_step <= time.time() and note.checked <= time.time()
