"""A new snapshot makes a damaged backup whole; an attempt that fails takes nothing away."""

from pathlib import Path

import pytest

from backends.errors import Damaged
from backends.log.format.documents import MANIFEST, SESSION, Manifest
from backends.log.format.records import segment_name, snapshot_name
from backends.log.writer.options import LogOptions
from tests.log.conftest import TINY
from tests.log.corruption import BASE, LAST, Made, append_and_read_back, backup_of, files_in, flipped, make
from tests.log.histories import Node, backup_in, silent, source
from tests.log.model import contents
from tests.storage.simulated import PowerCut, SimulatedDisk, SimulatedStorage

pytestmark = pytest.mark.usefixtures("readers_do_not_wait")


@pytest.fixture
def killed() -> Made:
    """A backup whose writer was killed."""
    return make(closed=False)


@pytest.mark.parametrize("name", [SESSION, "segment-00000001", "segment-00000002", snapshot_name(1)])
def test_new_snapshot_makes_damaged_backup_whole(killed: Made, name: str) -> None:
    backup = backup_of({**killed.files, name: flipped(killed.files[name], 70, 1)}, TINY)
    backup.last_writer()
    backup.node_id()
    writer = backup.open_anew(silent, "resync")
    writer.take_snapshot(source(b"the database of now", LAST + 5), "resync")
    append_and_read_back(writer)
    writer.close()
    found = contents(backup)
    assert (found.generation, found.snapshot) == (2, b"the database of now")
    again = backup_in(backup.storage, TINY).open(silent, "again")
    append_and_read_back(again)
    again.close()


@pytest.mark.parametrize("index", [(1 << 63) - 1, (1 << 64) - 1, 10**30])
def test_resync_beside_file_with_impossible_segment_number_succeeds(killed: Made, index: int) -> None:
    """No release writes such a number: the file is foreign, is not the log's end, and must not get in its way."""
    backup = backup_of({**killed.files, segment_name(index): b"not ours"}, TINY)
    writer = backup.open(silent, "writer")
    assert writer.position.data_version == LAST
    writer.close()
    writer = backup.open_anew(silent, "resync")
    writer.take_snapshot(source(b"the database of now", LAST + 5), "resync")
    writer.close()
    assert contents(backup).snapshot == b"the database of now"


def test_interrupted_resync_takes_nothing_away(killed: Made) -> None:
    """The session marker cannot be read, and the log is good."""
    files = {**killed.files, SESSION: flipped(killed.files[SESSION], 70, 1)}
    disk = SimulatedDisk()
    storage = SimulatedStorage(disk)
    storage.make()
    for name, data in files.items():
        storage.publish(name, data)
    writer = backup_in(storage, TINY).open_anew(silent, "resync")
    assert contents(backup_in(storage)) == killed.contents
    disk.crash_at(disk.operations + 3)
    with pytest.raises(PowerCut):
        writer.take_snapshot(source(b"the database of now", LAST + 5), "resync")
    disk.is_off = False
    assert contents(backup_in(storage)) == killed.contents


def test_manifest_of_real_backup_is_encoded_back_unchanged(killed: Made) -> None:
    manifest = Manifest.decode(killed.files[MANIFEST])
    assert Manifest.decode(manifest.encode()) == manifest
    assert manifest.base.data_version == BASE


def test_damage_after_compaction_names_version_of_its_snapshot_as_last_good(tmp_path: Path, tiny: LogOptions) -> None:
    storage = SimulatedStorage(SimulatedDisk())
    node = Node(storage, tmp_path, options=tiny)
    node.create()
    node.open()
    node.append(node.history.first())
    for _ in range(4):
        node.note()
    node.compact()
    node.close()
    files = files_in(storage)
    (name,) = [name for name in files if name.startswith("segment")]
    with pytest.raises(Damaged) as caught:
        contents(backup_of({**files, name: flipped(files[name], 64 + 50, 1)}))
    assert caught.value.last_good == 4
