"""What is kept for its history is given up where there is no space for what counts, and nowhere else."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import SnapshotSource
from backends.errors import BackupError, Unreachable
from backends.log.format.documents import KEPT, MANIFEST, SESSION
from backends.log.format.history import HISTORY
from backends.log.format.records import segment_name
from backends.log.reader.snapshot import PIECE
from backends.storage.base import Space
from tests.log.conftest import SMALL
from tests.log.corruption import files_in
from tests.log.histories import Node, backup_in, silent, source
from tests.log.keeping import MONTH, generations, lived, noted, reachable
from tests.log.model import contents
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

pytestmark = pytest.mark.usefixtures("readers_do_not_wait")


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk()


@pytest.fixture
def node(disk: SimulatedDisk, tmp_path: Path) -> Node:
    """A node with three kept generations."""
    return lived(Node(SimulatedStorage(disk), tmp_path, options=MONTH))


def leave(disk: SimulatedDisk, node: Node, free: int) -> None:
    """So many bytes are free from now on."""
    disk.capacity -= node.storage.space().free - free


def failing(storage: SimulatedStorage, name: str, times: int, number: int = errno.ENOSPC) -> None:
    """Publishing the file `name` fails so many times."""
    publish, left = storage.publish, [times]

    def act(wanted: str, data: bytes) -> None:
        if wanted == name and left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number), name)
        publish(wanted, data)

    storage.publish = act  # type: ignore[assignment,method-assign]


def test_snapshot_for_which_there_is_no_space_gives_up_the_oldest_generations(disk: SimulatedDisk, node: Node) -> None:
    """As by `resync`, or by a start whose database disagrees. It failed, and that node could not start."""
    data, version = os.urandom(PIECE // 4), node.now.version + 1
    leave(disk, node, len(data) + 2 * SMALL.preallocate_min - 2000)
    assert node.backup().history_bytes() > 10_000
    node.writer.take_snapshot(replace(source(data, version), size=len(data)), "resync")
    assert contents(node.backup()).snapshot == data
    assert generations(node.backup()) == [4]


class Quota(SimulatedStorage):
    """A place with a quota: the free bytes that it tells are those of the whole disk."""

    def space(self) -> Space:
        return Space(1 << 40, 1 << 40)


@pytest.fixture
def limited(disk: SimulatedDisk, tmp_path: Path) -> Node:
    """A node with three kept generations, at such a place."""
    return lived(Node(Quota(disk), tmp_path, options=MONTH))


def leave_of_quota(disk: SimulatedDisk, free: int) -> None:
    disk.capacity -= disk._free() - free


def test_snapshot_that_a_quota_has_no_space_for_gives_up_the_oldest_generations(
    disk: SimulatedDisk, limited: Node
) -> None:
    data, version = os.urandom(PIECE // 4), limited.now.version + 1
    leave_of_quota(disk, len(data) - 2000)
    limited.writer.take_snapshot(replace(source(data, version), size=len(data)), "resync")
    assert contents(limited.backup()).snapshot == data
    assert generations(limited.backup())[-1] == 4 and 1 not in generations(limited.backup())


def test_snapshot_that_can_be_read_only_once_is_not_begun_again(disk: SimulatedDisk, limited: Node) -> None:
    """Its second half would be published as the whole of it."""
    data = os.urandom(2 * PIECE)
    leave_of_quota(disk, len(data) - 2000)
    pieces = iter((data[:PIECE], data[PIECE:]))
    with pytest.raises(BackupError):
        limited.writer.take_snapshot(SnapshotSource(pieces, limited.now.version + 1, None, size=len(data)), "resync")
    assert generations(limited.backup()) == [1, 2, 3]
    assert contents(limited.backup()) == limited.now.contents


@pytest.mark.parametrize("free", [0, 100, 1500, 3000])
@pytest.mark.parametrize("anew", [False, True])
def test_start_that_a_quota_has_no_space_for_gives_up_the_oldest_generations(
    disk: SimulatedDisk, limited: Node, free: int, anew: bool
) -> None:
    limited.close()
    leave_of_quota(disk, free)
    if anew:
        writer = backup_in(limited.storage, MONTH).open_anew(silent, "two")
        writer.take_snapshot(replace(source(b"small", limited.now.version + 1), size=5), "resync")
        writer.close()
        assert contents(limited.backup()).snapshot == b"small"
    else:
        limited.open("two")
        limited.note()
        assert contents(limited.backup()) == limited.now.contents
    assert 1 not in generations(limited.backup())


@pytest.mark.parametrize("name", [KEPT, MANIFEST])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_generation_is_published_although_the_destination_was_full(node: Node, name: str, number: int) -> None:
    failing(node.storage, name, 2, number)  # type: ignore[arg-type]
    node.snapshot()
    assert node.writer.failure is None
    assert generations(node.backup()) == [3, 4]
    assert contents(node.backup()) == node.now.contents


def test_compaction_is_published_where_the_list_has_no_space_and_the_oldest_is_given_up_for_it(node: Node) -> None:
    failing(node.storage, HISTORY, 1)  # type: ignore[arg-type]
    noted(node, 12)
    node.compact()
    assert node.writer.failure is None
    assert generations(node.backup()) == [2, 3, 4]
    assert contents(node.backup()) == node.now.contents
    assert segment_name(1) not in node.storage.names()


def test_compaction_is_published_where_nothing_is_left_to_give_up_for_the_list_and_keeps_nothing(
    disk: SimulatedDisk, tmp_path: Path
) -> None:
    said = list[str]()
    node = lived(Node(SimulatedStorage(disk), tmp_path, options=MONTH), 1)
    node.close()
    node.open("two", lambda level, line: said.append(line))
    noted(node, 12)
    failing(node.storage, HISTORY, 2)  # type: ignore[arg-type]
    node.compact()
    assert node.writer.manifest.generation == 3 and node.writer.failure is None
    assert generations(node.backup()) == []
    assert "generation 1, which was kept for its history (versions 0 to" in said[0] and "was given up" in said[0]
    assert "generation 2, which was to be kept for its history (versions" in said[1] and "is not kept" in said[1]
    node.note()
    node.close()
    node.open("three")
    assert contents(node.backup()) == node.now.contents


def test_other_failure_of_the_list_ends_the_compaction_as_before(node: Node) -> None:
    failing(node.storage, HISTORY, 1, errno.EIO)  # type: ignore[arg-type]
    noted(node, 12)
    with pytest.raises(BackupError):
        node.compact()
    assert generations(node.backup()) == [1, 2, 3]


def test_start_that_does_not_become_the_writer_gives_nothing_up(disk: SimulatedDisk, node: Node) -> None:
    """There is space for its marker, but not for what follows. It gave up the oldest generations before it was sure."""
    node.close()
    leave(disk, node, (128 << 10) + 100)
    before = files_in(node.storage)
    failing(node.storage, SESSION, 1, errno.EIO)  # type: ignore[arg-type]
    with pytest.raises(Unreachable):
        node.open("two")
    assert files_in(node.storage) == before


def test_start_that_another_one_overtakes_gives_nothing_up(disk: SimulatedDisk, node: Node) -> None:
    """The other one has put its marker in the place of this one's."""
    node.close()
    leave(disk, node, (128 << 10) + 100)
    rival, publish = backup_in(SimulatedStorage(disk), MONTH), node.storage.publish

    def overtaken(name: str, data: bytes) -> None:
        publish(name, data)
        if name == SESSION:
            disk.capacity += 1 << 20
            rival.open(silent, "rival")
            disk.capacity -= 1 << 20

    node.storage.publish = overtaken  # type: ignore[method-assign]
    with pytest.raises(BackupError, match="taken over"):
        node.open("two")
    assert generations(rival) == [1, 2, 3]


@pytest.mark.parametrize("free", [100, (128 << 10) + 100])
def test_start_with_little_space_gives_up_the_oldest_and_becomes_the_writer(
    disk: SimulatedDisk, node: Node, free: int
) -> None:
    node.close()
    leave(disk, node, free)
    node.open("two")
    node.note()
    assert contents(node.backup()) == node.now.contents
    left = generations(node.backup())
    assert sorted(set(reachable(node.backup())))[-1] == node.now.version
    assert 1 not in left


def test_generation_that_disagreed_with_the_database_is_not_given_up_as_history(node: Node) -> None:
    """It may be the newest state, which somebody has replaced by mistake: a full disk does not cut its week short."""
    data = contents(node.backup()).snapshot
    node.snapshot()
    node.writer.give_up_history(1 << 60)
    assert generations(node.backup()) == [4]
    with node.backup().read_held(node.backup().held()[0]) as reader:
        assert b"".join(reader.snapshot) == data
    assert not node.writer.give_up_oldest()


def test_damaged_log_on_a_full_disk_is_begun_anew_and_the_oldest_generations_are_given_up(
    disk: SimulatedDisk, node: Node
) -> None:
    node.close()
    leave(disk, node, 100)
    writer = backup_in(node.storage, MONTH).open_anew(silent, "two")
    data = b"a small database"
    writer.take_snapshot(replace(source(data, node.now.version + 1), size=len(data)), "resync")
    writer.close()
    assert contents(node.backup()).snapshot == data
    assert 1 not in generations(node.backup())
