"""How often a start reads each small file and lists the directory: on a share each look costs a round trip."""

from collections import Counter
from pathlib import Path

import pytest

from backends.log.format.documents import MANIFEST, SESSION
from backends.sqlite.as_found import Unclear
from plugin.roll_forward import read_backup
from tests.log.histories import Node, backup_in, silent
from tests.storage.simulated import SimulatedDisk, SimulatedStorage


class CountingStorage(SimulatedStorage):
    """Counts what is looked at."""

    def __init__(self, disk: SimulatedDisk) -> None:
        super().__init__(disk)
        self.looks = Counter[str]()

    def names(self) -> list[str]:
        self.looks["names"] += 1
        return super().names()

    def read_small(self, name: str, limit: int = 1 << 20) -> bytes:
        self.looks[name] += 1
        return super().read_small(name, limit)


@pytest.fixture
def lived(tmp_path: Path) -> CountingStorage:
    storage = CountingStorage(SimulatedDisk())
    node = Node(storage, tmp_path)
    node.create()
    node.open()
    node.append(node.history.first())
    for _ in range(5):
        node.note()
    node.close()
    storage.looks.clear()
    return storage


def test_start_reads_each_file_once_and_the_manifest_again_after_taking_over(lived: CountingStorage) -> None:
    """Again, because whoever wrote until then may have begun a generation; a listing may be an old one on NFS."""
    backup = backup_in(lived)
    backup.open(silent, "next", seen=backup.look())
    assert lived.looks[MANIFEST] == 2
    assert lived.looks[SESSION] == 1
    assert lived.looks["names"] == 2


def test_reader_reads_each_file_once_and_the_manifest_again_to_see_that_nothing_was_switched(
    lived: CountingStorage,
) -> None:
    with backup_in(lived).read() as reader:
        reader.scan()
    assert (lived.looks[MANIFEST], lived.looks[SESSION], lived.looks["names"]) == (2, 1, 1)


def test_roll_forward_reads_no_more_than_a_reader_does(lived: CountingStorage, tmp_path: Path) -> None:
    read_backup(tmp_path, backup_in(lived), None, Unclear.LOCKED, None)
    assert (lived.looks[MANIFEST], lived.looks[SESSION], lived.looks["names"]) == (2, 1, 1)
