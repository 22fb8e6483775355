"""A sample of what the suites do to plain backups, done to encrypted ones; `make encrypted` does all of it."""

import errno
import random
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from backends import keyring
from backends.errors import BackupError, Damaged
from backends.log.ciphertext import check_ciphertext
from backends.log.reader.opening import open_generation, read_manifest
from tests.log.conftest import SMALL
from tests.log.corruption import flipped, make, open_verdict, read_verdict, record_bounds
from tests.log.histories import Node, backup_in, changes, noise, silent, source
from tests.log.model import contents
from tests.log.test_every_byte import fills
from tests.log.test_failing_disk import NodeOnFailingDisk, live, ways
from tests.log.test_power_cut import Cuts
from tests.storage.faulty import Operation
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

pytestmark = pytest.mark.usefixtures("readers_do_not_wait", "encrypted")


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
def test_flip_of_any_byte_of_encrypted_backup_is_named_or_loses_nothing(closed: bool) -> None:
    made, counts = make(closed=closed), Counter[str]()
    for name, data in made.files.items():
        for offset in range(len(data)):
            mask = random.Random(offset).randrange(1, 256)
            files = {**made.files, name: flipped(data, offset, mask)}
            counts[read_verdict(made, files)] += 1
            if offset % 16 == 0 and not name.startswith("snapshot"):
                counts[open_verdict(made, files)] += 1
    print(dict(counts))
    assert set(counts) <= {"damaged", "found by readers", "same", "torn, nothing lost"}
    assert counts["damaged"] > 3000


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
def test_torn_end_of_encrypted_log_is_told_from_damage(closed: bool) -> None:
    made, counts = make(closed=closed), Counter[str]()
    data = made.files[made.last]
    for cut in {*range(0, len(data), 7), *record_bounds(data)[:-1]}:
        for fill, left in fills(data, cut).items():
            counts[f"{fill}: {read_verdict(made, {**made.files, made.last: left})}"] += 1
    if closed:
        assert set(counts) == {"end: damaged", "zeros: damaged", "noise: damaged"}
        return
    assert {what for what in counts if what.startswith("noise")} <= {"noise: damaged", "noise: torn, nothing lost"}
    assert all(counts[f"{fill}: {what}"] > 0 for fill in ("end", "zeros") for what in ("torn", "shorter", "same"))


def test_power_cut_at_every_point_of_encrypted_life_loses_nothing_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.log.test_power_cut.SURVIVORS", 1)
    disk = SimulatedDisk()
    cuts = Cuts(disk, Node(SimulatedStorage(disk), tmp_path, options=SMALL))
    node = cuts.node
    node.create()
    node.open("one")
    node.append(node.history.first())
    for seed in range(4):
        node.note(noise(2500, seed))
        node.writer.maintain()
    node.compact(lambda: node.note("during the compaction"))
    node.close()
    node.open("two")
    node.snapshot()
    node.note("in a new generation")
    node.close()
    disk.watch = None
    assert contents(backup_in(SimulatedStorage(disk))) == node.now.contents
    assert cuts.counts["with the unacknowledged step"] > 0 and cuts.counts["cuts during a recovery"] > 0
    check_ciphertext(SimulatedStorage(disk))


@pytest.mark.parametrize("operation", ["write_durably", "sync", "rename_new"])
def test_failing_operation_of_encrypted_backup_loses_nothing_acknowledged(operation: Operation, tmp_path: Path) -> None:
    struck = 0
    for nth in range(1, 40, 3):
        for done in ways(operation)[:: 2 if operation == "write_durably" else 1]:
            node = NodeOnFailingDisk(tmp_path)
            node.faulty.fail(operation, errno.EIO, nth=nth, done=done)
            live(node)
            struck += node.faulty.struck
    assert struck > 1


def test_replaced_writer_of_encrypted_backup_is_fenced() -> None:
    storage = SimulatedStorage(SimulatedDisk())
    backup_in(storage, SMALL).create(source())
    first = backup_in(storage, SMALL).open(silent, "first")
    first.append(changes(1)[0])
    with closing(backup_in(storage, SMALL).open(silent, "second")) as second:
        first.maintain()
        with pytest.raises(BackupError):
            first.append(changes(1, 1)[0])
        second.append(changes(1, 1)[0])
    assert [version for version, _ in contents(backup_in(storage)).changes] == [1, 2]


def test_check_without_key_finds_every_flip_in_a_snapshot() -> None:
    made = make(closed=True)
    name = next(name for name in made.files if name.startswith("snapshot"))
    for offset in range(len(made.files[name])):
        storage = SimulatedStorage(SimulatedDisk())
        storage.make()
        for each, data in made.files.items():
            storage.publish(each, flipped(data, offset, 1) if each == name else data)
        with open_generation(storage) as reader, pytest.raises(Damaged):
            list(reader.snapshot.check_stored())


def test_database_without_content_is_opened_and_looked_at_without_key() -> None:
    storage = SimulatedStorage(SimulatedDisk())
    backup_in(storage).create(source())
    assert read_manifest(storage).key is not None
    keyring.forget()
    assert backup_in(storage).end().data_version == 0
    with open_generation(storage) as reader:
        assert list(reader.snapshot.check_stored())
