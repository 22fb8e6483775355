"""Two machines with copies of one node's directory, and one backup: only one of them may go on.

Two nodes with the same keys lose money. A backup can make sure that its writers find out, and that it stays
whole and is the newest node's.
"""

import shutil
import subprocess
import sys
import time

import pytest

from tests.end_to_end.world import PLUGIN, World, backup_cli, tree
from tests.fake_lightningd import History, Node, Refused

WITHIN = 15.0
"""Seconds within which a writer that was replaced must refuse."""


def another_machine(world: World, *without: str) -> World:
    """A copy of the node's directory without these files; both name the same backup."""
    other = World(world.root / "other-machine")
    other.directory.rmdir()
    shutil.copytree(world.directory, other.directory)
    for name in without:
        (other.directory / name).unlink()
    other.backup.parent.rmdir()
    other.backup = world.backup
    return other


ELSEWHERE = [
    sys.executable,
    "-c",
    "from backends.storage.local import LocalStorage; LocalStorage.lock = lambda self, what: None;"
    "from plugin.main import main; main()",
]
"""The plugin on a machine that the lock in the backup does not reach."""


def write_until_refused(node: Node, history: History) -> str:
    """Write as an idle node does, twice a second, until that is refused."""
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        try:
            node.db_write(history.note())
        except Refused as refused:
            return refused.message
        time.sleep(0.5)
    pytest.fail(f"the replaced writer still says continue after {WITHIN} s")


def refused_at_start(world: World) -> str:
    """What the operator reads when this machine's node is started once more."""
    node = world.node(command=ELSEWHERE)
    node.start()
    with pytest.raises(Refused) as refused:
        node.db_write(History(world.version).note())
    return refused.value.message


def test_writer_replaced_by_a_restore_elsewhere_refuses_within_15_seconds(lived: World, history: History) -> None:
    """The node was restored elsewhere, by somebody who believed the old machine dead; it is only idle."""
    with lived.node() as old_node:
        old_node.play(history.notes(2))
        new = World(lived.root / "new-machine")
        new.backup = lived.backup
        restored = backup_cli("restore", "--resume", "--take-over", lived.url, new.directory)
        assert restored.code == 0, restored
        theirs = History(new.version)
        with new.node(command=ELSEWHERE) as new_node:
            new_node.play(theirs.notes(3))
            message = write_until_refused(old_node, history)
            assert "another node" in message
            assert "two nodes with the same keys lose money" in message
            new_node.play(theirs.notes(3))
            for _ in range(2):  # whatever its supervisor tries
                assert "has taken over the backup" in refused_at_start(lived)
            new_node.play(theirs.notes(3))
        new.assert_restored_equals_the_nodes()
    assert "backup-cli resync" in refused_at_start(lived)
    new.run(theirs.notes(1))
    new.assert_restored_equals_the_nodes()


def test_copy_of_a_stopped_node_is_refused_once_the_node_has_run_again(lived: World, history: History) -> None:
    """The copy knows its last session, and sees that there was another one since. The node in use notices nothing."""
    copy = another_machine(lived)
    with lived.node() as node:
        node.play(history.notes(4))
        fence = (lived.backup / "session").read_bytes()
        copy.run_without_plugin(History(copy.version).notes(9))
        assert "has taken over the backup" in refused_at_start(copy)
        assert (lived.backup / "session").read_bytes() == fence
        node.play(history.notes(4))
    lived.assert_restored_equals_the_nodes()


def test_older_copy_of_a_node_is_refused_and_the_backup_is_unchanged(lived: World, history: History) -> None:
    """The copy has no list of sessions. It is refused before it has changed anything, and the node in use goes on."""
    copy = another_machine(lived, "backup.session", "backup.witness")
    with lived.node() as node:
        node.play(history.notes(4))
        before = [tree(lived.backup), copy.database.read_bytes()]
        assert "the database has lost 4 changes" in refused_at_start(copy)
        assert [tree(lived.backup), copy.database.read_bytes()] == before
        node.play(history.notes(4))
    lived.run(History(lived.version).notes(2))
    lived.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("namespace", [[], ["unshare", "--pid", "--fork", "--mount-proc"]], ids=["same", "another"])
def test_copy_of_a_node_on_the_same_machine_is_refused_by_the_backups_lock(
    lived: World, history: History, namespace: list[str]
) -> None:
    """A container beside its host, with an equal database: its node would be accepted on any other ground."""
    if namespace and subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("this user may make no PID namespace")
    with lived.node() as node:
        node.play(history.notes(4))
        copy = World(lived.root / "container")
        copy.backup = lived.backup
        assert backup_cli("restore", "--resume", "--take-over", lived.url, copy.directory).code == 0
        before = [tree(lived.backup), copy.database.read_bytes()]
        second = copy.node(command=[*namespace, *PLUGIN])
        second.start()
        with pytest.raises(Refused, match=r"another process \(pid \d+, lightningd-backup\) is writing to the backup"):
            second.db_write(History(copy.version).note())
        assert [tree(lived.backup), copy.database.read_bytes()] == before
        node.play(history.notes(4))
    lived.assert_restored_equals_the_nodes()


def test_old_machine_that_boots_after_a_restore_elsewhere_is_refused(lived: World, history: History) -> None:
    """Its disk was thought dead, the node was restored on another machine, and then it boots again."""
    new = World(lived.root / "new-machine")
    new.backup = lived.backup
    restored = backup_cli("restore", "--resume", lived.url, new.directory)
    assert restored.code == 0, restored
    new.run(History(new.version).notes(2))
    assert "never start this one again" in refused_at_start(lived)
    new.run(History(new.version).notes(2))
    new.assert_restored_equals_the_nodes()


def test_segment_made_read_only_by_hand_is_not_called_another_node(lived: World, history: History) -> None:
    """The change is still refused; the next start goes on."""
    node = lived.node()
    node.start()
    node.play(history.notes(2))
    for segment in lived.backup.glob("segment-*"):
        segment.chmod(0o400)
    with pytest.raises(Refused, match="were made read-only or removed while this node wrote to them") as refused:
        node.db_write(history.note())
    assert "another node (" not in refused.value.message
    node.die()
    history = History(lived.status()["data_version"])
    lived.run(history.notes(2))
    lived.assert_restored_equals_the_nodes()


def test_node_restored_back_to_its_old_machine_goes_on(lived: World, history: History) -> None:
    """What that machine remembers of its own sessions must not keep it out after a restore there."""
    new = World(lived.root / "new-machine")
    new.backup = lived.backup
    assert backup_cli("restore", "--resume", lived.url, new.directory).code == 0
    new.run(History(new.version).notes(2))
    assert backup_cli("restore", "--replace", "--resume", lived.url, lived.directory).code == 0
    lived.run(History(lived.version).notes(2))
    lived.assert_restored_equals_the_nodes()
    assert "never start this one again" in refused_at_start(new)


@pytest.mark.parametrize("ahead", [0, 1, 50])
def test_copy_of_a_node_that_has_diverged_is_refused_while_the_node_runs(
    lived: World, history: History, ahead: int
) -> None:
    """It ran without the plugin, so its database is ahead, or equal and touched; a snapshot of it would win."""
    with lived.node() as node:
        node.play(history.notes(4))
        copy = another_machine(lived)
        copy.run_without_plugin(History(copy.version).notes(ahead))
        before = [tree(lived.backup), copy.database.read_bytes()]
        assert "has not ended its session" in refused_at_start(copy)
        assert [tree(lived.backup), copy.database.read_bytes()] == before
        node.play(history.notes(4))
    lived.run(History(lived.version).notes(2))
    lived.assert_restored_equals_the_nodes()
