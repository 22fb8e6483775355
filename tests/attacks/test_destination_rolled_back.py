"""Somebody who can write to the destination puts an older state of the backup there.

What lies there cannot show it: a warning comes where the file `session` is gone, whatever was done to the log. What the
node remembers does show it, wherever it can be asked.
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
@pytest.mark.parametrize("closed", [True, False], ids=["after an orderly stop", "after a kill"])
def test_session_removed_and_log_shortened_is_warned_of_by_every_command(
    world: World, history: History, end: str, closed: bool, tmp_path: Path
) -> None:
    """In every combination, also when the log is emptied and looks like a backup that nobody has written to."""
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
def test_log_shortened_beside_the_session_of_an_orderly_stop_is_damage(lived: World, end: str) -> None:
    ENDS[end](last_segment(lived.backup))
    for said in (backup_cli("verify", lived.url), backup_cli("status", lived.url)):
        assert said.code == 3, said


def test_no_backup_is_made_without_a_session(world: World) -> None:
    """Else nobody could tell one that was never written to from one that was emptied."""
    world.init()
    assert not warned(backup_cli("status", world.url))
    assert backup_cli("status", world.url).code == 0
    (world.backup / "session").unlink()
    assert warned(backup_cli("status", world.url))


def test_plugin_tells_of_a_missing_session(lived: World, history: History) -> None:
    (lived.backup / "session").unlink()
    node = lived.run(history.notes(1))
    assert any("`session` is missing" in line for line in said_at(node, "unusual"))


# An older copy, whole in itself


@pytest.fixture
def older(lived: World, history: History) -> int:
    """The node's version; its backup has been put back by four changes, whole and without a mark of it."""
    shutil.copytree(lived.backup, lived.root / "copy")
    lived.run(history.notes(4))
    put_back(lived.root / "copy", lived.backup)
    return history.version


OLDER = "the backup is older than that"


def test_older_copy_looks_whole_to_whoever_knows_nothing_else(lived: World, older: int) -> None:
    """Said plainly in docs/security.md."""
    assert backup_cli("verify", lived.url).code == 0
    assert backup_cli("status", lived.url).code == 0


@pytest.mark.usefixtures("older")
@pytest.mark.parametrize("command", ["verify", "status", "check-config"])
def test_older_copy_is_found_out_where_the_node_can_be_asked(lived: World, history: History, command: str) -> None:
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
def test_node_with_its_newest_database_goes_on_and_says_what_was_done(lived: World, history: History) -> None:
    """What the database holds is put into the backup; nobody goes on from the older state."""
    node = lived.run(history.notes(2))
    (line,) = said_at(node, "broken")
    assert OLDER in line
    assert len(snapshots_taken(node)) == 1
    lived.assert_restored_equals_the_nodes()


@pytest.fixture
def both_older(lived: World, history: History) -> int:
    """The newest version of a node whose database *and* backup were put back, each whole in itself."""
    shutil.copytree(lived.backup, lived.root / "copy")
    shutil.copy2(lived.database, lived.root / "database")
    lived.run(history.notes(4))
    put_back(lived.root / "copy", lived.backup)
    shutil.copy2(lived.root / "database", lived.database)
    return history.version


def test_node_never_runs_from_an_older_state_that_its_backup_agrees_with(lived: World, both_older: int) -> None:
    node = lived.node()
    node.start()
    before = lived.backup.joinpath("session").read_bytes()
    with pytest.raises(Refused, match=f"version {both_older} acknowledged.*can lose every channel"):
        node.db_write(History(lived.version).note())
    node.die()
    assert lived.backup.joinpath("session").read_bytes() == before


def test_verify_of_two_identical_older_states_fails(lived: World, both_older: int) -> None:
    said = backup_cli("verify", lived.url, "--lightning-dir", lived.directory)
    assert "identical with the node's database" in said.text
    assert said.code == 1
    assert f"version {both_older} acknowledged" in said.text
    assert "resync" not in said.err.replace("what a resync replaced", "")


def test_check_config_of_two_older_states(lived: World, both_older: int) -> None:
    said = backup_cli("check-config", "--lightning-dir", lived.directory)
    assert f"version {both_older} acknowledged" in said.text
    assert said.code == 1


def test_resync_of_an_older_state_wants_the_newer_version_typed_out(lived: World, both_older: int) -> None:
    said = backup_cli("resync", "--lightning-dir", lived.directory)
    assert said.code == 1
    assert f"--discard-newer {both_older}" in said.text
    assert backup_cli("resync", "--lightning-dir", lived.directory, "--discard-newer", both_older).code == 0
    lived.run([History(lived.version).note()])


def test_restore_into_the_nodes_directory_never_brings_an_older_state_silently(
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


def test_older_generation_that_a_marker_tells_of_is_damage_in_any_case(lived: World) -> None:
    forge_session(lived, generation=7)
    assert backup_cli("verify", lived.url).code == 3


def test_the_nodes_own_runs_are_never_taken_for_it(lived: World, history: History) -> None:
    """Kills, resyncs, compactions and restores of the node's own leave nothing that a later start would refuse."""
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
