"""Comparing members: the good copy of each file is named, whatever is wrong with the other."""

import errno
import random
from contextlib import closing
from pathlib import Path

import pytest

from backends.errors import Damaged, Unreachable
from backends.log.format.members import MEMBERS, Epoch
from backends.log.format.records import segment_index
from backends.members.compare import compare_members
from backends.members.comparison import GenerationChanged, State
from backends.members.files import copy_backup, make_equal
from backends.members.newest import Diverged
from backends.storage.base import Storage
from tests.log.histories import CAMPAIGN, backup_in
from tests.members.pairs import Pair, document, equal_members, flip, held, peer
from tests.storage.faulty import FaultyStorage
from tests.storage.simulated import SimulatedDisk, SimulatedStorage


@pytest.fixture(autouse=True)
def readers_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers give up at once on what looks unfinished: nobody is writing."""
    monkeypatch.setattr("backends.log.reader.records._ATTEMPTS", 0)


def cut_off(storage: Storage, name: str, size: int) -> None:
    """Shorten a file."""
    overwrite(storage, name, storage.read_small(name)[:size])


def overwrite(storage: Storage, name: str, data: bytes) -> None:
    """Replace a file's content."""
    with closing(storage.create(name)) as handle:
        handle.write(0, data)
        handle.sync()
    storage.sync_names()


def test_equal_members_have_no_faults(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    comparison = compare_members(peers)
    assert comparison.compared == ("a", "b")
    assert {file.name for file in comparison.files} == set(held(pair.ahead))
    assert comparison.faults == ()
    assert all(file.good == ("a", "b") for file in comparison.files)


def test_flipped_bit_is_named_with_file_and_offset_and_the_other_copy_is_good(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    original, tried = held(pair.ahead), 0
    for name, data in original.items():
        for offset in range(random.Random(name).randrange(211), len(data), max(211 // CAMPAIGN, 1)):
            rotten, other = (peers[0], "b") if tried % 2 else (peers[1], "a")
            flip(rotten.storage, name, offset)
            faults = compare_members(peers).faults
            assert [fault.name for fault in faults] == [name], offset
            assert faults[0].good == (other,)
            (bad,) = faults[0].bad
            assert (bad.member, bad.state) == (rotten.name, State.DAMAGED)
            assert bad.offset <= offset
            overwrite(rotten.storage, name, data)
            tried += 1
    assert compare_members(peers).faults == ()
    assert tried > 100


def test_zeroed_or_cut_end_of_any_file_is_named_and_the_other_copy_is_good(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    for name, data in held(pair.ahead).items():
        for lost in (1, 40, 512, 1500, len(data)):
            for what in (data[:-lost], data[:-lost] + bytes(lost)):
                overwrite(pair.behind, name, what)
                found = [(fault.name, fault.good) for fault in compare_members(peers).faults]
                only_zeros = what.rstrip(b"\0") == data.rstrip(b"\0")
                assert found == [(name, ("a",))] or (only_zeros and not found), lost
                overwrite(pair.behind, name, data)


def test_missing_file_is_named_and_the_other_copy_is_good(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    for name, data in held(pair.ahead).items():
        pair.ahead.remove(name)
        faults = compare_members(peers).faults
        if name == "kept":  # the note of a replaced generation, which is removed after a week
            assert faults == ()
        else:
            assert [(fault.name, fault.good, fault.bad[0].state) for fault in faults] == [(name, ("b",), State.MISSING)]
        overwrite(pair.ahead, name, data)


def test_two_members_damaged_in_different_files_each_have_the_good_copy_of_the_other(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    names = [name for name, data in held(pair.ahead).items() if len(data) > 200]
    rng = random.Random(5)
    for _ in range(30 * CAMPAIGN):
        at_a, at_b = rng.sample(names, 2)
        before = held(pair.ahead)
        flip(pair.ahead, at_a, rng.randrange(len(before[at_a])))
        flip(pair.behind, at_b, rng.randrange(len(before[at_b])))
        good = {fault.name: fault.good for fault in compare_members(peers).faults}
        assert good == {at_a: ("b",), at_b: ("a",)}
        overwrite(pair.ahead, at_a, before[at_a])
        overwrite(pair.behind, at_b, before[at_b])


def test_file_damaged_at_both_members_has_no_good_copy(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    for name, data in held(pair.ahead).items():
        for each in peers:
            flip(each.storage, name, random.Random(name + each.name).randrange(len(data)))
        if name == "manifest":
            with pytest.raises(Damaged, match="no member has a manifest"):
                compare_members(peers)
        else:
            found = compare_members(peers)
            assert (name, ()) in [(fault.name, fault.good) for fault in (*found.faults, *found.lost_of_kept)]
        for each in peers:
            overwrite(each.storage, name, data)


def test_majority_with_lost_records_does_not_outvote_the_one_good_copy(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    third = SimulatedStorage(SimulatedDisk())
    copy_backup(pair.ahead, third)
    third.publish(MEMBERS, document("c", backup_in(pair.ahead).id()))
    peers.append(peer("c", third))
    segment = [name for name in held(pair.ahead) if segment_index(name)][-2]
    data = held(pair.ahead)[segment]
    for each in peers[:2]:  # the same records are gone at both, and what is left is in good order
        overwrite(each.storage, segment, data[:64] + bytes(len(data) - 64))
    (fault,) = compare_members(peers).faults
    assert (fault.name, fault.good) == (segment, ("c",))


def test_member_of_earlier_epoch_is_behind_and_one_without_document_unknown(tmp_path: Path) -> None:
    pair, _ = equal_members(tmp_path)
    backup_id = backup_in(pair.ahead).id()
    old, unknown = SimulatedStorage(SimulatedDisk()), SimulatedStorage(SimulatedDisk())
    copy_backup(pair.ahead, old)
    copy_backup(pair.ahead, unknown)
    old.publish(MEMBERS, document("c", backup_id, Epoch(2, "one")))
    for storage in (old, unknown):
        flip(storage, "manifest", 30)
    peers = [peer("a", pair.ahead), peer("b", pair.behind), peer("c", old), peer("d", unknown)]
    comparison = compare_members(peers)
    assert (comparison.compared, comparison.behind, comparison.unknown) == (("a", "b"), ("c",), ("d",))
    assert comparison.faults == ()
    pair.ahead.publish(MEMBERS, document("a", backup_id, Epoch(3, "other")))
    with pytest.raises(Diverged):
        compare_members([peer("a", pair.ahead), peer("b", pair.behind)])
    with pytest.raises(Unreachable):
        compare_members([peer("d", unknown)])


def test_member_that_trails_is_behind_and_its_files_are_checked(tmp_path: Path) -> None:
    pair, _ = equal_members(tmp_path)
    backup_id = backup_in(pair.ahead).id()
    for name, storage in (("a", pair.ahead), ("b", pair.behind)):
        storage.publish(MEMBERS, document(name, backup_id, in_sync=("a",)))
    segments = [name for name in held(pair.behind) if segment_index(name)]
    data = held(pair.behind)[segments[-1]]
    overwrite(pair.behind, segments[-1], data[:64])
    peers = [peer("a", pair.ahead), peer("b", pair.behind)]
    comparison = compare_members(peers)
    assert comparison.faults == ()
    states = {file.name: file.copies[1].state for file in comparison.files}
    assert states.pop(segments[-1]) is State.BEHIND
    assert set(states.values()) == {State.GOOD}
    flip(pair.behind, segments[-2], 200)
    assert [fault.name for fault in compare_members(peers).faults] == [segments[-2]]


def test_end_that_a_crash_left_shorter_at_one_member_is_no_fault(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.commit(3)
    pair.part()
    pair.commit(1)
    backup_id = backup_in(pair.ahead).id()
    for name, storage in (("a", pair.ahead), ("b", pair.behind)):
        storage.publish(MEMBERS, document(name, backup_id))
    make_equal(pair.behind, SimulatedStorage(pair.behind.disk), deep=False)
    pair.ahead.publish("session", pair.behind.read_small("session"))
    peers = [peer("a", pair.ahead), peer("b", pair.behind)]
    assert compare_members(peers).faults == ()


def test_member_that_fails_while_it_is_read_is_named_and_the_others_compared(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)
    faulty = FaultyStorage(pair.behind)
    faulty.fail("names", errno.ENODEV, nth=1, sticky=True)
    faulty.fail("read", errno.EIO, nth=9, sticky=True)
    comparison = compare_members([peers[0], peer("b", faulty)])
    assert comparison.compared == ("a",)
    assert comparison.unreachable.keys() == {"b"}
    assert comparison.faults == ()


def test_file_that_cannot_be_read_is_damaged_at_a_member_that_answers(tmp_path: Path) -> None:
    pair, _ = equal_members(tmp_path)
    faulty = FaultyStorage(pair.behind)
    peers = [peer("a", pair.ahead), peer("b", faulty)]
    compare_members(peers)
    for nth in range(8, faulty.calls["read"] // 2, 5):
        faulty.fail("read", errno.EIO, nth=nth)
        faults = compare_members(peers).faults
        faulty.heal()
        assert [fault.good for fault in faults] in ([("a",)], [])  # [] for a read that is tried again


def test_new_generation_meanwhile_is_told(tmp_path: Path) -> None:
    pair, peers = equal_members(tmp_path)

    class Publishing(SimulatedStorage):
        def open(self, name: str):  # type: ignore[no-untyped-def]
            if name.startswith("segment-"):
                self.publish("manifest", other)
            return super().open(name)

    pair.node.open("again")
    pair.node.snapshot()
    other = pair.ahead.read_small("manifest")
    with pytest.raises(GenerationChanged):
        compare_members([peer("b", Publishing(pair.behind.disk))])
    assert peers
