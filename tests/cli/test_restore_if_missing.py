"""`restore --if-missing`, as an entrypoint runs it: it restores what is missing, and touches nothing that is there. No
node starts empty by mistake."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from backends.node import hand_over as handing_over
from backends.node.writer_lock import WriterLock
from backends.places.file import FilePlace
from backup_cli.restore_members import Source
from backup_cli.restore_place import Unfinished
from tests.cli.cli_asserts import assert_refused, restore
from tests.cli.encrypted import lost
from tests.cli.several import dying, init_several, killed, place_of
from tests.end_to_end.corruption import edit_document
from tests.end_to_end.db_compare import differences
from tests.end_to_end.world import DATABASE, Said, World, backup_cli, said_at, tree
from tests.fake_lightningd import History

pytestmark = pytest.mark.usefixtures("jobs_here")

MANY = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 400) SELECT i FROM n"
"""More rows than SQLite's cache holds here: some are written before the commit."""

ENTRYPOINT = ("--if-missing", "--resume", "--json")


def entrypoint(world: World, dest: Path, *options: str) -> tuple[Said, dict[str, Any]]:
    """What an entrypoint's restore has said, and its JSON document."""
    said = restore(world, dest, *ENTRYPOINT, *options)
    assert "Traceback" not in said.err
    return said, json.loads(said.out)


def assert_restored(world: World, dest: Path) -> None:
    """The restore succeeds, and equals the node's database in `lost`."""
    said, document = entrypoint(world, dest)
    assert said.code == 0, said
    assert document["restored"] and document["resumed"]
    assert differences(dest / DATABASE, world.root / "lost" / DATABASE) == []


def assert_goes_on(world: World, place: Path) -> None:
    """A node that is started there goes on with the same backup."""
    world.directory = place
    node = world.run(History(world.version).notes(2))
    assert said_at(node, "broken") == []
    world.assert_restored_equals_the_nodes()


def test_missing_database_is_restored_and_the_node_goes_on(lived: World) -> None:
    place = lost(lived)
    assert_restored(lived, place)
    assert_goes_on(lived, place)


def test_database_that_is_there_is_left_alone_with_the_destination_away(lived: World) -> None:
    """An entrypoint runs at each start: also while the NAS reboots, and whatever the plugin says about that later."""
    lived.backup.rename(lived.backup.with_name("away"))
    before = tree(lived.root, locks=True)
    said, document = entrypoint(lived, lived.directory)
    assert said.code == 0
    assert document == {
        "path": str(lived.database),
        "restored": False,
        "reason": "there",
        "resumed": False,
        "warnings": [],
    }
    assert f"{lived.database} is there, so nothing was restored." in said.err
    assert tree(lived.root, locks=True) == before
    assert restore(lived, lived.directory, "--if-missing").out == ""


def test_newer_database_than_the_backup_is_left_alone(lived: World, history: History) -> None:
    lived.run_without_plugin(history.notes(3))
    before = tree(lived.root)
    assert entrypoint(lived, lived.directory)[0].code == 0
    assert tree(lived.root) == before


def test_older_database_is_left_to_the_plugin(lived: World) -> None:
    """Which rolls it forward or refuses it. An entrypoint that replaced it would decide what a person must."""
    with sqlite3.connect(lived.database) as connection:
        connection.execute("UPDATE vars SET intval = intval - 1 WHERE name = 'data_version'")
    connection.close()
    before = tree(lived.root)
    assert entrypoint(lived, lived.directory)[0].code == 0
    assert tree(lived.root) == before


def test_database_beside_a_running_node_is_there(lived: World, history: History) -> None:
    with lived.node() as node:
        node.play(history.notes(1))
        assert entrypoint(lived, lived.directory)[1]["reason"] == "there"
        node.play(history.notes(1))
    lived.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_database_with_a_wal_or_a_hot_journal_is_there(lived: World, mode: str) -> None:
    """As kill -9 leaves them. The changes in the WAL are part of the database."""
    crashed = lived.root / "crashed"
    connection = sqlite3.connect(lived.database, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("PRAGMA cache_size = 5")
    connection.execute("CREATE TABLE more (a)")
    connection.execute("BEGIN")
    connection.execute(f"INSERT INTO more SELECT hex(zeroblob(500)) FROM ({MANY})")
    shutil.copytree(lived.directory, crashed)
    connection.execute("ROLLBACK")
    connection.close()
    beside = crashed / f"{DATABASE}-{'wal' if mode == 'wal' else 'journal'}"
    assert beside.stat().st_size > 0
    before = tree(crashed)
    assert entrypoint(lived, crashed)[1]["reason"] == "there"
    assert tree(crashed) == before


@pytest.mark.parametrize("leftover", ["empty file", "empty file and journal", "first transaction"])
def test_what_a_first_start_that_was_killed_has_left_is_no_database(lived: World, leftover: str) -> None:
    place = lost(lived)
    if leftover == "first transaction":
        _killed_in_first_transaction(place / DATABASE)
    else:
        (place / DATABASE).touch()
        if leftover != "empty file":
            (place / f"{DATABASE}-journal").write_bytes(bytes(512))
    names = [path.name for path in place.iterdir()]
    assert_restored(lived, place)
    assert len(list(place.glob("*.before-restore-*"))) == len(names), "moved aside, not deleted"


def _killed_in_first_transaction(path: Path) -> None:
    """A hot journal, which says that the database was empty, beside pages that are already written."""
    making = path.with_name("making")
    connection = sqlite3.connect(making, isolation_level=None)
    connection.execute("PRAGMA cache_size = 5")
    connection.execute("BEGIN")
    connection.execute("CREATE TABLE vars (name, intval)")
    connection.execute(f"INSERT INTO vars SELECT hex(zeroblob(500)), i FROM ({MANY})")
    for suffix in ("", "-journal"):
        shutil.copy(f"{making}{suffix}", f"{path}{suffix}")
    connection.execute("ROLLBACK")
    connection.close()
    making.unlink()
    assert path.stat().st_size > 0


def broken_in(place: Path, what: str) -> str:
    """Put something at the database's place that is none; returns what the error says."""
    database = place / DATABASE
    if what == "journal alone":
        (place / f"{DATABASE}-journal").write_bytes(b"x")
        return "belongs to a database that is not there"
    if what == "empty beside a WAL":
        database.touch()
        (place / f"{DATABASE}-wal").write_bytes(b"x")
        return "is empty, and .*-wal beside it is not"
    if what == "zeros":
        database.write_bytes(bytes(1 << 20))
        return "file is not a database|is damaged"
    if what == "many zeros":
        database.write_bytes(bytes((16 << 20) + 1))
        return "is no SQLite database"
    if what == "another program's":
        with sqlite3.connect(database) as connection:
            connection.execute("CREATE TABLE theirs (a)")
        connection.close()
        return "is not a database of lightningd"
    if what == "damaged":
        with sqlite3.connect(database) as connection:
            connection.execute("CREATE TABLE vars (a)")
        connection.close()
        database.write_bytes(database.read_bytes()[:100] + bytes(1000) + database.read_bytes()[1100:])
        return "is damaged"
    database.symlink_to("/nowhere/lightningd.sqlite3")
    return "is that disk mounted"


@pytest.mark.parametrize(
    "what",
    ["journal alone", "empty beside a WAL", "zeros", "many zeros", "another program's", "damaged", "dangling link"],
)
def test_what_is_no_database_is_refused_and_kept(lived: World, what: str) -> None:
    """From a real failure: after a power cut on XFS a file may hold nothing but zeros."""
    place = lost(lived)
    words = broken_in(place, what)
    before = tree(place)
    assert_refused(
        restore(lived, place, "--if-missing", "--resume"), f"{words}.*[Nn]othing was restored|{words}.*--replace"
    )
    assert tree(place) == before


def test_copy_that_was_not_promoted_is_refused(lived: World) -> None:
    place = lost(lived)
    assert backup_cli("follow", "--once", lived.url, place).code == 0
    (place / "following.sqlite3").rename(place / DATABASE)
    assert_refused(restore(lived, place, "--if-missing"), "never promoted.*Nothing was restored")


STEPS = {
    "before the database": (Unfinished, "publish", 1),
    "before anything is recorded": (Source, "hand_over", 1),
    "before the lock": (handing_over, "write_settings", 1),
    "before all is recorded again": (Source, "hand_over", 2),
}


@pytest.mark.parametrize("step", STEPS)
def test_restore_that_was_killed_is_finished_by_the_next(
    lived: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Above all, a database without backup.lock must never stay: the entrypoint would find it there at each start, and
    the plugin refuse it."""
    place = lost(lived)
    owner, name, at = STEPS[step]
    real = getattr(owner, name)
    monkeypatch.setattr(owner, name, dying(real, at))
    assert killed(lambda: entrypoint(lived, place)), step
    monkeypatch.setattr(owner, name, real)
    assert (place / "backup.lock").exists() or not (place / DATABASE).exists()
    said, document = entrypoint(lived, place)
    assert said.code == 0 and not document["warnings"]
    assert differences(place / DATABASE, lived.root / "lost" / DATABASE) == []
    if not document["restored"]:  # it was there, with nothing recorded about it
        assert_goes_on(lived, place)


def test_second_entrypoint_is_refused_while_the_first_restores(lived: World) -> None:
    place = lost(lived)
    with WriterLock(place, "backup-cli restore"):
        _, document = entrypoint(lived, place)
        assert document["error"]["kind"] == "in_use"
        assert not (place / DATABASE).exists()
    assert_restored(lived, place)


@pytest.mark.parametrize("options", [[], ["--if-missing"]])
def test_database_that_came_while_the_lock_was_awaited_is_kept(
    lived: World, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """The first of two restores ends, and its node is started and stopped, before the second one takes the lock."""
    place = lost(lived)
    acquire = WriterLock.acquire

    def late(self: WriterLock) -> None:
        monkeypatch.setattr(WriterLock, "acquire", acquire)
        assert restore(lived, place, "--resume").code == 0
        (place / DATABASE).open("ab").close()
        acquire(self)

    monkeypatch.setattr(WriterLock, "acquire", late)
    said = restore(lived, place, "--resume", *options)
    inode = (place / DATABASE).stat().st_ino
    if options:
        assert said.code == 0 and "is there, so nothing was restored" in said.err
    else:
        assert_refused(said, "another process has changed what is at")
    assert (place / DATABASE).stat().st_ino == inode
    assert not list(place.glob("*.before-restore-*"))


# The backup is empty, or there is none


def test_node_that_never_started_begins_empty_with_its_backup(world: World, history: History) -> None:
    world.init()
    for _ in range(2):
        said, document = entrypoint(world, world.directory)
        assert said.code == 0
        assert (document["restored"], document["reason"]) == (False, "backup_is_empty")
        assert "the node begins empty" in said.err
    world.run([history.first(), *history.notes(2)])
    world.assert_restored_equals_the_nodes()
    assert entrypoint(world, world.directory)[1]["reason"] == "there"


def test_lost_volume_of_a_node_that_never_started_gets_its_lock_back(world: World, history: History) -> None:
    world.init()
    shutil.rmtree(world.directory)
    assert entrypoint(world, world.directory)[1]["resumed"]
    world.run([history.first()])
    world.assert_restored_equals_the_nodes()


def test_empty_backup_beside_an_hsm_secret_is_warned_of(world: World) -> None:
    world.init()
    (world.directory / "hsm_secret").write_bytes(bytes(32))
    [warning] = entrypoint(world, world.directory)[1]["warnings"]
    assert "do not start it empty" in warning


def test_without_any_backup_nothing_starts_and_init_is_advised(world: World) -> None:
    world.backup.mkdir()
    assert_refused(
        restore(world, world.directory, "--if-missing", "--resume"),
        f"loses its channels. Only if it has never run.*backup-cli init --lightning-dir {world.directory} {world.url}",
    )
    assert not any(world.directory.iterdir())


def test_destination_that_is_not_mounted_starts_no_empty_node(world: World) -> None:
    shutil.rmtree(world.backup.parent)
    said, document = entrypoint(world, world.directory)
    assert said.code == 1
    assert document["error"]["kind"] == "unreachable"
    assert not any(world.directory.iterdir())


# Another node, several members, options


@pytest.mark.parametrize(("age", "code"), [(5, 1), (7200, 0)])
def test_backup_that_another_machine_may_be_writing_to_is_waited_for(
    lived: World, place: Path, monkeypatch: pytest.MonkeyPatch, age: float, code: int
) -> None:
    """A container is moved while its old machine is only cut off: a person would be warned, but nobody reads that."""
    edit_document(lived.backup / "session", host="another-machine", closed=False)
    monkeypatch.setattr(FilePlace, "only_this_machine_writes", lambda place: False)
    now = lived.status()["last_change"]
    monkeypatch.setattr("backup_cli.ownership.time.time", lambda: now + age)
    said, document = entrypoint(lived, place)
    assert said.code == code
    assert code == 0 or document["error"]["kind"] == "in_use"
    assert code == 0 or "repeat this 60 seconds after" in document["error"]["message"]
    assert code == 0 or not any(place.iterdir())
    if code:
        assert entrypoint(lived, place, "--take-over")[1]["restored"]


def test_members_that_are_missing_are_asked_for(world: World, history: History) -> None:
    world.run_without_plugin([history.first(), *history.notes(2)])
    assert init_several(world, "disk", "nas").code == 0
    place = lost(world)
    world.backup = place_of(world, "disk")
    away = place_of(world, "nas")
    away.rename(away.with_name("away"))
    said, document = entrypoint(world, place)
    assert (said.code, document["error"]["without"]) == (1, ["nas"])
    away.with_name("away").rename(away)
    assert entrypoint(world, place)[1]["restored"]


def test_dry_run_says_what_would_be_done(lived: World) -> None:
    assert entrypoint(lived, lived.directory, "--dry-run")[1] == {"dry_run": True, "would": [], "warnings": []}
    place = lost(lived)
    before = tree(place)
    would = entrypoint(lived, place, "--dry-run")[1]["would"]
    assert any(step.startswith("write the database") for step in would)
    assert tree(place) == before


@pytest.mark.parametrize("option", ["--replace", "--kept", "--to-version=1", "--to-time=2h"])
def test_options_that_mean_the_opposite_are_usage_errors(lived: World, option: str) -> None:
    more = [] if option == "--replace" else ["--not-for-a-node"]
    said = restore(lived, lived.directory, "--if-missing", option, *more)
    assert said.code == 2
    assert "so not with" in said.err
