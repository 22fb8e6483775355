"""Mending damaged files from another member: always by a good copy, never from or at a member that is behind."""

import errno
import random
from pathlib import Path

import pytest

from backends.log.format.members import MEMBERS, Epoch
from backends.log.format.records import segment_index
from backends.members.compare import compare_members
from backends.members.files import copy_backup
from backends.members.repair import Mending, NotNow, copy_good_file, mend, sealed_files
from backends.members.shared_files import holds_data
from tests.log.histories import CAMPAIGN, backup_in
from tests.log.model import contents
from tests.members.pairs import EPOCH, document, equal_members, flip, held, peer
from tests.storage.faulty import FaultyStorage
from tests.storage.simulated import PowerCut, SimulatedDisk, SimulatedStorage

SEGMENT = "segment-00000004"
"""One with a record, of about 1500 bytes, in what `equal_members` makes."""


@pytest.fixture(autouse=True)
def readers_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers give up at once on what looks unfinished: nobody is writing."""
    monkeypatch.setattr("backends.log.reader.records._ATTEMPTS", 0)
    monkeypatch.setattr("backends.log.reader.opening._PAUSE", 0.0)


def test_bit_rot_at_many_offsets_of_each_member_is_healed_and_the_backup_equal(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    original, expected, healed = held(pair.ahead), contents(backup_in(pair.ahead)), 0
    for name, data in original.items():
        for offset in range(random.Random(name).randrange(307), len(data), max(307 // CAMPAIGN, 1)):
            for rotten, other in (peers, peers[::-1]):
                flip(rotten.storage, name, offset)
                (done,) = mend(compare_members(peers), peers, running=False)
                assert (done.file, done.member, done.outcome, done.source) == (
                    name, rotten.name, Mending.MENDED, other.name,
                )  # fmt: skip
                healed += 1
        assert held(pair.ahead) == held(pair.behind) == original
    assert contents(backup_in(pair.ahead)) == contents(backup_in(pair.behind)) == expected
    assert healed > 100
    print(f"{healed} flipped bits healed")


def test_members_damaged_in_different_files_heal_one_another(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    original, rng = held(pair.ahead), random.Random(3)
    names = list(filter(holds_data, original))
    for _ in range(20 * CAMPAIGN):
        rng.shuffle(names)
        half = len(names) // 2
        for part, each in ((names[:half], peers[0]), (names[half:], peers[1])):
            for name in part:
                flip(each.storage, name, rng.randrange(len(original[name])))
        done = mend(compare_members(peers), peers, running=False)
        assert {each.file for each in done} == set(names)
        assert {each.outcome for each in done} == {Mending.MENDED}
        assert held(pair.ahead) == held(pair.behind) == original


def test_file_that_is_damaged_everywhere_is_left_as_it_is(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    name = max(each for each in held(pair.ahead) if segment_index(each) is not None)
    flip(pair.ahead, name, 100)
    flip(pair.behind, name, 900)
    before = held(pair.ahead), held(pair.behind)
    done = mend(compare_members(peers), peers, running=False)
    assert {each.outcome for each in done} == {Mending.NO_GOOD_COPY}
    assert (held(pair.ahead), held(pair.behind)) == before


def test_running_node_is_left_its_open_segment_and_documents(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    last = max(name for name in held(pair.ahead) if segment_index(name) is not None)
    sealed = sealed_files(compare_members(peers))
    assert sealed == set(filter(holds_data, held(pair.ahead))) - {last}
    original = held(pair.behind)
    for name in original:
        flip(pair.behind, name, 10)
    before = held(pair.behind)
    done = {each.file: each.outcome for each in mend(compare_members(peers), peers, running=True)}
    assert {name for name, outcome in done.items() if outcome is Mending.MENDED} == sealed
    assert {name for name, outcome in done.items() if outcome is Mending.LEFT_TO_NODE} == set(original) - sealed
    assert held(pair.behind) == {name: (original if name in sealed else before)[name] for name in original}


def test_member_of_other_epoch_or_without_document_is_never_touched_or_copied_from(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    backup_id = backup_in(pair.ahead).id()
    old, unknown = SimulatedStorage(SimulatedDisk()), SimulatedStorage(SimulatedDisk())
    copy_backup(pair.ahead, old)
    copy_backup(pair.ahead, unknown)
    old.publish(MEMBERS, document("c", backup_id, Epoch(2, "one")))
    everyone = [*peers, peer("c", old), peer("d", unknown)]
    name = max(each for each in held(pair.ahead) if segment_index(each) is not None)
    for storage in (pair.ahead, pair.behind):
        flip(storage, name, 100)
    done = mend(compare_members(everyone), everyone, running=False)
    assert {each.outcome for each in done} == {Mending.NO_GOOD_COPY}
    for storage in (old, unknown):
        with pytest.raises(NotNow):
            copy_good_file(storage, pair.ahead, name, backup_id, EPOCH)
        other = "segment-00000005"
        flip(storage, other, 100)
        before = held(storage)
        with pytest.raises(NotNow):
            copy_good_file(pair.ahead, storage, other, backup_id, EPOCH)
        assert held(storage) == before
    both = held(old), held(unknown)
    mend(compare_members(everyone), everyone, running=False)
    assert (held(old), held(unknown)) == both


def test_epoch_or_generation_that_changes_while_a_file_is_copied_stops_the_copy(tmp_path: Path) -> None:
    pair, _ = equal_members(tmp_path)
    backup_id = backup_in(pair.ahead).id()
    name = SEGMENT
    flip(pair.behind, name, 100)
    before = held(pair.behind)

    def new_epoch(copied: int) -> None:
        pair.behind.publish(MEMBERS, document("b", backup_id, Epoch(4, "one"), ("a",)))

    with pytest.raises(NotNow, match="another epoch"):
        copy_good_file(pair.ahead, pair.behind, name, backup_id, EPOCH, new_epoch)
    assert held(pair.behind) == before
    pair.behind.publish(MEMBERS, document("b", backup_id))

    def new_generation(copied: int) -> None:
        pair.ahead.publish("manifest", held(pair.ahead)["manifest"] + b" ")

    with pytest.raises(NotNow, match="new generation"):
        copy_good_file(pair.ahead, pair.behind, name, backup_id, EPOCH, new_generation)
    assert held(pair.behind) == before


def test_source_that_has_rotted_since_is_not_copied(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    name = SEGMENT
    flip(pair.behind, name, 100)
    before, found = held(pair.behind), compare_members(peers)
    flip(pair.ahead, name, 900)
    (done,) = mend(found, peers, running=False)
    assert done.outcome is Mending.FAILED
    assert held(pair.behind) == before


def test_disk_that_gives_back_something_else_is_not_called_mended(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    name = SEGMENT
    flip(pair.behind, name, 100)

    class Rotting(SimulatedStorage):
        def rename(self, old: str, new: str) -> None:
            super().rename(old, new)
            flip(self, new, 100)

    peers[1] = peer("b", Rotting(pair.behind.disk))
    (done,) = mend(compare_members(peers), peers, running=False)
    assert done.outcome is Mending.FAILED


def test_full_disk_is_told_and_nothing_left_behind(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    name = SEGMENT
    flip(pair.behind, name, 100)
    before = pair.behind.names()
    peers[1] = peer("b", full := FaultyStorage(pair.behind))
    full.fail("write", errno.ENOSPC)
    (done,) = mend(compare_members(peers), peers, running=False)
    assert (done.outcome, done.why) == (Mending.FAILED, "No space left on device")
    assert pair.behind.names() == before


def test_power_cut_at_every_operation_of_mending_leaves_the_old_file_or_the_good_one(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    original = held(pair.behind)
    damaged = ("manifest", "session", *(name for name in original if segment_index(name) is not None))
    for name in damaged:
        flip(pair.behind, name, 20)
    rotten, source, found = held(pair.behind), held(pair.ahead), compare_members(peers)
    started = pair.behind.disk.operations
    counted = SimulatedStorage(pair.behind.disk.crash(random.Random(1)))
    mend(found, [peers[0], peer("b", counted)], running=False)
    assert held(counted) == original
    for number in range(1, counted.disk.operations + 1):
        disk = pair.behind.disk.crash(random.Random(number))
        disk.crash_at(number)
        with pytest.raises(PowerCut):
            mend(found, [peers[0], peer("b", SimulatedStorage(disk))], running=False)
        left = SimulatedStorage(disk.crash(random.Random(number)))
        for name, data in held(left).items():
            assert data in (original[name], rotten[name])
        again = [peers[0], peer("b", left)]
        mend(compare_members(again), again, running=False)
        assert held(left) == original
    assert held(pair.ahead) == source
    assert pair.behind.disk.operations == started
