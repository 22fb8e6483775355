"""`backup-cli restore`: the database comes back, and nothing that is already in its place is lost."""

import fcntl
import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from tests.cli.cli_asserts import assert_refused, restore
from tests.end_to_end.corruption import DAMAGED
from tests.end_to_end.db_compare import differences, everything
from tests.end_to_end.world import World, command, said_at, tree
from tests.fake_lightningd import History, Moment, SeparateDatabase, has_hot_journal

# Where it goes


def test_restore_to_a_file_equals_the_nodes_database(lived: World, place: Path) -> None:
    said = restore(lived, place / "my.sqlite3")
    assert said.code == 0
    assert said.out == f"{place / 'my.sqlite3'}\n", "stdout is the path, and nothing else"
    assert differences(place / "my.sqlite3", lived.database) == []
    assert (place / "my.sqlite3").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in place.iterdir()] == ["my.sqlite3"], "nothing else is left there"


def test_restore_to_a_directory_writes_lightningd_sqlite3_there(lived: World, place: Path) -> None:
    assert restore(lived, place).code == 0
    assert differences(place / "lightningd.sqlite3", lived.database) == []


def test_restore_makes_a_missing_network_directory(lived: World, place: Path) -> None:
    assert restore(lived, place / "bitcoin").code == 0
    assert (place / "bitcoin").stat().st_mode & 0o777 == 0o700
    assert differences(place / "bitcoin" / "lightningd.sqlite3", lived.database) == []


def test_restore_to_a_path_with_a_tilde_goes_to_the_home_directory(
    lived: World, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(place))
    assert restore(lived, Path("~/x.sqlite3")).code == 0
    assert (place / "x.sqlite3").exists()


def test_restore_to_a_relative_path_goes_to_the_working_directory(
    lived: World, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    assert restore(lived, Path("x.sqlite3")).code == 0
    assert restore(lived, Path()).code == 0
    assert differences(place / "x.sqlite3", place / "lightningd.sqlite3") == []


def test_restore_to_a_file_that_lightningd_would_not_open_says_so(lived: World, place: Path) -> None:
    """A missing directory in DEST becomes a file of that name."""
    assert "lightningd does not see this file" in restore(lived, place / "new-node").err
    assert "does not see" not in restore(lived, place / "bitcoin").err


def test_restore_says_what_to_do_next_and_what_never_to_do(lived: World, place: Path) -> None:
    said = restore(lived, place).err
    for words in ("hsm_secret belongs next to", "must never run again", "Never start from an older copy", "--resume"):
        assert words in said


def test_restore_elsewhere_beside_a_running_node_succeeds(lived: World, place: Path, history: History) -> None:
    with lived.node() as node:
        node.play(history.notes(3))
        assert restore(lived, place).code == 0
        node.play(history.notes(3))
    lived.assert_restored_equals_the_nodes()


# Something is in its place already


def leftovers(place: Path, names: list[str]) -> list[Path]:
    paths = [place / f"lightningd.sqlite3{name}" for name in names]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths


@pytest.mark.parametrize("suffix", ["", "-journal", "-wal", "-shm"])
def test_restore_overwrites_no_database_and_no_journal(lived: World, place: Path, suffix: str) -> None:
    """Neither a database nor what SQLite keeps beside one: a stale journal would be rolled into the restored one."""
    leftovers(place, [suffix])
    before = tree(place)
    assert_refused(restore(lived, place), f"lightningd.sqlite3{suffix} exists already, and nothing .*add --replace")
    assert tree(place) == before


def test_restore_over_a_database_says_which_of_the_two_is_newer(lived: World, history: History, place: Path) -> None:
    assert restore(lived, place).code == 0
    assert_refused(restore(lived, place), f"holds version {lived.version}, the same as the backup's {lived.version};")
    lived.run(history.notes(2))
    now = lived.version
    assert_refused(restore(lived, place), f"holds version {now - 2}, older than the backup's {now};")
    lived.run_without_plugin(history.notes(3))
    before = tree(lived.root)
    said = restore(lived, lived.directory)
    assert_refused(said, f"holds version {now + 3}, the backup only {now}: it is the newer state.*add --replace")
    assert tree(lived.root) == before


@pytest.mark.parametrize("target", ["missing", "../elsewhere"])
def test_restore_overwrites_no_link(lived: World, place: Path, target: str) -> None:
    """Neither a dangling link nor one to a database on another disk."""
    shutil.copy(lived.database, place.parent / "elsewhere")
    (place / "lightningd.sqlite3").symlink_to(target)
    before = tree(place)
    assert_refused(restore(lived, place), "exists already" if "else" in target else "is a link to missing, and noth")
    assert tree(place) == before
    if target == "missing":
        assert_refused(restore(lived, place, "--replace"), "is that disk mounted.*remove the link first")
        assert tree(place) == before
        return
    said = restore(lived, place, "--replace", "--resume")
    assert said.code == 0
    assert f"is a link, and stays one: the database goes to {place.parent / 'elsewhere'}" in said.err
    assert (place / "lightningd.sqlite3").is_symlink(), "the disk that the operator has chosen for it"
    assert len(list(place.parent.glob("elsewhere.before-restore-*"))) == 1
    assert differences(place / "lightningd.sqlite3", lived.database) == []
    lived.directory = place
    lived.run(History(lived.version).notes(2))
    lived.assert_restored_equals_the_nodes()


def test_restore_replace_moves_database_and_journals_aside(lived: World, place: Path) -> None:
    names = ["", "-journal", "-wal", "-shm"]
    leftovers(place, names)
    before = tree(place)
    assert_refused(restore(lived, place, "--replace"), "cannot be told from a damaged file.*--discard-newer unknown")
    assert tree(place) == before
    said = restore(lived, place, "--replace", "--discard-newer", "unknown")
    assert said.code == 0
    kept = sorted(path.name for path in place.glob("*before-restore*"))
    assert len(kept) == 4
    assert [path.read_bytes() for path in sorted(place.glob("*before-restore*"))] == [
        f"lightningd.sqlite3{name}".encode() for name in sorted(names)
    ]
    assert all(name in said.err for name in kept)
    assert not any((place / f"lightningd.sqlite3{name}").exists() for name in names[1:])
    assert differences(place / "lightningd.sqlite3", lived.database) == []


def test_database_moved_aside_is_never_overwritten_by_a_later_restore(
    lived: World, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a second restore within one second, or after a clock was set back."""
    assert restore(lived, place, "--resume").code == 0
    lock = (place / "backup.lock").read_bytes()
    [first, *_] = leftovers(place, ["", "-journal"])
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101-000000")
    for _ in range(12):
        assert restore(lived, place, "--replace", "--resume", "--discard-newer", "unknown").code == 0
    kept = [path for path in place.glob("*before-restore*") if not path.name.endswith("-journal")]
    assert len(kept) == 12
    assert [path.read_bytes() for path in kept].count(first.name.encode()) == 1
    assert len(list(place.glob("*before-restore*-journal"))) == 1
    assert [path.read_bytes() for path in place.glob("backup.lock.*")] == [lock] * 12


def test_database_moved_aside_still_has_its_hot_journal(lived: World, history: History) -> None:
    """Their names still belong together, so that SQLite would still roll the hot journal back."""
    lived.run([history.big()])
    before = everything(lived.database)
    node = lived.node(database=partial(SeparateDatabase, cache_pages=10))
    node.start()
    node.die_at(
        Moment.BEFORE_HOOK, history.transaction("UPDATE vars SET blobval = x'00' WHERE substr(name, 1, 3) = 'big'")
    )
    assert has_hot_journal(lived.directory)
    assert restore(lived, lived.directory, "--replace").code == 0
    [aside] = [path for path in lived.directory.glob("*before-restore*") if not path.name.endswith("-journal")]
    assert everything(aside) == before
    assert everything(lived.database) == before


def test_restore_replace_from_a_damaged_backup_replaces_nothing(lived: World, place: Path) -> None:
    leftovers(place, ["", "-journal"])
    DAMAGED["a record's content has a flipped bit"](lived)
    before = tree(place)
    assert_refused(restore(lived, place, "--replace"), "damaged", code=3)
    assert tree(place) == before


# Going on with the same backup


def test_resume_lets_the_restored_node_go_on_with_the_backup(lived: World, place: Path, history: History) -> None:
    said = restore(lived, place, "--resume")
    assert said.code == 0
    assert "the node goes on with" in said.err
    assert f"if it will work in {place}/bitcoin, restore to that one" in said.err
    assert ((place / "backup.lock").stat().st_mode & 0o777) == 0o600
    new = World(lived.root / "elsewhere")
    new.directory, new.backup = place, lived.backup
    for _ in range(2):
        node = new.run(history.notes(2))
        assert said_at(node, "unusual") == [], "it knows that this is what the backup holds"
    new.assert_restored_equals_the_nodes()


def test_resume_from_a_read_only_backup_restores_and_says_what_is_missing(lived: World, place: Path) -> None:
    """A careful person mounts the backup read-only: it can be restored from, but not continued."""
    if os.geteuid() != 0 or subprocess.run(["mount", "--bind", lived.backup, lived.backup]).returncode:
        pytest.skip("needs root, to mount the destination read-only")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", lived.backup], check=True)
        told = [restore(lived, place / "bitcoin", *options) for options in (("--resume",), ("--replace",))]
    finally:
        subprocess.run(["umount", lived.backup], check=True)
    assert [said.code for said in told] == [0, 0]
    assert ["would stop at its first commit" in said.err for said in told] == [True, False]


def test_resume_in_the_nodes_own_directory_after_losing_its_database(lived: World, history: History) -> None:
    lived.database.unlink()
    said = restore(lived, lived.directory, "--resume")
    assert said.code == 0
    assert "warning" not in said.err
    assert len(list(lived.directory.glob("backup.lock.*"))) == 1
    lived.run(history.notes(2))
    lived.assert_restored_equals_the_nodes()


def test_restore_without_resume_keeps_an_existing_backup_lock(lived: World, history: History) -> None:
    """The node does not need a new backup, and the message must not say so."""
    said = restore(lived, lived.directory, "--replace")
    assert said.code == 0
    assert "the node goes on with the backup that it names" in said.err
    assert "has no backup yet" not in said.err
    lived.run(history.notes(2))
    lived.assert_restored_equals_the_nodes()


def test_resume_restores_an_acknowledged_change_that_was_never_committed(lived: World, history: History) -> None:
    """The node's disk died with it: what the plugin acknowledged is the newest state."""
    call = history.note()
    node = lived.node()
    node.start()
    node.die_at(Moment.BEFORE_COMMIT, call)
    assert restore(lived, lived.directory, "--replace", "--resume").code == 0
    assert lived.version == call.data_version
    lived.run(history.notes(2))
    lived.assert_restored_equals_the_nodes()


def test_resume_to_a_file_is_refused(lived: World, place: Path) -> None:
    assert_refused(restore(lived, place / "x.sqlite3", "--resume"), "--resume needs DEST to be a node's directory")
    assert list(place.iterdir()) == []


# Old versions, for looking at


def test_old_version_is_never_restored_under_a_database_name(lived: World, place: Path) -> None:
    usage = restore(lived, place, "--not-for-a-node")
    assert (usage.code, "needs --to-version, --to-time or --kept" in usage.err) == (2, True)
    assert_refused(restore(lived, place, "--to-version", "3"), "for looking at only")
    refused = restore(lived, place, "--to-version", "3", "--not-for-a-node", "--resume")
    assert_refused(refused, "for looking at only")
    assert list(place.iterdir()) == []
    assert restore(lived, place, "--to-version", "3", "--not-for-a-node").code == 0
    assert [path.name for path in place.glob("*.sqlite3*")] == ["lightningd.sqlite3.version-3-NOT-FOR-A-NODE"]


def test_restore_of_a_version_outside_the_backup_is_refused(taken_over: World, place: Path) -> None:
    for version, sentence in (("2", "goes back to version 4, not to 2"), ("99", "ends at version 12, before 99")):
        assert_refused(restore(taken_over, place, "--to-version", version, "--not-for-a-node"), sentence)
    assert list(place.glob("*.sqlite3*")) == []


# Interrupted


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A node whose restore takes long enough to be stopped in the middle; it is only read."""
    world, history = World(tmp_path_factory.mktemp("large")), History()
    world.init().run([history.first(), *(history.big(4 << 20) for _ in range(8))])
    return world


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("after", [0.0, 0.1, 0.3])
def test_restore_stopped_by_a_signal_leaves_nothing(
    large: World, place: Path, after: float, number: signal.Signals
) -> None:
    process = subprocess.Popen(command("restore", large.url, place / "bitcoin"), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "Restoring" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(after)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    if "stopped; the unfinished work was undone" not in said and process.returncode in (
        0,
        -number,
    ):  # when all was done
        assert differences(place / "bitcoin" / "lightningd.sqlite3", large.database) == []
        return
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert "nothing that was there before has changed" in said
    assert list(place.iterdir()) == []


def test_files_left_by_a_killed_restore_are_removed_by_the_next_one(lived: World, place: Path) -> None:
    """The leftovers of a killed restore hold channel secrets; the next restore removes them."""
    left, another = place / ".lightningd-backup-left", place / ".lightningd-backup-another"
    for path in (left, another):
        path.mkdir(mode=0o700)
        (path / "lock").touch()
        (path / "restoring.sqlite3").write_bytes(b"half a database")
    with (another / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert restore(lived, place).code == 0
    assert not left.exists()
    assert another.exists(), "that one is still at work"
