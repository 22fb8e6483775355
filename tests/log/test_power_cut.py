"""Power cuts at every point of a long history, with everything that a disk may lose, and again during the recovery.

After each cut reading and opening succeed, everything acknowledged is there and at most the one unacknowledged step,
and the log can be continued. A creation that was cut is either whole or no backup at all.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backends.change import Change
from backends.errors import BackupError
from backends.log.writer.options import LogOptions
from tests.fake_lightningd.calls import bump
from tests.log.histories import CAMPAIGN, Node, backup_in, noise, silent
from tests.log.model import Model, contents
from tests.storage.simulated import PowerCut, SimulatedDisk, SimulatedStorage

SURVIVORS = 2 * CAMPAIGN
"""Disks examined after the cut at each point; as many again are cut a second time while they recover."""

POINTS_OF_A_RECOVERY = 24

LARGE = 1 << 18
"""Bytes from which a record is read in pieces; here a quarter of the real number. The largest record exceeds it."""

pytestmark = pytest.mark.usefixtures("readers_do_not_wait")


class Cuts:
    """Cuts the power at each point of a node's run, and checks what is left."""

    def __init__(self, disk: SimulatedDisk, node: Node) -> None:
        self.node = node
        self.counts: Counter[str] = Counter()
        self._disk = disk
        disk.watch = self._cut

    def _rng(self) -> random.Random:
        self.counts["cuts"] += 1
        return random.Random(self.counts["cuts"])

    def _cut(self) -> None:
        self.counts["points"] += 1
        for _ in range(SURVIVORS):
            self._look_at(self._disk.crash(self._rng()))
            survivor = self._disk.crash(self._rng())
            self._recover_half_way(survivor)
            self._look_at(survivor.crash(self._rng()))

    def _recover_half_way(self, disk: SimulatedDisk) -> None:
        """Start a recovery and cut the power again during it, if it gets that far."""
        disk.crash_at(disk.operations + random.Random(self.counts["cuts"]).randint(1, POINTS_OF_A_RECOVERY))
        try:
            backup_in(SimulatedStorage(disk), self.node.options).open(silent, "cut, too")
        except PowerCut:
            self.counts["cuts during a recovery"] += 1
        except BackupError:
            assert self.node.model is None

    def _look_at(self, disk: SimulatedDisk) -> None:
        storage = SimulatedStorage(disk)
        acknowledged, under_way = self.node.model, self.node.next
        assert under_way is not None
        try:
            found = contents(backup_in(storage))
        except BackupError:
            assert acknowledged is None
            self.counts["creations that left no backup"] += 1
            return
        if acknowledged is not None and found == acknowledged.contents:
            self.counts["as acknowledged"] += 1
            assert not self.node.doubted or backup_in(storage).damage.read() is not None
            reopen_and_append(storage, acknowledged, self.node.options)
        else:
            assert found == under_way.contents
            self.counts["with the unacknowledged step"] += 1
            reopen_and_append(storage, under_way, self.node.options)


def reopen_and_append(storage: SimulatedStorage, model: Model, options: LogOptions) -> None:
    """Open what is left, append, and read it back: while it is open, after the close, and after another open."""
    writer = backup_in(storage, options).open(silent, "after the cut")
    version = writer.position.data_version + 1
    change = Change(version, ["SELECT 'after the cut'", bump(version)])
    writer.append(change)
    writer.maintain()
    expected = model.appended(change).contents
    assert contents(backup_in(storage)) == expected
    writer.close()
    assert not [name for name in storage.names() if name.endswith(".tmp")]
    backup_in(storage, options).open(silent, "again").close()
    assert contents(backup_in(storage)) == expected


def long_life(node: Node) -> None:
    """Play every kind of step in every kind of situation."""
    node.create()
    node.open("one")
    node.append(node.history.first())
    for text in ("", "short", noise(300), noise(700, 1)):
        node.note(text)
    node.writer.maintain()
    node.note("again")
    node.append(node.history.foreign_keys(on=False))
    node.append(node.history.foreign_keys(on=True))
    for seed in range(5):
        node.note(noise(2500, seed))
        node.writer.maintain()
    node.note("in a segment made in advance")
    for seed in range(6):
        node.note(noise(3000, seed))
    node.append(node.history.transaction(f"DELETE FROM vars WHERE name = '{noise(2 * LARGE)}'"))
    node.note("after a record that is not read at once")
    node.writer.maintain()
    node.note("in the next segment")
    node.compact(lambda: node.note("during the compaction"))
    node.note()
    node.close()
    node.open("two")
    node.snapshot()
    node.note("in a new generation")
    node.compact()
    for seed in range(4):
        node.note(noise(2500, seed))
        node.writer.maintain()
    node.compact()
    node.renew(lambda: node.note("while a new snapshot is made"))
    node.note("after it")
    node.renew()
    node.open("after it was killed")
    node.note("the last")
    node.close()


@pytest.mark.slow
@pytest.mark.parametrize("note_every", [0.0, 1e9], ids=["noted at each maintenance", "never noted"])
def test_power_cut_at_every_point_loses_nothing_acknowledged(
    tmp_path: Path,
    small: LogOptions,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
    note_every: float,
) -> None:
    """Writing a note also syncs all names, which would hide that one of them was not synced in time."""
    monkeypatch.setattr("backends.log.reader.records.LARGE", LARGE)
    monkeypatch.setattr("backends.log.format.torn._BLOCK", LARGE)
    disk = SimulatedDisk()
    cuts = Cuts(disk, Node(SimulatedStorage(disk), tmp_path, options=replace(small, note_every=note_every)))
    long_life(cuts.node)
    disk.watch = None
    assert contents(backup_in(SimulatedStorage(disk))) == cuts.node.now.contents
    for what, count in cuts.counts.items():
        record_property(what, count)
    print(dict(cuts.counts))
    assert cuts.counts["creations that left no backup"] > 0
    assert cuts.counts["with the unacknowledged step"] > 0
    assert cuts.counts["cuts during a recovery"] > cuts.counts["cuts"] // 5
