"""Copying and comparing members, with power cuts at every operation, bit rot, and full targets."""

import errno
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.errors import BackupError, Damaged
from backends.log.writer.options import DEFAULT_OPTIONS
from backends.members import files
from backends.members.copy_file import copy_file
from backends.members.differences import Differences, differences
from backends.members.files import copy_backup, make_equal
from backends.members.shared_files import holds_data, shared_names
from backends.storage.local import LocalStorage
from tests.encrypted import EVERYTHING
from tests.log.histories import CAMPAIGN, Node, backup_in, noise
from tests.log.model import contents
from tests.members.pairs import Pair, flip, held
from tests.storage.faulty import FaultyStorage
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

pytestmark = pytest.mark.usefixtures("readers_do_not_wait")

SURVIVORS = 4 * CAMPAIGN
"""Disks examined after the power cut at each point."""


@pytest.fixture
def readers_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers give up at once on what looks unfinished: nobody is writing."""
    monkeypatch.setattr("backends.log.reader.records._ATTEMPTS", 0)
    monkeypatch.setattr("backends.log.reader.opening._PAUSE", 0.0)


def _behind_by_records(pair: Pair) -> None:
    pair.commit(4)
    pair.part()
    pair.commit(2)


def _behind_by_segments(pair: Pair) -> None:
    pair.commit(4)
    pair.part()
    pair.commit(30, 1500)


def _missed_a_compaction_with_segments_in_common(pair: Pair) -> None:
    pair.commit(20, 1500)
    pair.part()
    pair.commit(1)
    pair.compact()
    pair.commit(5, 1500)


def _missed_a_compaction_with_no_segment_in_common(pair: Pair) -> None:
    pair.commit(6, 1500)
    pair.part()
    pair.commit(30, 1500)
    pair.compact()
    pair.commit(2, 1500)


def _missed_a_new_snapshot(pair: Pair) -> None:
    pair.commit(6, 1500)
    pair.part()
    pair.snapshot()
    pair.commit(6, 1500)


def _holds_abandoned_records(pair: Pair, size: int = 1500) -> None:
    pair.commit(6, size)
    pair.part()
    pair.fork(lambda node: node.note("never acknowledged"))
    pair.commit(2)


def _holds_abandoned_records_in_a_segment_with_room(pair: Pair) -> None:
    _holds_abandoned_records(pair, 1400)  # the log goes on in their segment, also when it is encrypted


def _holds_abandoned_records_in_two_segments(pair: Pair) -> None:
    _holds_abandoned_records(pair, 1560)  # they fill their segment, and the log goes on in the next one


def _holds_abandoned_segments(pair: Pair) -> None:
    def work(node: Node) -> None:
        for number in range(20):
            node.note(noise(1500, 1000 + number))
            node.writer.maintain()

    pair.commit(6, 1500)
    pair.part()
    pair.fork(work)
    pair.commit(7, 1500)


def _holds_abandoned_generation_of_same_number(pair: Pair) -> None:
    def work(node: Node) -> None:
        node.snapshot()
        node.note("on the abandoned snapshot")

    pair.commit(6, 1500)
    pair.part()
    pair.fork(work)
    pair.node.history.note()  # so that the two snapshots differ
    pair.snapshot()
    pair.commit(2)


SCENARIOS = {
    work.__name__.strip("_"): (work, whole)
    for work, whole in (
        (_behind_by_records, True),
        (_behind_by_segments, True),
        (_missed_a_compaction_with_segments_in_common, True),
        (_missed_a_compaction_with_no_segment_in_common, False),
        (_missed_a_new_snapshot, False),
        (_holds_abandoned_records, not EVERYTHING),  # encrypted records are longer: as in two segments
        (_holds_abandoned_records_in_a_segment_with_room, True),
        (_holds_abandoned_records_in_two_segments, False),
        (_holds_abandoned_segments, False),
        (_holds_abandoned_generation_of_same_number, False),
    )
}
"""How the target came to differ, and whether it must be whole at every moment."""


@pytest.fixture(params=SCENARIOS)
def scenario(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Pair, bool]:
    work, whole = SCENARIOS[request.param]
    pair = Pair(tmp_path)
    work(pair)
    return pair, whole


class Cuts:
    """Cuts the power at each point of a copy, and checks what is left at the target."""

    def __init__(self, pair: Pair, *, whole: bool) -> None:
        self._pair, self._whole = pair, whole
        self._source = held(pair.ahead)
        self.counts: Counter[str] = Counter()
        pair.behind.disk.watch = self._cut

    def _cut(self) -> None:
        self.counts["points"] += 1
        damaged = False
        for number in range(SURVIVORS):
            disk = self._pair.behind.disk.crash(random.Random(self.counts["points"] * SURVIVORS + number))
            left = SimulatedStorage(disk)
            damaged |= self._look(left)
            make_equal(self._pair.ahead, left, deep=True)
            assert held(left) == self._source
            assert not [name for name in left.names() if name.endswith(".tmp")]
        self.counts["points with a damaged target"] += damaged

    def _look(self, left: SimulatedStorage) -> bool:
        """Check what a reader finds. Returns whether it finds that the backup is not whole."""
        try:
            found = contents(backup_in(left))
        except BackupError:
            assert not self._whole
            return True
        assert found in self._pair.states
        self.counts["as before" if found == self._pair.states[0] else "later"] += 1
        return False


def test_target_after_power_cut_at_every_operation_is_whole_or_known_to_be_damaged(
    scenario: tuple[Pair, bool], record_property: Callable[[str, object], None]
) -> None:
    pair, whole = scenario
    before = {name: bytes(file.now) for name, file in pair.ahead.disk._names.items()}
    cuts = Cuts(pair, whole=whole)
    make_equal(pair.ahead, pair.behind, deep=False)
    pair.behind.disk.watch = None
    assert held(pair.behind) == held(pair.ahead)
    assert contents(backup_in(pair.behind)) == pair.node.now.contents
    assert before == {name: bytes(file.now) for name, file in pair.ahead.disk._names.items()}
    for what, count in cuts.counts.items():
        record_property(what, count)
    print(dict(cuts.counts))
    assert cuts.counts["later"] > 0
    assert (cuts.counts["points with a damaged target"] > 0) is not whole
    assert make_equal(pair.ahead, pair.behind, deep=True) == 0


def _random_history(scratch: Path, rng: random.Random) -> Pair:
    pair = Pair(scratch)
    steps = [lambda: pair.commit(3, 200), lambda: pair.commit(4, 1500), pair.compact, pair.snapshot]

    def abandoned(node: Node) -> None:
        for number in range(rng.randint(1, 12)):
            node.note(noise(700, number))

    for _ in range(rng.randint(0, 4)):
        rng.choice(steps)()
    pair.part()
    if rng.random() < 0.4:
        pair.fork(abandoned)
    for _ in range(rng.randint(1, 5)):
        rng.choice(steps)()
    if rng.random() < 0.5:
        pair.node.close()
    return pair


def test_target_of_copies_in_many_random_histories_equals_the_source(tmp_path: Path) -> None:
    for seed in range(30 * CAMPAIGN):
        pair = _random_history(tmp_path, random.Random(seed))
        make_equal(pair.ahead, pair.behind, deep=False)
        assert held(pair.behind) == held(pair.ahead), seed
        assert contents(backup_in(pair.behind)) == pair.node.now.contents


def test_target_is_whole_after_each_file_wherever_that_is_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In random histories. The other way to copy, which makes no promise, must not be the only one that is taken."""
    taken, other_way = Counter[str](), files._Copying._copy_then_rename

    def noted(copying: files._Copying, *arguments: Any) -> None:
        taken["the other way"] += 1
        pair.behind.disk.watch = None
        other_way(copying, *arguments)

    def cut() -> None:
        left = SimulatedStorage(pair.behind.disk.crash(random.Random(seed)))
        assert contents(backup_in(left)) in pair.states, seed
        taken["points"] += 1

    monkeypatch.setattr(files._Copying, "_copy_then_rename", noted)
    for seed in range(80 * CAMPAIGN):
        pair = _random_history(tmp_path, random.Random(seed))
        pair.behind.disk.watch = cut
        make_equal(pair.ahead, pair.behind, deep=False)
        pair.behind.disk.watch = None
        assert held(pair.behind) == held(pair.ahead), seed
    assert taken["points"] > 300 * CAMPAIGN
    assert taken["the other way"] < 70 * CAMPAIGN


def test_flipped_bit_at_any_offset_is_found_by_a_deep_comparison_and_healed(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.commit(20, 1500)
    pair.compact()
    pair.commit(12, 1500)
    pair.part()
    original = held(pair.ahead)
    for name in filter(holds_data, original):
        for offset in range(random.Random(name).randrange(97), len(original[name]), 97):
            flip(pair.behind, name, offset)
            assert differences(pair.ahead, pair.behind, deep=True) == Differences((name,), ())
            assert make_equal(pair.ahead, pair.behind, deep=True) == len(original[name])
            assert held(pair.behind) == original


def test_bit_rot_of_the_source_does_not_replace_the_good_file_of_the_target(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.commit(20, 1500)
    pair.part()
    pair.commit(3)
    original = held(pair.behind)
    for name in filter(holds_data, original):
        flip(pair.ahead, name, 70)
        with pytest.raises(Damaged, match=f"in {name}"):
            make_equal(pair.ahead, pair.behind, deep=True)
        assert held(pair.behind) == original
        flip(pair.ahead, name, 70)
    make_equal(pair.ahead, pair.behind, deep=True)
    assert held(pair.behind) == held(pair.ahead)


def test_flipped_bit_far_from_the_end_needs_a_deep_comparison(tmp_path: Path) -> None:
    pair = Pair(tmp_path, options=DEFAULT_OPTIONS)
    pair.commit(150, 1500)
    pair.part()
    flip(pair.behind, "segment-00000001", 2000)
    assert differences(pair.ahead, pair.behind, deep=False) == Differences((), ())
    assert differences(pair.ahead, pair.behind, deep=True) == Differences(("segment-00000001",), ())


def test_open_segments_of_equal_size_with_other_records_differ(tmp_path: Path) -> None:
    pair = Pair(tmp_path, options=replace(DEFAULT_OPTIONS, preallocate_min=1 << 20))
    pair.part()
    pair.commit(1)
    name = "segment-00000001"
    assert len(held(pair.ahead)[name]) == len(held(pair.behind)[name])
    assert name in differences(pair.ahead, pair.behind, deep=False).copy


def test_full_target_raises_and_keeps_no_temporary_file(scenario: tuple[Pair, bool]) -> None:
    pair, whole = scenario
    before = contents(backup_in(pair.behind))
    needed = sum(map(len, held(pair.ahead).values()))
    disk = pair.behind.disk
    used = disk.capacity - disk._free()
    failed = 0
    for room in range(0, needed, 500):
        behind = SimulatedStorage(disk.crash(random.Random(0)))
        behind.disk.capacity = used + room
        try:
            make_equal(pair.ahead, behind, deep=False)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            failed += 1
            assert not [name for name in behind.names() if name.endswith(".tmp")]
            if whole:
                assert contents(backup_in(behind)) in pair.states
            elif "manifest" in behind.names():
                assert contents(backup_in(behind)) == before
        else:
            assert held(behind) == held(pair.ahead)
    assert failed > 0


def test_source_that_fails_at_any_read_leaves_target_readable(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    _behind_by_segments(pair)
    whole = FaultyStorage(pair.ahead)
    make_equal(whole, SimulatedStorage(pair.behind.disk.crash(random.Random(0))), deep=False)
    for nth in range(1, whole.calls["read"] + 1):
        behind, source = SimulatedStorage(pair.behind.disk.crash(random.Random(0))), FaultyStorage(pair.ahead)
        source.fail("read", errno.EIO, nth=nth)
        with pytest.raises(OSError, match="a fault made for a test"):
            make_equal(source, behind, deep=False)
        assert contents(backup_in(behind)) in pair.states
        assert not [name for name in behind.names() if name.endswith(".tmp")]


def test_file_of_target_that_cannot_be_read_is_replaced(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.commit(4)
    pair.part()
    for operation in ("open", "read", "size"):
        target = FaultyStorage(pair.behind)
        target.fail(operation, errno.EIO, nth=3)
        assert len(differences(pair.ahead, target, deep=True).copy) == 1


def test_damaged_manifest_of_source_is_not_copied(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.part()
    flip(pair.ahead, "manifest", 40)
    before = held(pair.behind)
    with pytest.raises(Damaged):
        make_equal(pair.ahead, pair.behind, deep=False)
    with pytest.raises(Damaged):
        copy_backup(pair.ahead, SimulatedStorage(SimulatedDisk()))
    assert held(pair.behind) == before


def test_target_with_another_backup_is_refused_and_untouched(tmp_path: Path) -> None:
    pair, other = Pair(tmp_path), Pair(tmp_path)
    before = held(other.ahead)
    with pytest.raises(BackupError, match="another backup"):
        make_equal(pair.ahead, other.ahead, deep=False)
    assert held(other.ahead) == before


def test_own_files_of_target_are_kept_and_unfinished_ones_removed(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.part()
    own = ("members", "lock", "torn-segment-00000001-1700000000", "notes of the operator", "members-00000000.tmp")
    unfinished = ("segment-00000002-copy-00000000.tmp", "manifest-00000000.tmp", "snapshot-00000002-compaction-0.tmp")
    waiting = ("snapshot-00000003-compaction-1.tmp", "snapshot-00000003-compaction-1.1.tmp")
    extra = ("segment-00000009", "snapshot-00000001.7")
    for name in (*own, *unfinished, *waiting, *extra):
        pair.behind.publish(name, b"x")
    make_equal(pair.ahead, pair.behind, deep=False, keep=("snapshot-00000003-compaction-1.tmp", "segment-00000009"))
    assert set(pair.behind.names()) - set(pair.ahead.names()) == {*own, *waiting, "segment-00000009"}
    assert shared_names(own) == shared_names(unfinished) == shared_names(waiting) == []


def test_new_copy_is_whole_or_no_backup_after_power_cut_at_every_operation(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.commit(20, 1500)
    pair.compact()
    disk = SimulatedDisk()
    found = Counter[bool]()

    def cut() -> None:
        for seed in range(SURVIVORS):
            left = SimulatedStorage(disk.crash(random.Random(seed + SURVIVORS * disk.operations)))
            try:
                assert contents(backup_in(left)) == pair.node.now.contents
                found[True] += 1
            except BackupError:
                found[False] += 1

    disk.watch = cut
    copy_backup(pair.ahead, SimulatedStorage(disk))
    assert held(SimulatedStorage(disk)) == held(pair.ahead)
    assert found[True]
    assert found[False]


def test_new_copy_that_fails_leaves_no_directory(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.commit(20, 1500)
    for room in range(0, 9000, 1000):
        target = SimulatedStorage(SimulatedDisk(capacity=room))
        with pytest.raises(OSError, match="No space left"):
            copy_backup(pair.ahead, target)
        assert not target.exists()
    with pytest.raises(FileExistsError):
        copy_backup(pair.ahead, pair.ahead)
    assert contents(backup_in(pair.ahead)) == pair.node.now.contents


def test_pause_sees_every_byte_and_stops_the_copy_before_names_change(tmp_path: Path) -> None:
    class Replaced(Exception):
        pass

    def stop(copied: int) -> None:
        if not copied:
            raise Replaced

    for work, _ in SCENARIOS.values():
        pair = Pair(tmp_path)
        work(pair)
        before = {name: data for name, data in held(pair.behind).items() if name not in ("kept", "damage")}
        with pytest.raises(Replaced):
            make_equal(pair.ahead, pair.behind, deep=False, pause=stop)
        assert {name: data for name, data in held(pair.behind).items() if name not in ("kept", "damage")} == before
        assert not [name for name in pair.behind.names() if name.endswith(".tmp")]
    seen: list[int] = []
    copy_file(pair.ahead, pair.behind, "segment-00000001", seen.append)
    assert sum(seen) == len(held(pair.ahead)["segment-00000001"])


def test_large_file_is_synced_every_few_megabytes(tmp_path: Path) -> None:
    source, target = LocalStorage(tmp_path / "a"), FaultyStorage(LocalStorage(tmp_path / "b"))
    source.make()
    target.make()
    source.publish("snapshot-00000001", random.Random(1).randbytes(17 << 20))
    copy_file(source, target, "snapshot-00000001")
    assert target.calls["sync"] == 5
    assert (tmp_path / "a/snapshot-00000001").read_bytes() == (tmp_path / "b/snapshot-00000001").read_bytes()
