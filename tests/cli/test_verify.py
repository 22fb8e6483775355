"""`backup-cli verify`: every kind of damage is found, and a difference to the node's own database is reported."""

import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from backends import backup_at
from backends.change import Change
from tests.cli.cli_asserts import assert_refused
from tests.end_to_end.corruption import DAMAGED, DAMAGED_OUT_OF_SIGHT, flip, from_a_later_release, in_file, segment
from tests.end_to_end.world import Said, World, as_mortal, backup_cli, command, spawned, tree
from tests.fake_lightningd import History
from tests.log.histories import silent
from tests.node.processes import running


def verify(world: World, *options: object) -> Said:
    return backup_cli("verify", world.url, *options)


def test_verify_of_a_whole_backup_passes_and_changes_nothing(taken_over: World) -> None:
    before = taken_over.everything_on_disk()
    said = verify(taken_over)
    assert said.code == 0
    assert "is whole: version 12" in said.out
    assert "8 changes replayed, integrity ok" in said.out
    assert taken_over.everything_on_disk() == before


def test_verify_of_a_backup_whose_node_never_started_passes(world: World) -> None:
    world.init()
    assert "is whole: version 0" in verify(world).out


def test_verify_of_a_backup_equal_to_the_nodes_database_says_identical(taken_over: World) -> None:
    said = verify(taken_over, "--lightning-dir", taken_over.directory.parent)
    assert said.code == 0
    assert "identical with the node's database: " in said.out


def test_verify_beside_a_running_node_passes(lived: World, history: History) -> None:
    with lived.node() as node:
        for _ in range(3):
            node.play(history.notes(3))
            assert verify(lived).code == 0


@pytest.mark.parametrize("what", [*DAMAGED, *DAMAGED_OUT_OF_SIGHT])
def test_verify_names_each_kind_of_damage_and_changes_nothing(taken_over: World, what: str) -> None:
    (DAMAGED | DAMAGED_OUT_OF_SIGHT)[what](taken_over)
    before = tree(taken_over.root)
    assert_refused(verify(taken_over), r"the backup is damaged: .* at byte \d+; .*keep every disk", code=3)
    (taken_over.backup / "damage").unlink(missing_ok=True)  # where the finding is noted
    assert tree(taken_over.root) == before


def test_verify_of_damage_in_the_middle_names_file_offset_and_last_good_version(lived: World, history: History) -> None:
    lived.run(history.notes(20))
    data = segment(lived).read_bytes()
    flip(segment(lived), len(data) // 2)
    assert_refused(verify(lived), r"segment-00000001 at byte \d+; the last good version is \d+", code=3)


@pytest.mark.parametrize("name", ["manifest", "segment", "snapshot", "session"])
def test_verify_of_a_backup_of_a_later_release_is_refused(taken_over: World, name: str) -> None:
    in_file(name, from_a_later_release)(taken_over)
    assert_refused(verify(taken_over), "newer lightningd-backup.*install that release")


def test_verify_does_not_call_a_torn_end_damage(lived: World, history: History) -> None:
    node = lived.node()
    node.start()
    node.play(history.notes(2))
    node.db_write(history.big(1 << 16))
    node.die()
    data = segment(lived).read_bytes().rstrip(b"\0")
    segment(lived).write_bytes(data[: data.rindex(b"\xb5R") + 45])
    said = verify(lived)
    assert said.code == 0
    assert "torn, as a power cut leaves it" in said.err
    assert "is whole: version 8" in said.out


# Compared with the node's own


def test_verify_lists_each_difference_and_shows_no_value(lived: World) -> None:
    with closing(sqlite3.connect(lived.database)) as connection, connection:
        connection.execute("UPDATE vars SET val = 'a secret' WHERE name = 'note 3'")
        connection.execute("CREATE TABLE more (id INTEGER)")
    said = verify(lived, "--lightning-dir", lived.directory)
    assert said.code == 1
    assert "is whole: version 6" in said.out
    assert "DIFFERENT: table vars: 1 row with other content" in said.out
    assert "DIFFERENT: table more is only in" in said.out
    assert "a secret" not in said.text
    assert "backup-cli resync" in said.err


def test_verify_of_a_node_that_ran_without_the_plugin_counts_its_rows(lived: World, history: History) -> None:
    lived.run_without_plugin(history.notes(2))
    said = verify(lived, "--lightning-dir", lived.directory)
    assert said.code == 1
    assert "2 rows only in" in said.out


def test_verify_accepts_dangling_rows_that_the_node_has_too(lived: World, history: History) -> None:
    """A node may have rows that refer to nothing; a backup that has the same rows is right."""
    lived.run(
        [
            history.foreign_keys(on=False),
            history.transaction(
                "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
                "CREATE TABLE children (parent REFERENCES parents(id))",
                "INSERT INTO children VALUES (7)",
            ),
            history.foreign_keys(on=True),
        ]
    )
    said = verify(lived, "--lightning-dir", lived.directory)
    assert said.code == 0
    assert "note: the node's own database also has this: table children: 1 row" in said.err


def test_verify_against_a_missing_or_open_database_is_refused(lived: World) -> None:
    with running("import sqlite3; c = sqlite3.connect(a[0]); c.execute('SELECT * FROM vars')", lived.database):
        refused = verify(lived, "--lightning-dir", lived.directory)
        assert_refused(refused, r"in use: process .* To verify the backup alone, .* type: backup-cli verify ")
        words = shlex.split(refused.err.strip().rpartition("type: backup-cli ")[2])
        assert words[-1] == lived.url
        assert backup_cli(*words).code == 0
    lived.database.unlink()
    assert_refused(verify(lived, "--lightning-dir", lived.directory), "there is no database at")


# Places


def test_verify_leaves_nothing_in_the_scratch_directory(lived: World, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert verify(lived, "--scratch", scratch).code == 0
    DAMAGED["a record's content has a flipped bit"](lived)
    assert verify(lived, "--scratch", scratch).code == 3
    assert list(scratch.iterdir()) == []
    missing = verify(lived, "--scratch", scratch / "missing")
    assert missing.code == 2
    assert "does not exist" in missing.err


def test_verify_of_a_read_only_backup_passes(lived: World) -> None:
    """A disk that was put aside, mounted read-only so that nothing can happen to it."""
    for path in lived.backup.iterdir():
        path.chmod(0o400)
    lived.backup.chmod(0o500)
    try:
        said = spawned(*as_mortal(), *command("verify", lived.url))
    finally:
        lived.backup.chmod(0o700)
    assert said.code == 0, said
    assert "is whole" in said.out


@pytest.mark.parametrize(("url", "code"), [("file:///no/such/place", 1), ("nonsense", 2), ("file://", 2)])
def test_verify_without_a_backup_fails_with_the_right_exit_code(url: str, code: int) -> None:
    assert backup_cli("verify", url).code == code


def test_verify_of_a_hostile_attach_statement_refuses_it(lived: World, history: History) -> None:
    """Only a person with the disk in their hands could have written it there; it must have no effect."""
    target = lived.root / "attached.sqlite3"
    writer = backup_at(lived.url).open(silent)
    writer.append(Change(7, [f"ATTACH '{target}' AS x", *history.note().writes]))
    writer.close()
    said = verify(lived)
    assert_refused(said, "contains what no node writes.*ATTACH", code=3)
    assert not target.exists()


def test_verify_and_restore_report_a_missing_session_marker(taken_over: World) -> None:
    """The marker says how far the log went; without it a log that was cut between two records looks whole."""
    (taken_over.backup / "session").unlink()
    said = verify(taken_over)
    assert said.code == 0
    assert "the file `session` is missing" in said.err
    restored = backup_cli("restore", taken_over.url, taken_over.root / "restored.sqlite3")
    assert restored.code == 0
    assert "the file `session` is missing" in restored.err
    assert taken_over.status()["health"] == "degraded"


def test_verify_of_a_broken_session_marker_names_a_restorable_version(taken_over: World) -> None:
    (taken_over.backup / "session").write_bytes(b"")
    assert_refused(verify(taken_over), "session marker cannot be read.*last good version is 12", code=3)
    target = taken_over.root / "old.sqlite3"
    said = backup_cli("restore", "--to-version", 12, "--not-for-a-node", taken_over.url, target)
    assert said.code == 0, said
