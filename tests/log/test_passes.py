"""A pass over a log knows how the log ends once it has read all of it, and not before."""

from pathlib import Path

import pytest

from backends.errors import Damaged
from backends.log.backup import Backup
from backends.log.format.records import FILE_HEADER_SIZE
from backends.log.reader.passes import Changes, Scan
from backends.sqlite.rebuild import rebuild
from backends.storage.local import LocalStorage
from tests.log.corruption import record_bounds
from tests.log.histories import Node, backup_in, changes, silent, source
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

BEGINS = 20
"""The snapshot's version."""


@pytest.fixture
def backup(tmp_path: Path) -> Backup:
    """A backup with a snapshot and four changes."""
    backup = backup_in(LocalStorage(tmp_path / "lightning.bkp"))
    backup.create(source(b"a database", BEGINS))
    writer = backup.open(silent, "one")
    for one in changes(4, BEGINS, 2000):
        writer.append(one)
    writer.close()
    return backup


def rewritten(tmp_path: Path, first: int, cut: int) -> None:
    """Keep the segment from its record `first` on, with the last `cut` bytes of its last record replaced by zeros."""
    (segment,) = (tmp_path / "lightning.bkp").glob("segment-*")
    segment.chmod(0o600)
    data = segment.read_bytes()
    bounds = record_bounds(data)
    segment.write_bytes(data[:FILE_HEADER_SIZE] + data[bounds[first] : bounds[-1] - cut] + bytes(cut))


def test_end_of_log_is_not_known_to_a_pass_that_stopped_early(backup: Backup) -> None:
    with backup.read() as reader:
        changes, scan = reader.changes(), reader.scan()
        assert next(iter(changes)).data_version == next(iter(scan))[1].data_version == BEGINS + 1
        with pytest.raises(RuntimeError):
            changes.end()
        with pytest.raises(RuntimeError):
            scan.end()


def test_end_of_log_is_the_same_for_changes_and_scan_and_a_second_pass(backup: Backup) -> None:
    with backup.read() as reader:
        passes: list[Changes | Scan] = [reader.changes(), reader.scan(), reader.changes()]
        assert [len(list(one)) for one in passes] == [4, 4, 4]
        (end,) = {one.end() for one in passes}
        assert (end.position.data_version, end.position.sequence) == (BEGINS + 4, 4)
        assert (end.torn, end.end_unverified) == (None, None)


def test_torn_end_of_log_is_reported_by_changes_and_scan(backup: Backup, tmp_path: Path) -> None:
    rewritten(tmp_path, first=0, cut=1500)
    (tmp_path / "lightning.bkp" / "session").unlink()  # it says that the fourth change was acknowledged
    with backup.read() as reader:
        passes: list[Changes | Scan] = [reader.changes(), reader.scan()]
        assert [len(list(one)) for one in passes] == [3, 3]
        (end,) = {one.end() for one in passes}
        assert end.position.data_version == BEGINS + 3
        assert end.torn is not None
        assert end.end_unverified is not None


def test_torn_end_of_acknowledged_log_is_damage(backup: Backup, tmp_path: Path) -> None:
    rewritten(tmp_path, first=0, cut=1500)
    with backup.read() as reader:
        scan = reader.scan()
        with pytest.raises(Damaged):
            list(scan)
        assert scan.position.data_version == BEGINS + 3
        with pytest.raises(RuntimeError):
            scan.end()


def test_missing_first_record_leaves_snapshot_as_last_good_version(backup: Backup, tmp_path: Path) -> None:
    """Changes that do not follow the snapshot cannot be replayed. Once, an error called them good."""
    rewritten(tmp_path, first=1, cut=0)
    with backup.read() as reader, pytest.raises(Damaged) as caught:
        list(reader.changes())
    assert caught.value.last_good == BEGINS


def test_rebuild_returns_end_of_log_only_when_it_read_that_far(tmp_path: Path) -> None:
    node = Node(SimulatedStorage(SimulatedDisk()), tmp_path)
    node.create()
    node.open()
    node.append(node.history.first())
    for _ in range(3):
        node.note()
    with node.backup().read() as reader:
        whole = rebuild(reader, tmp_path / "whole.sqlite3", take=lambda change: True)
        early = rebuild(reader, tmp_path / "early.sqlite3", take=lambda change: change.data_version <= 2)
    assert (whole.data_version, whole.end) == (4, node.writer.position)
    assert (early.data_version, early.end) == (2, None)
