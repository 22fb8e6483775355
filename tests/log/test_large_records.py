"""A change may be as large as the memory: it is written in one piece, and read back in small ones."""

import random
from base64 import b64encode
from contextlib import closing
from pathlib import Path

import pytest

from backends.change import Change
from backends.errors import Damaged
from backends.log.format.records import segment_name
from backends.log.reader.records import LARGE, StoredPayload
from backends.storage.local import LocalStorage
from tests.fake_lightningd.calls import bump
from tests.log.bounded_reading import MEMORY, within
from tests.log.forge import FRAME, Forged, backup, segment
from tests.log.histories import backup_in, silent, source
from tests.log.model import versions

SIZE = 2 * MEMORY
"""Bytes stored: noise, which does not compress."""


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    """A backup whose second-to-last record is large, left by a killed writer."""
    storage = LocalStorage(tmp_path / "lightning.bkp")
    backup_in(storage).create(source())
    writer = backup_in(storage).open(silent, "writer")
    noise = b64encode(random.Random(1).randbytes(SIZE)).decode()
    writer.append(Change(1, ["SELECT 1", bump(1)]))
    writer.append(Change(2, [f"SELECT '{noise[start : start + LARGE]}'" for start in range(0, len(noise), LARGE)]))
    writer.append(Change(3, ["SELECT 3", bump(3)]))
    return storage


def test_large_record_is_read_within_memory_limit(storage: LocalStorage) -> None:
    with closing(storage.open(segment_name(1))) as handle:
        assert handle.size() > SIZE
    backup = backup_in(storage)
    with within(MEMORY):
        assert backup.status("").data_version == 3
        with backup.read() as generation:
            found = [(change.data_version, sum(map(len, change.statements))) for change in generation.changes()]
    assert [version for version, _ in found] == [1, 2, 3]
    assert found[1][1] > SIZE


def test_log_with_large_record_is_opened_within_memory_limit(storage: LocalStorage) -> None:
    backup = backup_in(storage)
    with within(MEMORY):
        writer = backup.open(silent, "again")
        assert writer.position.data_version == 3
    writer.close()
    assert versions(backup_in(storage)) == [1, 2, 3]


@pytest.mark.usefixtures("readers_do_not_wait")
def test_changed_byte_far_into_large_record_is_damage(storage: LocalStorage, tmp_path: Path) -> None:
    path = tmp_path / "lightning.bkp" / segment_name(1)
    with path.open("r+b") as file:
        file.seek(SIZE // 2)
        byte = file.read(1)
        file.seek(SIZE // 2)
        file.write(bytes([byte[0] ^ 1]))
    with within(MEMORY), pytest.raises(Damaged) as caught:
        versions(backup_in(storage))
    assert caught.value.last_good == 1


@pytest.mark.usefixtures("readers_do_not_wait")
def test_large_record_that_differs_at_second_reading_is_damage(
    storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large record is read twice: once to check it, and once to unpack it."""
    monkeypatch.setattr(StoredPayload, "is_good", lambda _: True)
    test_changed_byte_far_into_large_record_is_damage(storage, tmp_path)


@pytest.mark.usefixtures("readers_do_not_wait")
def test_large_record_of_holes_is_read_within_memory_limit(tmp_path: Path) -> None:
    """A sparse file costs an attacker no disk space, but its record would take all of a small machine's memory."""
    storage = LocalStorage(tmp_path / "lightning.bkp")
    storage.make()
    forged = segment(Forged(b"x", flags=FRAME, length=(1 << 28) - 200, size=1 << 20))
    for name, data in backup(segment=forged).items():
        storage.publish(name, data)
    with (tmp_path / "lightning.bkp" / segment_name(1)).open("r+b") as file:
        file.truncate(1 << 28)
    with within(MEMORY):
        assert versions(backup_in(storage)) == []
