"""Generations that are kept for their history, at each member of a backup."""

from pathlib import Path

from backends.log.backup import Backup
from backends.members.differences import differences
from backends.members.files import copy_backup, make_equal
from tests.log.histories import Node, backup_in
from tests.log.keeping import MONTH, begun, noted
from tests.log.model import contents
from tests.storage.simulated import SimulatedDisk, SimulatedStorage


def kept(backup: Backup) -> list[tuple[int, int, int]]:
    """The kept generations, each with its first and last version; each is read."""
    found = []
    for each in backup.held():
        with backup.read_held(each) as reader:
            changes = [change.data_version for change in reader.changes()]
            found.append((each.manifest.generation, each.manifest.base.data_version, changes[-1]))
    return found


def live(node: Node, compactions: int) -> None:
    for _ in range(compactions):
        noted(node, 12)
        node.compact()


def test_members_hold_the_same_history_after_each_way_of_catching_up(tmp_path: Path) -> None:
    node, new, behind = (
        Node(SimulatedStorage(SimulatedDisk()), tmp_path, options=MONTH),
        SimulatedStorage(SimulatedDisk()),
        SimulatedStorage(SimulatedDisk()),
    )
    begun(node)
    live(node, 1)
    copy_backup(node.storage, behind)
    live(node, 2)
    copy_backup(node.storage, new)
    make_equal(node.storage, behind, deep=True)
    for member in (new, behind):
        assert [number for number, _, _ in kept(backup_in(member))] == [1, 2, 3]
        assert kept(backup_in(member)) == kept(node.backup())
        assert contents(backup_in(member)) == node.now.contents
    node.writer.remove_outdated()
    node.writer.give_up_history(node.storage.space().free + 1)
    assert [number for number, _, _ in kept(node.backup())] == [2, 3]
    make_equal(node.storage, behind, deep=True)
    assert kept(backup_in(behind)) == kept(node.backup())
    assert differences(node.storage, behind, deep=True).remove == ()
