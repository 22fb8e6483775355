"""A plain backup becomes an encrypted one: with power cuts at every point, and nothing readable stays behind."""

import random
from collections import Counter

import pytest

from backends import keyring
from backends.errors import Damaged
from backends.keyring import DataKey
from backends.log.ciphertext import check_ciphertext
from backends.log.format.documents import SESSION, Manifest, Session
from backends.log.reader.opening import read_manifest, read_session
from backends.log.writer.writer import Writer
from tests.encrypted import no_slots
from tests.log.conftest import SMALL
from tests.log.histories import CAMPAIGN, backup_in, changes, noise, silent, source
from tests.log.model import Contents, contents
from tests.storage.simulated import PowerCut, SimulatedDisk, SimulatedStorage

pytestmark = [pytest.mark.usefixtures("readers_do_not_wait"), pytest.mark.plain_unless_told]

DATABASE = noise(3000).encode()

SURVIVORS = 3 * CAMPAIGN


def plain_backup(disk: SimulatedDisk) -> Writer:
    """An open writer of a backup with changes in several segments, and another segment made ahead of use."""
    storage = SimulatedStorage(disk)
    backup_in(storage, SMALL).create(source(b"plain database", 5, "02" + "cd" * 32))
    writer = backup_in(storage, SMALL).open(silent, "one")
    for change in changes(12, 5, 1500):
        writer.append(change)
        writer.maintain()
    return writer


def change_over(writer: Writer, key: DataKey) -> None:
    """Encrypt the backup under this key, with a new database in it."""
    writer.take_snapshot(source(DATABASE, 17), "encrypted by resync", encrypt=key)


def known_key(storage: SimulatedStorage) -> DataKey:
    key = DataKey(read_manifest(storage).backup_id, bytes(range(32)))
    keyring.add(key)
    return key


def test_power_cut_at_every_point_leaves_old_backup_or_encrypted_one() -> None:
    counts: Counter[str] = Counter()
    disk = SimulatedDisk()
    writer = plain_backup(disk)
    before = contents(backup_in(SimulatedStorage(disk)))
    begin, key = disk.operations, known_key(SimulatedStorage(disk))
    after = Contents(before.generation + 1, DATABASE, ())

    def cut() -> None:
        for seed in range(SURVIVORS):
            storage = SimulatedStorage(disk.crash(random.Random(disk.operations * SURVIVORS + seed)))
            found = contents(backup_in(storage))
            assert found in (before, after)
            encrypted = read_manifest(storage).key is not None
            assert encrypted == (found == after)
            counts["encrypted" if encrypted else "plain"] += 1
            again = backup_in(storage, SMALL).open(silent, "one")
            if not encrypted:
                for change in changes(1, 17):
                    again.append(change)
                change_over(again, key)
            again.close()
            assert contents(backup_in(storage)).snapshot == DATABASE
            backup_in(storage, SMALL).open(silent, "one").close()
            check_ciphertext(storage)

    disk.watch = cut
    change_over(writer, key)
    disk.watch = None
    assert disk.operations > begin
    assert counts["plain"] > 10 and counts["encrypted"] > 10
    print(dict(counts))


@pytest.mark.parametrize("operation", range(1, 60, 3))
def test_backup_is_encrypted_when_repeated_after_a_power_cut_in_the_middle(operation: int) -> None:
    disk = SimulatedDisk()
    writer = plain_backup(disk)
    key = known_key(SimulatedStorage(disk))
    disk.crash_at(disk.operations + operation)
    try:
        change_over(writer, key)
        disk.is_off = True
    except PowerCut:
        pass
    storage = SimulatedStorage(disk.crash(random.Random(operation)))
    again = backup_in(storage, SMALL).open(silent, "one")
    if again.manifest.key is None:
        change_over(again, key)
    again.close()
    assert contents(backup_in(storage)).snapshot == DATABASE
    assert {read_manifest(storage).key, session_of(storage).key} == {key.id}
    check_ciphertext(storage)


def session_of(storage: SimulatedStorage) -> Session:
    session = read_session(storage)
    assert session is not None
    return session


def test_plain_marker_beside_encrypted_manifest_is_damage() -> None:
    """Anybody can write one, and could so hide that the end of the log is missing."""
    storage = SimulatedStorage(SimulatedDisk())
    backup_in(storage).create(source(DATABASE, 5), encrypt=no_slots)
    session = session_of(storage)
    forged = Session(*(getattr(session, name) for name in Session.__slots__ if name != "key"))
    storage.publish(SESSION, forged.encode())
    with pytest.raises(Damaged, match="is not encrypted"):
        contents(backup_in(storage))
    with pytest.raises(Damaged, match="is not encrypted"):
        backup_in(storage).open(silent, "one")


def test_marker_under_another_backups_key_is_damage() -> None:
    storage, other = SimulatedStorage(SimulatedDisk()), SimulatedStorage(SimulatedDisk())
    for each in (storage, other):
        backup_in(each).create(source(DATABASE, 5), encrypt=no_slots)
    storage.publish(SESSION, other.read_small(SESSION))
    with pytest.raises(Damaged, match="another key"):
        contents(backup_in(storage))
    manifest: Manifest = read_manifest(storage)
    assert manifest.key != session_of(other).key
