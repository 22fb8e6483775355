"""A writer that was replaced keeps nothing and removes nothing: what is there is its successor's."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from backends.compaction.compact import compact_log
from backends.errors import Fenced
from backends.keep import Keep
from backends.log.format.history import HISTORY
from backends.log.format.records import segment_index, snapshot_generation
from backends.log.writer.options import LogOptions
from backends.log.writer.writer import Writer
from tests.log.conftest import SMALL
from tests.log.corruption import files_in
from tests.log.histories import Node, backup_in, changes, silent
from tests.log.keeping import MONTH, generations, lived, noted, reachable
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

pytestmark = pytest.mark.usefixtures("readers_do_not_wait")


class Rival:
    """Another writer, which keeps everything. It takes over after the watched one's step number `after`, and then each
    further step of that one on what is kept is noted."""

    def __init__(self, disk: SimulatedDisk, watched: SimulatedStorage, after: int, monkeypatch: pytest.MonkeyPatch):
        self.backup = backup_in(SimulatedStorage(disk), MONTH)
        self.writer: Writer | None = None
        self.steps, self.too_late = 0, list[str]()
        self._after = after
        for name in ("remove", "rename", "rename_new"):
            monkeypatch.setattr(watched, name, self._stepping(getattr(watched, name)))

    def _stepping(self, act: Callable[..., None]) -> Callable[..., None]:
        def step(*names: str) -> None:
            if self.writer is not None and _concerns_the_past(names[-1]):
                self.too_late.append(f"{act.__name__} {names}")
            act(*names)
            self.steps += 1
            if self.steps == self._after:
                self.writer = self.backup.open(silent, "rival")

        return step


def _concerns_the_past(name: str) -> bool:
    return name == HISTORY or segment_index(name) is not None or snapshot_generation(name) is not None


def keeps_and_prunes(writer: Writer, scratch: Path) -> None:
    """A compaction is published; the generation that it replaces is kept, and older ones are too many."""
    compacted = compact_log(writer.storage, scratch, leave_out=1)
    assert compacted is not None
    writer.publish_compaction(compacted)


def gives_up(writer: Writer, scratch: Path) -> None:
    """The disk is full."""
    writer.remove_outdated()
    writer.give_up_history(1 << 62)


@pytest.mark.parametrize("work", [keeps_and_prunes, gives_up])
def test_rival_takes_over_after_any_step_and_its_history_is_left_alone(
    work: Callable[[Writer, Path], None],
    new: Callable[[LogOptions], Node],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = lived(new(MONTH))
    most = node.backup().history_bytes() // 2
    noted(node, 9)
    node.close()
    files, version = files_in(node.storage), node.now.version
    options, fenced = replace(SMALL, keep=Keep(30 * 86400, most)), 0
    for after in range(1, 100):
        disk = SimulatedDisk.holding(files)
        storage = SimulatedStorage(disk)
        first = backup_in(storage, options).open(silent, "first")
        rival = Rival(disk, storage, after, monkeypatch)
        with suppress(Fenced):
            work(first, tmp_path)
            first.maintain()
        if rival.writer is None:
            break
        fenced += 1
        assert rival.too_late == [], after
        for change in changes(9, version, 500):
            rival.writer.append(change)
        there = generations(rival.backup)
        rival.writer.remove_outdated()
        assert generations(rival.backup) == there
        found = reachable(rival.backup)
        oldest = rival.backup.held()[0].manifest.base.data_version if there else found[0]
        assert sorted(set(found)) == list(range(oldest, version + 10)), after
    assert fenced > 8
