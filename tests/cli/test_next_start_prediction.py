"""check-config predicts what the plugin does at the next start, by the same code."""

import os
import shutil
import time

import pytest

from tests.end_to_end.test_set_back import play_and_set_back
from tests.end_to_end.world import Said, World, backup_cli, tree
from tests.fake_lightningd import History, Refused


def check_config(world: World) -> Said:
    """Run check-config; it must change nothing."""
    before = tree(world.directory, world.backup)
    said = backup_cli("check-config", "--lightning-dir", world.directory)
    assert tree(world.directory, world.backup) == before
    return said


def replace_directory_by_a_copy(world: World) -> None:
    """Put a copy of the node's directory in its place, under its name."""
    original = world.directory.rename(world.directory.with_name("original"))
    shutil.copytree(original, world.directory)


def assert_refused(world: World, why: str) -> None:
    node = world.node()
    node.start()
    with pytest.raises(Refused, match=why):
        node.db_write(History(world.version).note())
    node.die()


def test_check_config_predicts_roll_forward_after_a_refused_start(lived: World, history: History) -> None:
    """While the backup was away, lightningd opened the database: its file was written long after the last change."""
    play_and_set_back(lived, history.notes(3), keep=2)
    aside = lived.backup.rename(lived.backup.with_name("unplugged"))
    assert_refused(lived, "mounted")
    aside.rename(lived.backup)
    os.utime(lived.database, (time.time() + 3600,) * 2)
    assert "brings it forward by itself" in check_config(lived).text
    lived.run([])
    assert lived.version == history.version


def test_check_config_predicts_refusal_of_a_copied_directory_that_is_behind(lived: World, history: History) -> None:
    play_and_set_back(lived, history.notes(3), keep=2)
    assert "brings it forward by itself" in check_config(lived).text
    replace_directory_by_a_copy(lived)
    assert "the next start is refused" in check_config(lived).text
    assert_refused(lived, "this node directory is a copy")


@pytest.mark.parametrize("ahead", [0, 2])
def test_check_config_names_a_copied_directory_whose_last_session_is_open(
    lived: World, history: History, ahead: int
) -> None:
    node = lived.node()
    node.start()
    node.play(history.notes(2))
    node.die()
    lived.run_without_plugin(history.notes(ahead))
    assert "looks like a copy" not in check_config(lived).text
    replace_directory_by_a_copy(lived)
    said = check_config(lived)
    assert "looks like a copy" in said.text
    assert "The next start is refused" in said.text
    assert said.code != 0
    assert_refused(lived, "looks like a copy")


def test_check_config_accepts_a_copied_directory_after_a_clean_stop(lived: World, history: History) -> None:
    """A node that has moved."""
    replace_directory_by_a_copy(lived)
    assert "the database and its backup are both at version 6" in check_config(lived).text
    lived.run(history.notes(1))
    lived.assert_restored_equals_the_nodes()
