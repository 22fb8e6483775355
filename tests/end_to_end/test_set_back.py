"""A node's database that a power cut has set back: brought forward with proof, or left alone byte for byte."""

import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Timer

import pytest

from backends.log.format.records import segment_name
from backends.text import counted
from plugin.at_start import Start, WhyLeft
from plugin.before_manifest import before_manifest
from tests.end_to_end.db_compare import differences
from tests.end_to_end.world import PLUGIN, World, as_mortal, backup_cli, said_at, snapshots_taken
from tests.fake_lightningd import Call, History, Moment, Refused, Victim, has_hot_journal, transaction
from tests.fake_lightningd.database import SeparateDatabase
from tests.members.world import eventually

MIGRATION = (
    "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
    "CREATE TABLE children (id INTEGER PRIMARY KEY, parent REFERENCES parents(id) ON DELETE CASCADE)",
    "INSERT INTO parents VALUES (1), (2)",
    "INSERT INTO children VALUES (1, 1), (2, 2)",
)
"""Tables of which a `DROP TABLE parents` empties the other one, unless foreign keys are OFF."""


def drop_with_foreign_keys_off(history: History) -> list[Call]:
    """As lightningd's migrations rebuild a table."""
    return [
        history.transaction(*MIGRATION),
        history.foreign_keys(on=False),
        history.transaction("DROP TABLE parents", "CREATE TABLE parents (id INTEGER PRIMARY KEY, more TEXT)"),
        history.foreign_keys(on=True),
        history.transaction("INSERT INTO parents (id) VALUES (1), (2)"),
    ]


def play_and_set_back(world: World, calls: Iterable[Call], keep: int, second_segment_at: int | None = None) -> Path:
    """Kill the node after these calls, and put the database back to where it was after `keep` of them. Returns a copy
    of the newest state. Before call `second_segment_at`, the maintenance has made the next segment."""
    calls, aside = list(calls), world.root / "aside"
    node = world.node()
    node.start()
    for number, call in enumerate(calls):
        if number == keep:
            shutil.copy2(world.database, aside)
        if number == second_segment_at:
            eventually(lambda: (world.backup / segment_name(2)).exists())
        node.db_write(call)
    node.die()
    newest = world.root / "newest"
    world.database.rename(newest)
    aside.rename(world.database)
    return newest


def start(world: World) -> Start:
    """What the plugin does before it answers the manifest, in this process."""
    return before_manifest(world.directory)


# Brought forward


@pytest.mark.parametrize("behind", [1, 2, 15, 16])
def test_database_set_back_is_brought_forward(lived: World, history: History, behind: int) -> None:
    newest = play_and_set_back(lived, history.notes(20), keep=20 - behind)
    with lived.node() as node:
        assert differences(lived.database, newest) == []
        node.play(history.notes(2))
    (line,) = said_at(node, "unusual")
    assert f"{counted(behind, 'change')} behind its backup at version {history.version - 2 - behind}" in line
    assert f"now at version {history.version - 2}, like the backup" in line
    assert line.isascii()
    assert snapshots_taken(node) == []
    lived.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("keep", range(5))
def test_database_set_back_within_a_migration_keeps_its_child_rows(lived: World, history: History, keep: int) -> None:
    """Wherever in a migration the database was set back to."""
    newest = play_and_set_back(lived, drop_with_foreign_keys_off(history), keep)
    with lived.node() as node:
        assert differences(lived.database, newest) == []
        node.play(history.notes(1))
    with closing(sqlite3.connect(lived.database)) as database:
        assert database.execute("SELECT count(*) FROM children").fetchone() == (2,)
    lived.assert_restored_equals_the_nodes()


def test_new_node_whose_first_changes_were_all_taken_back_is_brought_forward(world: World, history: History) -> None:
    calls = [history.first(), *history.notes(3)]
    newest = play_and_set_back(world.init(), calls, keep=1)
    world.database.unlink()
    with world.node() as node:
        assert differences(world.database, newest) == []
        assert world.database.stat().st_mode & 0o777 == 0o600
        node.play(history.notes(1))
    world.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("cache_pages", [10, 2000])
def test_hot_journal_brought_back_by_a_power_cut_loses_no_commit(
    lived: World, history: History, cache_pages: int
) -> None:
    """The last commit is in the file, and the journal beside it takes it back."""
    node = lived.node(partial(SeparateDatabase, cache_pages=cache_pages))
    node.start()
    node.play([*history.notes(2), history.big()])
    call = history.transaction(
        "UPDATE vars SET val = 'new', blobval = x'00' WHERE substr(name, 1, 3) = 'big'", *MIGRATION
    )
    node.execute(call)
    journal, kept = lived.directory / "lightningd.sqlite3-journal", lived.root / "journal"
    kept.hardlink_to(journal)  # what COMMIT removes is only its name, and that is not synced
    node.ask(call)
    node.commit()
    node.die()
    newest = lived.root / "newest"
    shutil.copy2(lived.database, newest)
    kept.rename(journal)
    assert has_hot_journal(lived.directory)
    with lived.node() as node:
        assert differences(lived.database, newest) == []
        node.play(history.notes(1))
    assert "1 change behind" in said_at(node, "unusual")[0]
    lived.assert_restored_equals_the_nodes()


def test_node_killed_after_the_answer_to_a_large_transaction_is_brought_forward(lived: World, history: History) -> None:
    """Some pages reach the file before the commit. The database is rolled back, and then brought forward."""
    node = lived.node(partial(SeparateDatabase, cache_pages=10))
    node.start()
    node.play(history.notes(1))
    node.die_at(Moment.BEFORE_COMMIT, history.big())
    assert has_hot_journal(lived.directory)
    with lived.node() as node:
        assert lived.version == history.version
        node.play(history.notes(1))
    assert snapshots_taken(node) == []
    lived.assert_restored_equals_the_nodes()


def test_compaction_leaves_the_changes_that_a_set_back_database_needs(lived: World, history: History) -> None:
    noise = [f"UPDATE vars SET blobval = x'{os.urandom(800_000).hex()}' WHERE name = 'note 2'" for _ in range(14)]
    calls = [*(history.transaction(sql) for sql in noise), *history.notes(16)]
    newest = play_and_set_back(lived, calls, keep=14, second_segment_at=9)
    said = backup_cli("compact", *lived.key_options, lived.url)
    assert said.code == 0, said
    assert lived.status()["generation"] == 2, said
    with lived.node() as node:
        assert differences(lived.database, newest) == []
        node.play(history.notes(1))
    lived.assert_restored_equals_the_nodes()


def test_second_start_after_rolling_forward_finds_nothing_to_do(lived: World, history: History) -> None:
    play_and_set_back(lived, history.notes(6), keep=4)
    assert start(lived).left is None
    began = start(lived)
    assert (began.left, began.lines, began.copy) == (None, [], None)
    assert said_at(lived.run(history.notes(1)), "unusual") == []


def test_set_back_database_waits_unchanged_while_the_destination_is_away(lived: World, history: History) -> None:
    """lightningd opens the database then, and is refused; the next start has the backup again."""
    newest = play_and_set_back(lived, history.notes(6), keep=4)
    away = lived.backup.with_name("away")
    lived.backup.rename(away)
    before = lived.database.read_bytes()
    node = lived.node()
    node.start()
    with pytest.raises(Refused):
        node.db_write(History(lived.version).note())
    assert lived.database.read_bytes() == before
    os.utime(lived.database, (time.time() + 3600,) * 2)  # as when a hot journal was rolled back, an hour later
    away.rename(lived.backup)
    assert start(lived).left is None
    assert differences(lived.database, newest) == []


# Left alone


Damage = Callable[[World, History], None]


def edited(world: World, history: History) -> None:
    """Edited by hand, at the same version."""
    with closing(sqlite3.connect(world.database, isolation_level=None)) as database:
        database.execute("UPDATE vars SET val = 'edited' WHERE name = 'note 2'")


def run_without_the_plugin(world: World, history: History) -> None:
    """One change less than it was behind: versions and headers are then as they were in the backup's history."""
    version = world.version
    world.run_without_plugin([transaction(version + 1, "UPDATE vars SET val = 'other' WHERE name = 'note 2'")])
    os.utime(world.database, (time.time() + 3600,) * 2)


def copied(world: World, history: History) -> None:
    """The node's directory is a copy, as on another machine."""
    aside = world.root / "lightning" / "copied"
    shutil.copytree(world.directory, aside)
    shutil.move(world.directory, world.root / "original")
    aside.rename(world.directory)


def taken_over_elsewhere(world: World, history: History) -> None:
    (world.directory / "backup.session").write_text(
        (world.directory / "backup.session").read_text().replace('"sessions": ["', '"sessions": ["x')
    )
    document = (world.directory / "backup.session").read_text()
    (world.directory / "backup.session").write_text(document.replace('", "', '", "x'))


def of_another_node(world: World, history: History) -> None:
    """A database that looks the same from outside."""
    session = world.backup / "session"
    session.unlink()


def in_wal_mode(world: World, history: History) -> None:
    with closing(sqlite3.connect(world.database, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")


def damaged(world: World, history: History) -> None:
    with world.database.open("r+b") as file:
        file.write(b"no database")


def backup_damaged(world: World, history: History) -> None:
    segment = max(world.backup.glob("segment-*"))
    segment.chmod(0o600)
    content = bytearray(segment.read_bytes())
    content[200] ^= 1
    segment.write_bytes(content)


def emptied(world: World, history: History) -> None:
    world.database.write_bytes(b"")


LEFT: list[tuple[Damage, WhyLeft]] = [
    (edited, WhyLeft.OTHER_HISTORY),
    (run_without_the_plugin, WhyLeft.TOUCHED),
    (copied, WhyLeft.COPIED_DIRECTORY),
    (taken_over_elsewhere, WhyLeft.OTHER_WRITER),
    (of_another_node, WhyLeft.OTHER_WRITER),
    (in_wal_mode, WhyLeft.WAL),
    (damaged, WhyLeft.NO_DATABASE),
    (backup_damaged, WhyLeft.BACKUP_DAMAGED),
    (emptied, WhyLeft.TOO_FAR),
]


@pytest.mark.parametrize(("damage", "why"), LEFT, ids=[damage.__name__ for damage, _ in LEFT])
def test_set_back_database_is_left_alone_without_proof(
    lived: World, history: History, damage: Damage, why: WhyLeft
) -> None:
    play_and_set_back(lived, history.notes(20), keep=17)
    damage(lived, history)
    before = lived.everything_on_disk()
    began = start(lived)
    assert (began.left, began.lines) == (why, [])
    found = lived.directory / "backup.found"
    assert {path: what for path, what in lived.everything_on_disk().items() if path != str(found)} == before


def test_database_too_far_behind_to_roll_forward_is_refused_with_the_reason(lived: World, history: History) -> None:
    play_and_set_back(lived, history.notes(20), keep=3)
    before = lived.database.read_bytes()
    node = lived.node()
    node.start()
    with pytest.raises(Refused) as refused:
        node.db_write(History(lived.version).note())
    assert f"because {WhyLeft.TOO_FAR.value}" in refused.value.message
    assert "backup-cli restore --resume --replace" in refused.value.message
    assert lived.database.read_bytes() == before


def test_set_back_database_that_is_open_elsewhere_is_left_alone(
    lived: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plugin.roll_forward.ALONE_WITHIN", 0.5)
    play_and_set_back(lived, history.notes(3), keep=2)
    before = lived.database.read_bytes()
    shell = SeparateDatabase(lived.directory)
    try:
        assert start(lived).left is WhyLeft.IN_USE
        assert lived.database.read_bytes() == before
    finally:
        shell.close()
    assert start(lived).left is None


def test_start_waits_for_the_plugin_of_a_killed_node_to_end(lived: World, history: History) -> None:
    """The old plugin has saved a change that was never committed, and is slow to end."""
    killed = lived.node(database=SeparateDatabase)
    killed.start()
    killed.play(history.notes(3))
    last = history.note()
    killed.execute(last)
    killed.ask(last)
    os.kill(killed.pid, signal.SIGSTOP)
    killed.database.die()
    assert killed.wire.process.stdin is not None
    killed.wire.process.stdin.close()
    Timer(2, os.kill, (killed.pid, signal.SIGCONT)).start()
    with lived.node() as node:
        node.play(history.notes(2))
    assert "1 change behind its backup" in said_at(node, "unusual")[0]
    assert killed.wire.process.wait(10) == 0
    lived.assert_restored_equals_the_nodes()


def test_roll_forward_gives_up_on_a_hanging_destination(
    lived: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_and_set_back(lived, history.notes(3), keep=2)
    monkeypatch.setattr("plugin.roll_forward.READ_WITHIN", 0.2)
    monkeypatch.setattr("backends.log.backup.Backup.read", lambda _: time.sleep(3))
    before, began = lived.database.read_bytes(), time.monotonic()
    assert start(lived).left is WhyLeft.LATE
    assert time.monotonic() - began < 2
    time.sleep(3)
    assert lived.database.read_bytes() == before


def test_roll_forward_that_takes_too_long_leaves_the_database_alone(
    lived: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = history.notes(2)
    slow = history.transaction(
        "UPDATE vars SET val = (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000) "
        "SELECT max(i) FROM n) WHERE name = 'note 2'"
    )
    play_and_set_back(lived, [*notes, slow], keep=1)
    before = lived.version
    monkeypatch.setattr("plugin.roll_forward.DONE_WITHIN", 0.25)
    began = start(lived)
    assert began.left is WhyLeft.NO_TIME
    assert lived.version in (before, before + 1)
    assert "could not be brought forward" in began.lines[0][1]
    monkeypatch.undo()
    assert start(lived).left is None
    assert lived.version == before + 2


def test_database_is_copied_before_a_large_first_transaction_locks_it(lived: World, history: History) -> None:
    """SQLite's cache has spilled when lightningd asks, so that nobody can read the database any more."""
    lived.run_without_plugin(history.notes(2))
    with lived.node(partial(SeparateDatabase, cache_pages=10)) as node:
        node.play([history.big(8 << 20), *history.notes(1)])
    assert len(snapshots_taken(node)) == 1
    assert list(lived.directory.glob(".lightningd-backup-*")) == []
    lived.assert_restored_equals_the_nodes()


def test_early_copy_of_the_database_is_removed_by_the_next_start(lived: World, history: History) -> None:
    lived.run_without_plugin(history.notes(2))
    node = lived.node()
    node.start()
    assert list(lived.directory.glob(".lightningd-backup-*")) != []
    node.die(Victim.BOTH)
    lived.run(history.notes(1))
    assert list(lived.directory.glob(".lightningd-backup-*")) == []
    lived.assert_restored_equals_the_nodes()


def test_set_back_database_that_is_read_only_is_refused_as_such(lived: World, history: History) -> None:
    play_and_set_back(lived, history.notes(3), keep=2)
    lived.database.chmod(0o400)
    before = lived.database.read_bytes()
    node = lived.node(command=[*as_mortal(), *PLUGIN])
    node.start()
    with pytest.raises(Refused, match="because its file cannot be written: it is read-only"):
        node.ask(History(lived.version).note())  # only the hook: lightningd itself may be no root
    assert lived.database.read_bytes() == before
    lived.database.chmod(0o600)
    lived.run([])
    assert lived.version == history.version


def test_roll_forward_accepts_a_backup_lock_in_legacy_form(lived: World, history: History) -> None:
    """It names no backup id: then the backup that is there counts, as at the first call."""
    (lived.directory / "backup.lock").write_text(json.dumps({"backend_url": lived.url}))
    play_and_set_back(lived, history.notes(3), keep=2)
    lived.run(history.notes(1))
    lived.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("name", ["backup.lock", "backup.witness", "backup.session", "backup.found"])
def test_fifo_in_place_of_a_notes_file_does_not_delay_the_manifest(lived: World, history: History, name: str) -> None:
    play_and_set_back(lived, history.notes(3), keep=2)
    (lived.directory / name).unlink(missing_ok=True)
    os.mkfifo(lived.directory / name)
    node = lived.node(timeout=20)
    node.start()
    node.die()


def test_roll_forward_waits_for_a_short_reader_of_the_database(lived: World, history: History) -> None:
    """Somebody copies the database at the very moment of the start."""
    play_and_set_back(lived, history.notes(3), keep=2)
    program = "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN');"
    program += "c.execute('SELECT * FROM vars').fetchall(); print('reading', flush=True); time.sleep(2)"
    reader = subprocess.Popen([sys.executable, "-c", program, str(lived.database)], stdout=subprocess.PIPE)
    assert reader.stdout is not None
    with reader, reader.stdout:
        reader.stdout.readline()
        assert start(lived).left is None
    assert lived.version == history.version


def test_temporary_reason_against_rolling_forward_is_refused_with_advice(lived: World, history: History) -> None:
    play_and_set_back(lived, history.notes(3), keep=2)
    aside = lived.backup.rename(lived.backup.with_name("unplugged"))
    node = lived.node()
    node.start()
    aside.rename(lived.backup)
    with pytest.raises(Refused, match=r"opened the database \(fix that and start the node again"):
        node.db_write(History(lived.version).note())
    lived.run([])
    assert lived.version == history.version


@pytest.mark.parametrize("name", ["lock", "session"])
def test_file_of_another_user_in_the_backup_is_named_in_the_refusal(lived: World, history: History, name: str) -> None:
    (lived.backup / name).touch()  # the lock of a killed process, say
    (lived.backup / name).chmod(0)
    node = lived.node(command=[*as_mortal(), *PLUGIN])
    node.start()
    with pytest.raises(Refused, match=rf"Permission denied \(.*/lightning.bkp/{name} is closed to the user"):
        node.db_write(history.note())
    (lived.backup / name).chmod(0o600)
    lived.run(History(lived.version).notes(1))


def test_sync_point_file_of_another_user_is_replaced(lived: World, history: History) -> None:
    """Otherwise every start after a kill would take a snapshot."""
    (lived.directory / "backup.witness").chmod(0)
    lived.run(history.notes(1), command=[*as_mortal(), *PLUGIN])
    node = lived.node(command=[*as_mortal(), *PLUGIN])
    node.start()
    node.play(history.notes(2))
    node.wire.listen(1.0)
    node.die()
    assert said_at(lived.run(history.notes(1)), "unusual") == []


def test_roll_forward_on_a_full_node_disk_leaves_the_database_alone(
    lived: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no space even for the note that is written before the changes."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    play_and_set_back(lived, history.notes(3), keep=2)
    before = lived.database.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("plugin.roll_forward.leads_to", full)
        assert start(lived).left is WhyLeft.DISK_FULL
    assert lived.database.read_bytes() == before
    assert start(lived).left is None
