"""Somebody who can write to the destination puts an older state of the backup there.

The backup alone cannot show it: there is a warning only if the file `session` is gone, whatever was done to the log.
What the node remembers does show it, wherever the node can be asked.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.destination import cut, empty, forge_session, last_segment, put_back, records
from tests.end_to_end.db_compare import differences
from tests.end_to_end.world import Said, World, backup_cli, said_at, snapshots_taken
from tests.fake_lightningd import History, Refused

ENDS: dict[str, Callable[[Path], None]] = {
    "the log untouched": lambda segment: None,
    "the last record gone": lambda segment: cut(segment, len(records(segment)) - 1),
    "two records left": lambda segment: cut(segment, 2),
    "every record gone": empty,
    "the last segment's file gone": lambda segment: segment.unlink(),
}
"""What is done to the last segment. A backup of one segment without its file is damaged in any case."""


def warned(said: Said) -> bool:
    return "the file `session` is missing" in said.text


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("closed", [True, False], ids=["after a clean stop", "after a kill"])
def test_missing_session_marker_beside_any_log_is_warned_of_by_every_command(
    world: World, history: History, end: str, closed: bool, tmp_path: Path
) -> None:
    """In every combination, also if the log was emptied and looks like a backup that nobody has written to."""
    world.run_without_plugin([history.first(), *history.notes(3)])
    world.init()
    world.run(history.notes(4))
    if not closed:
        node = world.node()
        node.start()
        node.play(history.notes(2))
        node.die()
    ENDS[end](last_segment(world.backup))
    (world.backup / "session").unlink()
    verify = backup_cli("verify", world.url)
    if "file gone" in end:
        assert verify.code == 3
        assert "missing" in verify.text
        return
    assert verify.code == 0
    assert warned(verify)
    status = backup_cli("status", world.url)
    assert warned(status)
    assert "degraded" in status.text
    assert warned(backup_cli("versions", world.url))
    assert warned(backup_cli("restore", world.url, tmp_path / "restored"))
    assert warned(backup_cli("check-config", "--lightning-dir", world.directory))


@pytest.mark.parametrize("end", [end for end in ENDS if "untouched" not in end])
def test_log_shortened_after_a_clean_stop_is_damage(lived: World, end: str) -> None:
    ENDS[end](last_segment(lived.backup))
    for said in (backup_cli("verify", lived.url), backup_cli("status", lived.url)):
        assert said.code == 3, said


def test_new_backup_has_a_session_marker_whose_absence_is_warned_of(world: World) -> None:
    """Otherwise a backup that was never written to could not be told from one that was emptied."""
    world.init()
    assert not warned(backup_cli("status", world.url))
    assert backup_cli("status", world.url).code == 0
    (world.backup / "session").unlink()
    assert warned(backup_cli("status", world.url))


def test_missing_session_marker_is_logged_by_the_plugin(lived: World, history: History) -> None:
    (lived.backup / "session").unlink()
    node = lived.run(history.notes(1))
    assert any("`session` is missing" in line for line in said_at(node, "unusual"))


# An older copy, whole in itself


@pytest.fixture
def older(lived: World, history: History) -> int:
    """The node's version. Its backup has been replaced by a whole copy that is four changes older."""
    shutil.copytree(lived.backup, lived.root / "copy")
    lived.run(history.notes(4))
    put_back(lived.root / "copy", lived.backup)
    return history.version


OLDER = "the backup is older than that"


def test_older_copy_of_a_backup_passes_verify_without_the_node(lived: World, older: int) -> None:
    """docs/security.md says so plainly."""
    assert backup_cli("verify", lived.url).code == 0
    assert backup_cli("status", lived.url).code == 0


@pytest.mark.usefixtures("older")
@pytest.mark.parametrize("command", ["verify", "status", "check-config"])
def test_older_copy_of_a_backup_is_detected_beside_the_node(lived: World, history: History, command: str) -> None:
    arguments = {
        "verify": (lived.url, "--lightning-dir", lived.directory),
        "status": ("--lightning-dir", lived.directory),
        "check-config": ("--lightning-dir", lived.directory),
    }
    said = backup_cli(command, *arguments[command])
    assert OLDER in said.text or "differ" in said.text
    assert f"version {history.version} acknowledged" in said.text
    assert "backup-cli resync" in said.text
    if command != "status":
        assert said.code == 1


@pytest.mark.usefixtures("older")
def test_node_with_an_older_copy_of_its_backup_takes_a_snapshot_and_says_so(lived: World, history: History) -> None:
    """A snapshot of the database is put into the backup; nothing continues from the older state."""
    node = lived.run(history.notes(2))
    (line,) = said_at(node, "broken")
    assert OLDER in line
    assert len(snapshots_taken(node)) == 1
    lived.assert_restored_equals_the_nodes()


@pytest.fixture
def both_older(lived: World, history: History) -> int:
    """The newest version of a node whose database *and* backup were replaced by older copies, each whole in itself."""
    shutil.copytree(lived.backup, lived.root / "copy")
    shutil.copy2(lived.database, lived.root / "database")
    lived.run(history.notes(4))
    put_back(lived.root / "copy", lived.backup)
    shutil.copy2(lived.root / "database", lived.database)
    return history.version


def test_node_whose_database_and_backup_are_both_older_is_refused(lived: World, both_older: int) -> None:
    node = lived.node()
    node.start()
    before = lived.backup.joinpath("session").read_bytes()
    with pytest.raises(Refused, match=f"version {both_older} acknowledged.*can lose every channel"):
        node.db_write(History(lived.version).note())
    node.die()
    assert lived.backup.joinpath("session").read_bytes() == before


def test_verify_of_an_older_backup_and_an_equally_older_database_fails(lived: World, both_older: int) -> None:
    said = backup_cli("verify", lived.url, "--lightning-dir", lived.directory)
    assert "identical with the node's database" in said.text
    assert said.code == 1
    assert f"version {both_older} acknowledged" in said.text
    assert "resync" not in said.err.replace("what a resync replaced", "")


def test_check_config_reports_an_older_backup_and_an_equally_older_database(lived: World, both_older: int) -> None:
    said = backup_cli("check-config", "--lightning-dir", lived.directory)
    assert f"version {both_older} acknowledged" in said.text
    assert said.code == 1


def test_resync_of_an_older_state_needs_the_newer_version_typed_out(lived: World, both_older: int) -> None:
    said = backup_cli("resync", "--lightning-dir", lived.directory)
    assert said.code == 1
    assert f"--discard-newer {both_older}" in said.text
    assert backup_cli("resync", "--lightning-dir", lived.directory, "--discard-newer", both_older).code == 0
    lived.run([History(lived.version).note()])


def test_restore_of_an_older_copy_into_the_nodes_directory_needs_consent(
    lived: World, older: int, history: History
) -> None:
    lived.database.unlink()
    said = backup_cli("restore", "--resume", lived.url, lived.directory)
    assert said.code == 1
    assert OLDER in said.text
    assert not lived.database.exists()
    assert f"--discard-newer {older}" in said.text
    said = backup_cli("restore", "--resume", "--discard-newer", older, lived.url, lived.directory)
    assert said.code == 0, said
    lived.run([History(lived.version).note()])  # asked for, and the node goes on with it


def test_generation_older_than_the_session_marker_says_is_damage(lived: World) -> None:
    forge_session(lived, generation=7)
    assert backup_cli("verify", lived.url).code == 3


def test_nodes_own_kills_and_commands_are_never_taken_for_an_older_copy(lived: World, history: History) -> None:
    """The node's own kills, resyncs, compactions and restores leave nothing that a later start would refuse."""
    for round_ in range(3):
        node = lived.node()
        node.start()
        node.play(history.notes(3))
        node.die()
        said = backup_cli("check-config", "--lightning-dir", lived.directory)
        assert "own note" not in said.text, (round_, said)
        lived.run(history.notes(1))
    assert backup_cli("compact", lived.url).code == 0
    assert backup_cli("resync", "--lightning-dir", lived.directory).code == 0
    lived.run(history.notes(2))
    assert "own note" not in backup_cli("status", "--lightning-dir", lived.directory).text
    lived.database.unlink()
    assert backup_cli("restore", "--resume", lived.url, lived.directory).code == 0
    node = lived.run(history.notes(2))
    assert not said_at(node, "broken")
    assert differences(lived.restore(), lived.database) == []
