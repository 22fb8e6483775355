"""The simulated disk loses everything that it may lose, and nothing that it may not."""

import random
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.storage.content import SECTOR, Content
from tests.storage.outcomes import outcomes
from tests.storage.simulated import SimulatedDisk, SimulatedStorage


@pytest.fixture
def disk() -> SimulatedDisk:
    disk = SimulatedDisk()
    SimulatedStorage(disk).make()
    return disk


# The content of files


def test_synced_content_survives_power_cut(disk: SimulatedDisk) -> None:
    storage = SimulatedStorage(disk)
    with closing(storage.create("segment")) as handle:
        handle.write(0, b"a" * 3000)
        handle.sync()
        handle.write_durably(3000, b"b" * 700)
        handle.extend(3700, 1000)
    storage.sync_names()
    assert all(found == {"segment": b"a" * 3000 + b"b" * 700 + bytes(1000)} for found in outcomes(disk))


def test_unsynced_sectors_are_kept_or_lost_in_any_mixture(disk: SimulatedDisk) -> None:
    storage = SimulatedStorage(disk)
    handle = storage.create("segment")
    handle.write(0, b"old!" * (3 * SECTOR // 4))
    handle.sync()
    storage.sync_names()
    handle.write(0, b"new!" * (3 * SECTOR // 4))
    found = {outcome["segment"] for outcome in outcomes(disk)}
    old, new = b"old!" * (SECTOR // 4), b"new!" * (SECTOR // 4)
    assert found == {a + b + c for a in (old, new) for b in (old, new) for c in (old, new)}


def test_never_synced_file_may_have_any_sectors_and_size(disk: SimulatedDisk) -> None:
    storage = SimulatedStorage(disk)
    storage.create("segment").write(0, b"x" * 4 * SECTOR)
    storage.sync_names()
    found = {outcome["segment"] for outcome in outcomes(disk)}
    assert {b"", bytes(4 * SECTOR), b"x" * 4 * SECTOR} <= found
    assert b"x" * SECTOR + bytes(3 * SECTOR) in found
    assert bytes(3 * SECTOR) + b"x" * SECTOR in found
    assert any(0 < len(content) < 4 * SECTOR for content in found)


def test_unsynced_sector_may_hold_what_it_held_between_two_writes(disk: SimulatedDisk) -> None:
    storage = SimulatedStorage(disk)
    handle = storage.create("segment")
    handle.write_durably(0, b"1")
    storage.sync_names()
    handle.write(0, b"2")
    handle.write(0, b"3")
    assert {outcome["segment"] for outcome in outcomes(disk)} == {b"1", b"2", b"3"}


def test_unsynced_truncation_may_be_undone(disk: SimulatedDisk) -> None:
    storage = SimulatedStorage(disk)
    handle = storage.create("segment")
    handle.write_durably(0, b"x" * 2000)
    storage.sync_names()
    handle.truncate(600)
    found = {outcome["segment"] for outcome in outcomes(disk)}
    assert {b"x" * 600, b"x" * 2000, b"x" * 600 + bytes(1400)} <= found
    handle.sync()
    assert all(outcome == {"segment": b"x" * 600} for outcome in outcomes(disk))


@settings(deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_sectors_and_size_after_power_cut_are_ones_the_file_had(data: st.DataObject, seed: int) -> None:
    content = Content()
    had = [b""]
    for _ in range(data.draw(st.integers(0, 8))):
        step = data.draw(st.sampled_from(["write", "write", "truncate", "sync"]))
        if step == "write":
            content.write(data.draw(st.integers(0, 2000)), data.draw(st.binary(max_size=1200)))
        elif step == "truncate":
            content.truncate(data.draw(st.integers(0, 2000)))
        else:
            content.sync()
            had.clear()
        had.append(bytes(content.now))
    left = content.after_power_cut(random.Random(seed)).now
    assert min(map(len, had)) <= len(left) <= max(map(len, had))
    for start in range(0, len(left), SECTOR):
        sector = left[start : start + SECTOR]
        assert any(one[start : start + SECTOR].ljust(SECTOR, b"\0")[: len(sector)] == sector for one in had)


# Names


def test_synced_file_may_lose_its_unsynced_name(disk: SimulatedDisk) -> None:
    storage = SimulatedStorage(disk)
    storage.create("segment").write_durably(0, b"data")
    found = outcomes(disk)
    assert {} in found
    assert {"segment": b"data"} in found
    storage.sync_names()
    assert all(outcome == {"segment": b"data"} for outcome in outcomes(disk))


def test_unsynced_rename_is_done_or_not(disk: SimulatedDisk) -> None:
    storage = SimulatedStorage(disk)
    storage.publish("manifest", b"old")
    storage.create("manifest.tmp").write_durably(0, b"new")
    storage.sync_names()
    storage.rename("manifest.tmp", "manifest")
    found = outcomes(disk)
    before, after = {"manifest": b"old", "manifest.tmp": b"new"}, {"manifest": b"new"}
    assert before in found
    assert after in found
    assert all(outcome in (before, after) for outcome in found)
    storage.sync_names()
    assert all(outcome == after for outcome in outcomes(disk))


def test_unsynced_rename_new_may_leave_either_name_or_both(disk: SimulatedDisk) -> None:
    storage = SimulatedStorage(disk)
    with closing(storage.create("segment.tmp")) as handle:
        handle.write_durably(0, b"data")
        storage.sync_names()
        storage.rename_new("segment.tmp", "segment")
        handle.write(0, b"more")
    found = outcomes(disk)
    names = {tuple(outcome) for outcome in found}
    assert {("segment", "segment.tmp"), ("segment",), ("segment.tmp",)} <= names
    assert all(len(set(outcome.values())) <= 1 for outcome in found), "two names of one file"
    storage.sync_names()
    assert all(list(outcome) == ["segment"] for outcome in outcomes(disk))


def test_unsynced_removal_may_be_undone(disk: SimulatedDisk) -> None:
    storage = SimulatedStorage(disk)
    storage.publish("segment", b"data")
    storage.remove("segment")
    found = outcomes(disk)
    assert {} in found
    assert {"segment": b"data"} in found
    storage.sync_names()
    assert all(outcome == {} for outcome in outcomes(disk))


def test_unsynced_changes_of_different_names_survive_in_any_order(disk: SimulatedDisk) -> None:
    storage = SimulatedStorage(disk)
    storage.publish("old", b"")
    storage.create("a").sync()
    storage.create("b").sync()
    storage.remove("old")
    found = {tuple(outcome) for outcome in outcomes(disk)}
    assert {(), ("a", "b", "old"), ("a",), ("b",), ("a", "old"), ("old",)} <= found


def test_unsynced_changes_of_one_name_survive_in_their_order(disk: SimulatedDisk) -> None:
    storage = SimulatedStorage(disk)
    storage.publish("manifest", b"1")
    for data in (b"2", b"3"):
        storage.create("manifest.tmp").write_durably(0, data)
        storage.rename("manifest.tmp", "manifest")
    found = {tuple(sorted(outcome.items())) for outcome in outcomes(disk)}
    assert found == {
        (("manifest", b"1"),),
        (("manifest", b"1"), ("manifest.tmp", b"2")),
        (("manifest", b"2"),),
        (("manifest", b"2"), ("manifest.tmp", b"3")),
        (("manifest", b"3"),),
    }


def test_unsynced_create_over_old_file_may_leave_either_or_none(disk: SimulatedDisk) -> None:
    storage = SimulatedStorage(disk)
    storage.publish("segment", b"old")
    storage.create("segment").write_durably(0, b"new")
    found = outcomes(disk)
    assert {tuple(outcome.items()) for outcome in found} == {(("segment", b"old"),), (), (("segment", b"new"),)}
