"""The file that says what is wrong with a backup: only a new snapshot of the database removes it."""

import random
from functools import partial

import pytest

from backends.errors import Unreachable
from backends.log.known_damage import (
    DAMAGE,
    KnownDamage,
    found_now,
    read_damage,
    remove_healed,
    write_damage,
)
from backends.log.writer.writer import Writer
from backends.storage.base import Storage
from tests.log.corruption import files_in
from tests.log.forge import document
from tests.log.histories import backup_in, changes, silent, source
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

BAD = found_now("compaction", "the change with data version 3 cannot be executed (SQLError)", 1)


def made(storage: Storage) -> Writer:
    """The writer of a new backup with a few changes."""
    backup_in(storage).create(source(b"database", 0))
    writer = backup_in(storage).open(silent, "one")
    for change in changes(5):
        writer.append(change)
    return writer


@pytest.fixture
def storage() -> SimulatedStorage:
    return SimulatedStorage(SimulatedDisk())


def test_known_damage_is_read_back_and_the_first_found_stays(storage: SimulatedStorage) -> None:
    made(storage)
    assert read_damage(storage, 1) is None
    write_damage(storage, BAD)
    assert read_damage(storage, 1) == BAD
    write_damage(storage, found_now("verify", "something else", 1))
    assert read_damage(storage, 1) == BAD, "what was found first stays"


def test_known_damage_of_another_generation_is_ignored(storage: SimulatedStorage) -> None:
    """Also when an old copy of the backup was copied over it."""
    writer = made(storage)
    for other in (0, 2, 7):
        assert not writer.damage.note(found_now("verify", "late", other))
        storage.publish(DAMAGE, KnownDamage(1, "verify", "late", other).encode())
        assert read_damage(storage, 1) is None
        assert writer.status("").health == "ok" and backup_in(storage).status("").health == "ok"
    for generation, stays in ((0, True), (1, True), (2, False)):
        storage.publish(DAMAGE, BAD.encode())
        remove_healed(storage, generation)
        assert (DAMAGE in storage.names()) == stays


def test_control_characters_and_long_text_in_known_damage_are_not_shown(storage: SimulatedStorage) -> None:
    made(storage)
    storage.publish(DAMAGE, KnownDamage(1, "\x1b[31m", "ü" + "x" * 5000, 1).encode())
    known = read_damage(storage, 1)
    assert known is not None and known.by == "?[31m" and known.what == "?" + "x" * 299


@pytest.mark.parametrize(
    "data",
    [
        b"",
        BAD.encode()[:-3],
        bytes([BAD.encode()[0], BAD.encode()[1] ^ 1]) + BAD.encode()[2:],
        document('{"lightningd-backup": 1}'),
        document('{"lightningd-backup": 1, "found": 1, "by": "x", "what": "x", "generation": -1}'),
        document('{"lightningd-backup": 9, "found": 1, "by": "x", "what": "x", "generation": 1}'),
        document('{"lightningd-backup": 1, "found": 1, "by": "x", "what": ["x"], "generation": 1}'),
    ],
    ids=["empty", "cut", "flipped", "bare", "negative", "future", "list"],
)
def test_unreadable_damage_file_counts_as_damage_until_new_snapshot(storage: SimulatedStorage, data: bytes) -> None:
    writer = made(storage)
    storage.publish(DAMAGE, data)
    assert backup_in(storage).status("").health == "damaged"
    writer.close()
    writer = backup_in(storage).open(silent, "two")
    known = writer.damage.read()
    assert known is not None and "cannot be read" in known.what
    assert writer.status("").health == "damaged"
    writer.take_snapshot(source(b"new", 5), "known damage")
    assert DAMAGE not in storage.names()
    assert writer.damage.read() is None and writer.status("").health == "ok"


def test_writer_remembers_damage_that_it_could_not_save(
    monkeypatch: pytest.MonkeyPatch, storage: SimulatedStorage
) -> None:
    writer = made(storage)

    def full(name: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "publish", full)
    with pytest.raises(Unreachable, match="No space left"):
        writer.damage.note(BAD)
    assert writer.damage.read() == BAD
    assert writer.status("").health == "damaged"


def test_known_damage_survives_power_cut_at_every_operation_of_new_snapshot() -> None:
    """After each cut the damage is known or healed, never unknown and unhealed."""
    seen = set()
    for number in range(1, 400):
        disk = SimulatedDisk()
        writer = made(SimulatedStorage(disk))
        writer.damage.note(BAD)
        survivors: list[tuple[SimulatedDisk, int]] = []
        start, rng = disk.operations, random.Random(number)

        disk.watch = partial(_cut, disk, rng, survivors)
        writer.take_snapshot(source(b"whole", 5), "known damage")
        disk.watch = None
        _cut(disk, rng, survivors)
        assert disk.operations > start + 10
        for survivor, at in survivors:
            storage = SimulatedStorage(survivor)
            status = backup_in(storage).status("")
            assert (status.generation, status.health) in ((1, "damaged"), (2, "ok")), (number, at, files_in(storage))
            seen.add((status.generation, DAMAGE in storage.names()))
            known = backup_in(storage).open(silent, "two").damage.read()
            assert (known is not None) == (status.generation == 1)
            assert (DAMAGE in storage.names()) == (status.generation == 1), "the next writer removes a stale one"
        if len(seen) == 3 and number >= 20:
            break
    assert seen == {(1, True), (2, True), (2, False)}


def _cut(disk: SimulatedDisk, rng: random.Random, survivors: list[tuple[SimulatedDisk, int]]) -> None:
    survivors.append((disk.crash(rng), disk.operations))
