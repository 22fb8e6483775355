"""Generations that are kept for their history: `?keep=`."""

import errno
import os
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from backends.compaction.compact import compact_log
from backends.keep import Keep
from backends.log.backup import Backup
from backends.log.format.history import HISTORY
from backends.log.format.records import segment_name, snapshot_generation, snapshot_name
from backends.log.writer.options import LogOptions
from tests.log.conftest import DATABASE, SMALL
from tests.log.corruption import files_in, flipped
from tests.log.destinations import Maker
from tests.log.histories import Node, backup_in, changes, silent, source
from tests.log.keeping import MONTH, begun, generations, lived, noted, reachable
from tests.log.model import contents
from tests.storage.simulated import PowerCut, SimulatedDisk, SimulatedStorage

pytestmark = pytest.mark.usefixtures("readers_do_not_wait")

NOTHING = replace(SMALL, keep=Keep(0, 0))


def test_power_cut_at_every_step_of_giving_up_lists_nothing_half(new: Callable[[LogOptions], Node]) -> None:
    node = lived(new(MONTH))
    node.close()
    files, whole, rng = files_in(node.storage), node.now.version, random.Random(7)
    for step in range(1, 200):
        disk = SimulatedDisk.holding(files)
        writer = backup_in(SimulatedStorage(disk), MONTH).open(silent, "x")
        writer.remove_outdated()
        disk.crash_at(disk.operations + step)
        try:
            writer.give_up_history(1 << 62)
        except PowerCut:
            check(backup_in(SimulatedStorage(disk.crash(rng)), MONTH), whole)
        else:
            break
    assert step > 8
    assert generations(backup_in(SimulatedStorage(disk), MONTH)) == []


@pytest.mark.parametrize("options", [SMALL, NOTHING])
def test_without_keep_a_compaction_keeps_nothing(new: Callable[[LogOptions], Node], options: LogOptions) -> None:
    node = lived(new(options))
    assert generations(node.backup()) == []
    assert HISTORY not in node.storage.names()


def test_compaction_whose_tidying_fails_counts_and_is_tidied_up_later(
    new: Callable[[LogOptions], Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was reported as failed, and the marker went on naming the generation before it."""
    node = begun(new(SMALL))
    noted(node, 12)

    def fails(name: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), name)

    with monkeypatch.context() as patched:
        patched.setattr(node.storage, "remove", fails)
        node.compact()
    assert node.writer._fence.session.generation == node.writer.manifest.generation == 2
    assert snapshot_name(1) in node.storage.names()
    node.writer.remove_outdated()
    assert snapshot_name(1) not in node.storage.names()
    assert contents(node.backup()) == node.now.contents


def test_every_version_since_the_oldest_kept_generation_can_be_read(new: Callable[[LogOptions], Node]) -> None:
    node = lived(new(MONTH))
    assert generations(node.backup()) == [1, 2, 3]
    assert sorted(set(reachable(node.backup()))) == list(range(node.now.version + 1))
    assert contents(node.backup()) == node.now.contents
    node.close()
    node.open("again")
    assert sorted(set(reachable(node.backup()))) == list(range(node.now.version + 1))


def test_compaction_writes_no_byte_more_to_keep_a_generation_than_its_list(
    new: Callable[[LogOptions], Node], tmp_path: Path
) -> None:
    written = {}
    for options in (SMALL, MONTH):
        node = begun(new(options))
        noted(node, 12)
        before = node.storage.space().free
        kept = sum(len(data) for data in files_in(node.storage).values())
        node.compact()
        written[options is MONTH] = (before - node.storage.space().free) + (0 if options is MONTH else kept)
    files = files_in(node.storage)
    assert segment_name(1) in files and snapshot_name(1) in files
    assert written[True] < written[False] + 2048


def test_generation_that_a_snapshot_replaced_is_kept_too(new: Callable[[LogOptions], Node]) -> None:
    node = begun(new(MONTH))
    noted(node, 4)
    node.snapshot()
    noted(node, 2)
    node.compact()
    assert generations(node.backup()) == [1, 2]
    kept = node.backup().kept()
    assert kept is not None and kept.manifest.generation == 1
    assert sorted(set(reachable(node.backup()))) == list(range(node.now.version + 1))


def test_the_oldest_go_when_the_size_is_exceeded(new: Callable[[LogOptions], Node]) -> None:
    whole = lived(new(MONTH), 5)
    most = whole.backup().history_bytes() // 2
    node = lived(new(replace(SMALL, keep=Keep(30 * 86400, most))), 5)
    found = generations(node.backup())
    assert found and found == list(range(found[0], 6)) and found[0] > 1
    assert node.backup().history_bytes() <= most
    first = node.backup().held()[0].manifest.base.data_version
    assert sorted(set(reachable(node.backup()))) == list(range(first, node.now.version + 1))


def test_url_without_keep_goes_on_keeping_and_zero_ends_it(new: Callable[[LogOptions], Node]) -> None:
    node = lived(new(MONTH))
    node.close()
    node.options = SMALL
    node.open("two")
    noted(node, 12)
    node.compact()
    assert generations(node.backup()) == [1, 2, 3, 4]
    node.close()
    node.options = NOTHING
    node.open("three")
    assert generations(node.backup()) == []
    assert HISTORY not in node.storage.names() and snapshot_name(1) not in node.storage.names()
    assert contents(node.backup()) == node.now.contents


def test_kept_generation_without_its_snapshot_is_not_listed(new: Callable[[LogOptions], Node]) -> None:
    """A release that knows nothing of the list has removed what no document names for it."""
    node = lived(new(MONTH))
    node.close()
    for name in (snapshot_name(1), segment_name(1)):
        node.storage.remove(name)
    assert generations(node.backup()) == [2, 3]
    node.open("again")
    assert generations(node.backup()) == [2, 3]
    assert contents(node.backup()) == node.now.contents


def test_damaged_list_stops_nothing(new: Callable[[LogOptions], Node]) -> None:
    node = lived(new(MONTH))
    node.close()
    node.storage.publish(HISTORY, flipped(node.storage.read_small(HISTORY), 30, 1))
    assert generations(node.backup()) == []
    node.open("again")
    assert contents(node.backup()) == node.now.contents


def test_power_cut_at_every_step_of_keeping_and_removing_loses_nothing_newer_and_lists_nothing_half(
    new: Callable[[LogOptions], Node], tmp_path: Path
) -> None:
    """The third compaction keeps the third generation and, for want of space, gives up the first."""
    node = lived(new(MONTH), 2)
    most = node.backup().history_bytes()
    noted(node, 9)
    node.close()
    compacted = compact_log(node.storage, tmp_path, leave_out=1)
    assert compacted is not None
    files, whole = files_in(node.storage), node.now.version
    rng = random.Random(7)
    for step in range(1, 200):
        disk = SimulatedDisk.holding(files)
        options = replace(SMALL, keep=Keep(30 * 86400, most))
        writer = backup_in(SimulatedStorage(disk), options).open(silent, "x", compacted=compacted)
        disk.crash_at(disk.operations + step)
        done = False
        with suppress(PowerCut):
            writer.publish_compaction(compacted)
            done = True
        after = backup_in(SimulatedStorage(disk.crash(rng)), options)
        check(after, whole)
        after.open(silent, "again").close()
        check(after, whole)
        current = after.look().manifest.generation
        there = {number for name in after.storage.names() if (number := snapshot_generation(name)) is not None}
        assert {number for number in there if number <= current} == {*generations(after), current}, "unlisted ones go"
        if done:
            assert generations(after) and 1 not in generations(after)
            break
    else:
        raise AssertionError("it never ended")
    assert step > 8


def check(backup: Backup, version: int) -> None:
    """The backup is whole and ends at this version; each generation that it lists can be read."""
    found = reachable(backup)
    assert found[-1] == version
    held = backup.held()
    assert sorted(set(found)) == list(range(held[0].manifest.base.data_version if held else found[0], version + 1))


def test_full_disk_gives_up_the_oldest_generation_before_a_commit_fails(tmp_path: Path) -> None:
    disk, said = SimulatedDisk(), list[str]()
    node = Node(SimulatedStorage(disk), tmp_path, options=MONTH)
    lived(node, 4)
    node.close()
    node.open("two", lambda level, line: said.append(line))
    node.writer.maintain()
    disk.capacity -= node.storage.space().free - 4_000
    version = node.now.version
    while generations(node.backup()):
        node.note()
        node.writer.maintain()
        assert node.writer.failure is None
    assert node.now.version > version
    assert [line for line in said if "generation 1, which was kept for its history (versions 0 to" in line]
    assert contents(node.backup()) == node.now.contents


def test_start_on_a_full_disk_gives_up_the_oldest_generations(tmp_path: Path) -> None:
    disk, said = SimulatedDisk(), list[str]()
    node = Node(SimulatedStorage(disk), tmp_path, options=MONTH)
    lived(node, 4)
    node.close()
    disk.capacity -= node.storage.space().free - 100
    node.open("two", lambda level, line: said.append(line))
    node.note()
    assert contents(node.backup()) == node.now.contents
    assert "generation 1" in said[0]


def test_history_at_every_kind_of_destination(created: Maker, make: Maker, tmp_path: Path) -> None:
    """Encrypted ones included, where the list is sealed."""
    backup = created()
    backup._options = replace(backup._options, keep=Keep(86400, 1 << 30))
    writer = backup.open(silent, "writer")
    version = 1
    for _ in range(3):
        for one in changes(6, version):
            writer.append(one)
            writer.maintain()
        version += 6
        compacted = compact_log(writer.storage, tmp_path, leave_out=1)
        assert compacted is not None
        writer.publish_compaction(compacted)
    assert generations(created()) == [1, 2, 3]
    assert sorted(set(reachable(created()))) == list(range(1, version + 1))
    assert writer.sizes().kept == 3 and writer.sizes().kept_bytes > 0
    seen = created().status("url")
    assert writer.status("url").history_oldest == seen.history_oldest == created().held()[0].manifest.created
    writer.take_snapshot(source(DATABASE, version), "resync")
    writer.give_up_history(1 << 62)
    assert generations(created()) == [] or created().kept() is not None
    assert contents(created()).snapshot == DATABASE
    writer.close()
