"""No command gives up the newest state of a node, in a database or in a backup, unless its version is typed out."""

import os
import re
import shlex
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from backends import backup_at
from backends.log.known_damage import found_now
from tests.cli.cli_asserts import assert_refused, init, restore
from tests.end_to_end.corruption import DAMAGED
from tests.end_to_end.db_compare import differences, everything
from tests.end_to_end.world import DATABASE, Said, World, backup_cli, tree
from tests.fake_lightningd import Call, History, Refused
from tests.legacy.written import written

LOST = 20
"""A number of changes that the plugin no longer rolls forward."""


def typed(command: str) -> Said:
    """Run a command exactly as a message gave it."""
    program, *words = shlex.split(command)
    assert program == "backup-cli"
    return backup_cli(*words)


def told(said: Said, pattern: str) -> str:
    """The command in a message that begins with this pattern, to the end of its sentence."""
    found = re.search(rf"(backup-cli {pattern}.*?)(\. |$|\n| \()", said.err + said.out)
    assert found is not None, said
    return found[1]


def resync(world: World, *options: object) -> Said:
    return backup_cli("resync", "--lightning-dir", world.directory, *options)


def check(world: World) -> Said:
    return backup_cli("check-config", "--lightning-dir", world.directory)


@pytest.fixture
def set_back(lived: World, history: History) -> World:
    """A node whose database is an old copy at version 6; its backup is at 26."""
    old = lived.database.read_bytes()
    lived.run(history.notes(LOST))
    shutil.copy(lived.database, lived.root / "newest.sqlite3")
    lived.database.write_bytes(old)
    return lived


@pytest.fixture
def newer(lived: World, history: History) -> World:
    """A node that ran without the plugin: its database is at version 26, its backup at 6."""
    lived.run_without_plugin(history.notes(LOST))
    return lived


def assert_nothing_changes(world: World, act: Callable[[], Said], pattern: str) -> Said:
    before = tree(world.root)
    said = act()
    assert_refused(said, pattern)
    assert tree(world.root) == before
    return said


# resync


def test_resync_of_an_older_database_is_refused(set_back: World) -> None:
    for words in ((), ("--discard-newer", 25), ("--discard-newer", "unknown"), ("--discard-newer", 6)):
        said = assert_nothing_changes(
            set_back,
            partial(resync, set_back, *words),
            r"at version 6, and the backup .* at version 26, which is newer",
        )
    assert "--discard-newer 26 " in said.err
    assert typed(told(said, "restore")).code == 0, "what it says instead brings the newest state back"
    assert differences(set_back.database, set_back.root / "newest.sqlite3") == []


def test_newer_state_replaced_by_a_mistaken_resync_can_be_restored(set_back: World) -> None:
    """The newer of the two states was given up by mistake, and the node has even gone on from the older one."""
    assert resync(set_back, "--discard-newer", 26).code == 0
    set_back.run(History(set_back.version).notes(3))
    listed = backup_cli("versions", set_back.url)
    assert "versions       0 to 26" in listed.out and "versions       6 to 9" in listed.out
    said = typed(told(listed, "restore --kept").replace("DEST", str(set_back.directory)))
    assert said.code == 0, said
    assert differences(set_back.database, set_back.root / "newest.sqlite3") == []
    assert len(list(set_back.directory.glob("*before-restore*"))) == 1, "the mistaken one is kept, too"
    node = set_back.run(History(set_back.version).notes(2))
    assert set_back.version == 28 and any("20" in line or "17 ahead" in line for _, line in node.logs)
    set_back.assert_restored_equals_the_nodes()


def test_resync_over_a_damaged_backup_counts_the_changes_behind_the_damage(set_back: World) -> None:
    """Read only up to the damage, the backup would seem to be the older one."""
    DAMAGED["a record's header has a flipped bit"](set_back)
    (set_back.backup / "session").unlink()
    said = assert_nothing_changes(set_back, lambda: resync(set_back), "is damaged, and shows that version 26 was once")
    assert "no command can restore that state" in said.err and "restore --resume" not in said.err
    assert resync(set_back, "--discard-newer", 26).code == 0


def test_resync_of_a_database_without_a_version_is_refused(world: World, history: History) -> None:
    """Neither database nor backup has a version: nobody knows which is newer."""
    world.run_without_plugin([history.first()])
    forget_version(world)
    assert init(world).code == 0
    assert_nothing_changes(world, lambda: resync(world), "nobody can tell which of the two is newer.*newer unknown")
    assert resync(world, "--discard-newer", "unknown").code == 0


def forget_version(world: World) -> None:
    with closing(sqlite3.connect(world.database)) as connection, connection:
        connection.execute("DELETE FROM vars WHERE name = 'data_version'")


def test_discard_newer_with_an_invalid_version_is_a_usage_error(lived: World) -> None:
    for text in ("newest", "-1", "4294967296", "٣"):
        said = resync(lived, "--discard-newer", text)
        assert (said.code, "neither a version" in said.err) == (2, True)


# verify


def test_verify_of_an_older_database_never_advises_resync(set_back: World) -> None:
    said = backup_cli("verify", set_back.url, "--lightning-dir", set_back.directory)
    assert said.code == 1
    assert "resync" not in said.err
    assert "it has lost 20 changes, or is an old copy" in said.err
    assert typed(told(said, "restore")).code == 0
    assert differences(set_back.database, set_back.root / "newest.sqlite3") == []


def test_verify_of_a_newer_database_advises_the_resync_that_keeps_it(newer: World) -> None:
    before = everything(newer.database)
    said = backup_cli("verify", newer.url, "--lightning-dir", newer.directory)
    assert "is 20 changes ahead" in said.err
    assert typed(f"{told(said, 'resync')} --lightning-dir {newer.directory}").code == 0
    assert everything(newer.database) == before
    newer.assert_restored_equals_the_nodes()


# restore


@pytest.mark.parametrize("resume", [False, True])
def test_restore_over_a_newer_database_is_refused(newer: World, resume: bool) -> None:
    before = everything(newer.database)
    options = ("--replace", "--resume") if resume else ("--replace",)
    for consent in ((), ("--discard-newer", "6"), ("--discard-newer", "unknown")):
        said = assert_nothing_changes(
            newer,
            partial(restore, newer, newer.directory, *options, *consent),
            "at version 26, and the backup .* at version 6: the database is the newer state.*--discard-newer 26 ",
        )
    assert "No restore is needed" in said.err
    assert restore(newer, newer.directory, *options, "--discard-newer", "26").code == 0
    assert newer.version == 6
    [aside] = newer.directory.glob("*before-restore*")
    assert everything(aside) == before


def test_restore_over_a_newer_file_of_any_name_is_refused(newer: World, place: Path) -> None:
    shutil.copy(newer.database, place / "mine.sqlite3")
    said = restore(newer, place / "mine.sqlite3", "--replace")
    assert_refused(said, "mine.sqlite3 is at version 26, and the backup .* at version 6: .*--discard-newer 26 ")


def test_restore_of_an_old_version_beside_a_newer_database_replaces_nothing(newer: World) -> None:
    """The old version gets a name of its own, and replaces nothing."""
    assert restore(newer, newer.directory, "--to-version", "4", "--not-for-a-node").code == 0
    assert newer.version == 26


def test_restore_of_a_legacy_backup_over_a_newer_database_is_refused(world: World, tmp_path: Path) -> None:
    life = History()
    calls = [life.first(), *life.notes(30)]
    file = tmp_path / "file.bkp"
    written(calls[:-4]).save(file)
    world.run_without_plugin(calls)
    before = tree(world.root)
    act = ("restore", "--replace", file.as_uri(), world.directory)
    assert_refused(
        backup_cli(*act), "at version 31, and the backup .* at version 27: .*newer state.*--discard-newer 31 "
    )
    assert tree(world.root) == before
    assert backup_cli(*act, "--discard-newer", 31).code == 0
    assert world.version == 27


def test_restore_of_another_nodes_backup_over_a_database_is_refused(lived: World, history: History) -> None:
    """Versions of two nodes say nothing of one another."""
    set_id = "INSERT OR REPLACE INTO vars (name, blobval) VALUES ('node_id', x'{}')"
    lived.run([history.transaction(set_id.format("02" * 33))])
    other = World(lived.root / "other").init()
    theirs = History()
    other.run([theirs.first(), theirs.transaction(set_id.format("03" * 33)), *theirs.notes(30)])
    said = backup_cli("restore", "--replace", other.url, lived.directory)
    assert_refused(said, "two nodes .*Restore to another directory.*--discard-newer unknown")

    lived.database.rename(lived.root / "its dead disk")
    said = backup_cli("restore", other.url, lived.directory)
    assert_refused(said, f"of another node: .* belongs to the node {'02' * 33}.*--discard-newer unknown")
    assert not lived.database.exists()
    said = backup_cli("restore", other.url, lived.directory, "--discard-newer", "unknown")
    assert said.code == 0
    assert f"THE NODE DOES NOT START WITH IT: the backup at {lived.url} belongs to the node {'02' * 33}" in said.text
    assert "goes on with the backup that it names" not in said.text
    assert (lived.directory / "backup.lock").read_bytes(), "it is kept"
    with pytest.raises(Refused):
        lived.run(History(lived.version).notes(1))


def test_restore_from_a_recreated_backup_says_that_the_node_will_not_start(lived: World, history: History) -> None:
    """The URL is the same, but it is another backup: the plugin refuses."""
    kept = (lived.directory / "backup.lock").read_bytes()
    lived.backup.rename(lived.backup.with_name("moved"))
    lived.init()
    (lived.directory / "backup.lock").write_bytes(kept)
    lived.database.unlink()
    (lived.directory / "backup.witness").unlink(missing_ok=True)
    said = backup_cli("restore", lived.url, lived.directory, "--discard-newer", "unknown")
    assert said.code == 0, said
    assert "THE NODE DOES NOT START WITH IT" in said.text
    with pytest.raises(Refused, match="expects the backup"):
        lived.run(History(lived.version).notes(1))


def two_backups(lived: World, history: History) -> World:
    """The node had its backup at `first.bkp`, at version 6, and has another one since, at version 26."""
    lived.backup.rename(lived.backup.with_name("moved"))
    first = lived.backup.with_name("moved").as_uri()
    lived.backup = lived.backup.with_name("second.bkp")
    said = init(lived)
    assert said.code == 0, said
    lived.run(history.notes(LOST))
    lived.first = first  # type: ignore[attr-defined]
    return lived


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("lost", [False, True])
def test_restore_of_an_older_backup_than_the_one_in_backup_lock_is_refused(
    lived: World, history: History, away: bool, lost: bool
) -> None:
    """The newer one is on another disk, mounted or not: only its version may be given up."""
    world = two_backups(lived, history)
    first: str = world.first  # type: ignore[attr-defined]
    if away:
        world.backup.rename(world.root / "in a drawer")
    if lost:
        world.database.unlink()
    words = ["restore", "--replace", "--resume", first, str(world.directory)]
    pattern = "was at version 26 or later" if away else "at version 26: that is the newer state"
    if not lost:
        pattern = "at version 26, and the backup .* at version 6: the database is the newer state"
    assert_nothing_changes(world, lambda: backup_cli(*words), f"{pattern}.*--discard-newer 26 ")
    assert backup_cli(*words, "--discard-newer", 26).code == 0
    assert world.version == 6


def test_restore_of_a_backup_not_in_backup_lock_is_refused_if_neither_is_known_newer(
    lived: World, history: History
) -> None:
    world = two_backups(lived, history)
    first: str = world.first  # type: ignore[attr-defined]
    world.backup.rename(world.root / "in a drawer")
    world.database.unlink()
    (world.directory / "backup.witness").unlink()
    said = assert_nothing_changes(
        world, lambda: backup_cli("restore", first, world.directory), "nobody can tell whether .* holds a newer state"
    )
    assert "--discard-newer unknown" in said.err


def test_restore_of_the_same_backup_from_another_mount_needs_no_flag(lived: World, history: History) -> None:
    """As on the worst day: the disk is mounted elsewhere. No flag is asked for; an old copy of it is refused."""
    copy = lived.root / "old copy"
    shutil.copytree(lived.backup, copy)
    lived.run(history.notes(3))
    lived.database.unlink()
    said = backup_cli("restore", copy.as_uri(), lived.directory)
    assert_refused(said, "version 6, and .* is at version 9: that is the newer state")
    lived.backup.rename(lived.root / "mounted elsewhere")
    assert_refused(backup_cli("restore", copy.as_uri(), lived.directory), "was at version 9 or later")
    moved = (lived.root / "mounted elsewhere").as_uri()
    assert backup_cli("restore", "--resume", moved, lived.directory).code == 0
    assert lived.version == 9


# init and import


def second(world: World) -> World:
    world.backup = world.backup.with_name("second.bkp")
    return world


def test_init_of_an_older_database_beside_its_newer_backup_is_refused(set_back: World) -> None:
    said = assert_nothing_changes(
        set_back, lambda: init(second(set_back)), "at version 6, and .* names, is at version 26: .*--discard-newer 26 "
    )
    assert "to see how, run: backup-cli check-config" in said.err
    assert typed(told(check(set_back), "restore")).code == 0
    assert set_back.version == 26
    assert init(set_back).code == 0


def test_init_of_an_older_database_by_consent_keeps_the_old_backup(set_back: World) -> None:
    first = tree(set_back.backup)
    said = backup_cli("init", "--lightning-dir", set_back.directory, second(set_back).url, "--discard-newer", 26)
    assert said.code == 0
    assert tree(set_back.backup.with_name("lightning.bkp")) == first


def test_init_of_an_older_database_while_its_backup_is_away_is_refused(set_back: World) -> None:
    """The sync point on the node's side knows how far the backup was."""
    set_back.backup.rename(set_back.root / "away")
    said = assert_nothing_changes(set_back, lambda: init(second(set_back)), "was at version 26 or later when it last")
    assert "there is no backup at" in said.err and "--discard-newer 26 " in said.err


def test_init_after_a_destination_died_accepts_the_current_database(lived: World) -> None:
    """People run `init` at a new place then, and need no flag: the database is just as the plugin saw it a moment
    ago."""
    shutil.rmtree(lived.backup)
    said = init(second(lived))
    assert said.code == 0, said
    assert "cannot be compared with" in said.err and "counts as the newest state" in said.err


def test_init_after_a_destination_died_refuses_a_database_not_seen_for_hours(lived: World) -> None:
    """It may be the newest state, or a disk image of last week."""
    shutil.rmtree(lived.backup)
    then = time.time() - 7200
    before = lived.database.stat()
    second(lived)
    os.utime(lived.database, (then, then))
    said = assert_nothing_changes(lived, lambda: init(lived), "nobody can tell whether .* holds a newer state")
    assert "--discard-newer unknown" in said.err and "never with a copy of it" in said.err
    os.utime(lived.database, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert init(lived).code == 0


def test_init_after_node_and_destination_died_is_refused_without_consent(lived: World, history: History) -> None:
    """The sync point of a killed node may be behind."""
    node = lived.node()
    node.start()
    node.play(history.notes(3))
    node.die()
    shutil.rmtree(lived.backup)
    assert_nothing_changes(lived, lambda: init(second(lived)), "nobody can tell whether .*--discard-newer unknown")
    said = backup_cli("init", "--lightning-dir", lived.directory, lived.url, "--discard-newer", "unknown")
    assert said.code == 0


def test_init_without_a_database_is_refused_while_the_backup_holds_one(lived: World) -> None:
    lived.database.unlink()
    assert_nothing_changes(lived, lambda: init(second(lived)), "there is no database at .* is at version 6: .*newer 6 ")
    lived.backup.with_name("lightning.bkp").rename(lived.root / "away")
    assert_nothing_changes(lived, lambda: init(lived), "was at version 6 or later")


def test_init_in_an_old_directory_of_a_node_that_runs_elsewhere_is_refused(lived: World, history: History) -> None:
    """The database is at the same version or a higher one, but of another history."""
    other = World(lived.root / "other")
    other.directory.rmdir()
    shutil.copytree(lived.directory, other.directory)
    other.backup = lived.backup
    other.run(History(6).notes(2))
    lived.run_without_plugin(history.notes(9))
    assert_nothing_changes(lived, lambda: init(second(lived)), "last written by another node .*never start this one ag")


def test_init_with_an_older_database_than_the_legacy_backup_is_refused(world: World, tmp_path: Path) -> None:
    life = History()
    calls = [life.first(), *life.notes(30)]
    written(calls).save(tmp_path / "file.bkp")
    world.run_without_plugin(calls[:-4])
    (world.directory / "backup.lock").write_text(f'{{"backend_url": "{(tmp_path / "file.bkp").as_uri()}"}}')
    said = assert_nothing_changes(world, lambda: init(world), "older plugin's backup .* is at version 31: .*newer 31 ")
    assert "backup-cli restore file://" in said.err
    world.run_without_plugin(calls[-4:])
    assert init(world).code == 0


def test_import_of_an_older_legacy_backup_than_the_nodes_own_is_refused(set_back: World, tmp_path: Path) -> None:
    """The older plugin's file and the database agree: both are old."""
    life = History()
    calls: list[Call] = [life.first(), *life.notes(5)]
    written(calls).save(tmp_path / "file.bkp")
    words = ("import", "--lightning-dir", set_back.directory, tmp_path / "file.bkp", second(set_back).url)
    assert_nothing_changes(set_back, lambda: backup_cli(*words), "at version 6, and .* is at version 26")
    assert backup_cli(*words, "--discard-newer", 26).code == 0


# check-config, status and drill


def test_check_config_in_an_old_directory_advises_no_restore_while_the_node_runs_elsewhere(
    lived: World, history: History
) -> None:
    """To restore here and start would run two nodes with the same keys."""
    old = lived.root / "old" / "regtest"
    shutil.copytree(lived.directory, old)
    with lived.node() as node:
        node.play(history.notes(LOST))
        said = backup_cli("check-config", "--lightning-dir", old)
        assert said.code == 1
        assert "another node" in said.out and "two nodes with the same keys lose money" in said.out
        assert "backup-cli restore" not in said.out and "backup-cli resync" not in said.out
        node.play(history.notes(2))
    lived.assert_restored_equals_the_nodes()


def next_start(world: World) -> str:
    """How the plugin receives the node as it is: its refusal, or an empty string."""
    node = world.node()
    node.start()
    try:
        node.db_write(History(world.version).note() if world.version else History().first())
    except Refused as refused:
        return refused.message
    finally:
        node.die()
    return ""


def old_copy(by: int) -> Callable[[World, History], None]:
    def act(world: World, history: History) -> None:
        old = world.database.read_bytes()
        world.run(history.notes(by))
        world.database.write_bytes(old)

    return act


def another_history(world: World, history: History) -> None:
    """A database that is one behind, in a state that the backup has never seen."""
    world.run(history.notes(1))
    world.database.unlink()
    other = History()
    world.run_without_plugin([other.first(), *other.notes(4), other.note("another")])
    with closing(sqlite3.connect(world.database)) as connection, connection:
        connection.execute("PRAGMA user_version = 7")
    assert world.version == 6


def lose_the_database(world: World, history: History) -> None:
    world.run(history.notes(LOST))
    world.database.unlink()


def taken_over_elsewhere(world: World, history: History) -> None:
    other = World(world.root / "other")
    other.directory.rmdir()
    shutil.copytree(world.directory, other.directory)
    other.backup = world.backup
    other.run(History(6).notes(1))


def copy_while_running(behind: int, ahead: int, *, closed: bool) -> Callable[[World, History], None]:
    """Turn this world into a copy of itself, made while the node ran. The original has gone on since, and so has the
    copy."""

    def act(world: World, history: History) -> None:
        original = world.directory.with_name("original")
        with ExitStack() as stack:
            node = stack.enter_context(world.node()) if closed else world.node()
            if not closed:
                node.start()
            node.play(history.notes(3))
            shutil.copytree(world.directory, original)
            node.play(history.notes(behind))
            if not closed:
                node.die()
        shutil.rmtree(world.directory)
        original.rename(world.directory)
        world.run_without_plugin(History(world.version).notes(ahead))

    return act


def note_damage(world: World) -> None:
    backup_at(world.url).damage.note(found_now("verify", "a change cannot be replayed", 1))


def far_behind_with_known_damage(world: World, history: History) -> None:
    old_copy(LOST)(world, history)
    note_damage(world)


def moved_after_a_stop(world: World, history: History) -> None:
    copy = world.directory.with_name("copy")
    shutil.copytree(world.directory, copy)
    shutil.rmtree(world.directory)
    copy.rename(world.directory)


def moved_after_a_stop_and_ahead(world: World, history: History) -> None:
    moved_after_a_stop(world, history)
    world.run_without_plugin(history.notes(2))


def restored(world: World, history: History) -> None:
    """After the node was killed: its session has not ended, and never will."""
    copy_while_running(0, 0, closed=False)(world, history)
    assert restore(world, world.directory, "--replace", "--resume").code == 0


def restored_and_ahead(world: World, history: History) -> None:
    restored(world, history)
    world.run_without_plugin(history.notes(2))


STATES: dict[str, Callable[[World, History], object]] = {
    "equal": lambda world, history: None,
    "ahead": lambda world, history: world.run_without_plugin(history.notes(3)),
    "one behind": old_copy(1),
    "sixteen behind": old_copy(16),
    "seventeen behind": old_copy(17),
    "one behind in another history": another_history,
    "no database": lose_the_database,
    "taken over": taken_over_elsewhere,
    "another backup": lambda world, history: exchange(world),
    "a killed node's copy": copy_while_running(0, 0, closed=False),
    "a killed node's copy, behind": copy_while_running(3, 0, closed=False),
    "a killed node's copy, ahead": copy_while_running(3, 9, closed=False),
    "a killed node's copy, equal": copy_while_running(3, 3, closed=False),
    "a running node's copy, behind": copy_while_running(3, 0, closed=True),
    "a running node's copy, ahead": copy_while_running(3, 9, closed=True),
    "a running node's copy, equal": copy_while_running(3, 3, closed=True),
    "far behind, and known damage": far_behind_with_known_damage,
    "moved after a stop": moved_after_a_stop,
    "moved after a stop, and ahead": moved_after_a_stop_and_ahead,
    "restored after a crash": restored,
    "restored after a crash, and ahead": restored_and_ahead,
}


def exchange(world: World) -> None:
    other = World(world.root / "elsewhere").init()
    world.backup.rename(world.backup.with_name("right.bkp"))
    other.backup.rename(world.backup)


@pytest.mark.parametrize("state", STATES)
def test_check_config_and_status_predict_what_the_plugin_does_in_each_state(
    lived: World, history: History, state: str
) -> None:
    STATES[state](lived, history)
    status = backup_cli("status", "--lightning-dir", lived.directory, "--json")
    said = check(lived)
    lines = [line for line in said.out.splitlines() if re.match(r"\w+ +(version|destination) ", line)]
    problems = [line for line in lines if line.startswith("problem")]
    refusal = next_start(lived)
    assert bool(problems) == bool(refusal), (problems, refusal)
    assert ('"level": "problem"' in status.out) == bool(refusal)


# A copy that has diverged


COPIES = pytest.mark.parametrize("closed", [False, True], ids=["killed", "stopped"])


@COPIES
@pytest.mark.parametrize("ahead", [3, 9])
def test_no_command_in_a_diverged_copy_gives_up_changes_of_the_original(
    lived: World, history: History, ahead: int, closed: bool
) -> None:
    """The copy is at the same version, or at a higher one; it still lacks the three changes that were acknowledged."""
    copy_while_running(3, ahead, closed=closed)(lived, history)
    for act in (resync, elsewhere):
        said = assert_nothing_changes(lived, partial(act, lived), f"is at version {9 + ahead}, and .* at version 12; ")
        assert "looks like a copy that has gone its own way" in said.err and "--discard-newer 12 " in said.err
    assert "looks like a copy" in next_start(lived)
    assert resync(lived, "--discard-newer", 12).code == 0
    assert "versions       0 to 12" in backup_cli("versions", lived.url).out, "it is kept"
    lived.run(History(lived.version).notes(2))
    lived.assert_restored_equals_the_nodes()


def elsewhere(world: World) -> Said:
    return backup_cli("init", "--lightning-dir", world.directory, (world.root / "elsewhere.bkp").as_uri())


# A damaged backup that is ahead of the database


@pytest.mark.parametrize("damage", [note_damage, DAMAGED["a record's content has a flipped bit"]])
def test_advice_for_a_damaged_backup_that_is_ahead_is_never_contradictory(
    lived: World, history: History, damage: Callable[[World], object]
) -> None:
    """No start is advised that would be refused, and the restore changes nothing where damage prevents it."""
    old_copy(LOST)(lived, history)
    damage(lived)
    said = check(lived)
    assert said.code == 1 and "start the node, or restart it" not in said.out
    assert "shows that version 26 was once saved: the database has lost changes, or is an old copy" in said.out
    assert next_start(lived)
    before = tree(lived.root)
    restored = typed(told(said, "restore"))
    assert restored.code == 0 or tree(lived.root) == before


def test_drill_with_a_backup_behind_its_node_says_so(newer: World) -> None:
    said = backup_cli("drill", "--lightning-dir", newer.directory)
    assert said.code == 0
    assert "is 20 changes ahead of its backup" in said.err
    assert newer.version == 26


def test_damaged_database_is_kept_aside_by_the_advised_restore(lived: World) -> None:
    """Its version cannot be read; the command that check-config gives is enough."""
    lived.database.write_bytes(lived.database.read_bytes()[:9000])
    broken = lived.database.read_bytes()
    assert_refused(restore(lived, lived.directory, "--replace", "--resume"), "cannot be told from a damaged file")
    assert typed(told(check(lived), "restore")).code == 0
    assert lived.version == 6
    [aside] = lived.directory.glob(f"{DATABASE}.before-restore-*")
    assert aside.read_bytes() == broken
    lived.run(History(lived.version).notes(1))
    lived.assert_restored_equals_the_nodes()
