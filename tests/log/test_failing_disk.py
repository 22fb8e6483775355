"""A failing disk: each storage operation fails in turn, at each of its occurrences, in every way that disks fail.

A commit is durable or refused, and after one refusal the writer takes nothing more. No other failure undoes an
acknowledged commit. Once the disk works again, the next start continues with everything that was acknowledged.
"""

import errno
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backends.errors import BackupError
from tests.log.conftest import SMALL
from tests.log.histories import CAMPAIGN, Node, backup_in, changes, noise, source
from tests.log.model import contents
from tests.storage.faulty import OPERATIONS, FaultyStorage, Operation
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

pytestmark = pytest.mark.usefixtures("readers_do_not_wait")

NUMBERS = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE]
LOOKS: tuple[Operation, ...] = ("exists", "names", "open", "space", "size", "read")
WRITES: tuple[Operation, ...] = ("write", "write_durably", "extend")


class NodeOnFailingDisk(Node):
    """A node on a failing disk. When a step is refused, it repairs the disk, starts again, and continues."""

    def __init__(self, scratch: Path) -> None:
        self.disk = SimulatedDisk()
        self.faulty = FaultyStorage(SimulatedStorage(self.disk))
        super().__init__(self.faulty, scratch, SimulatedStorage(self.disk), SMALL)
        self.refusals = 0

    def attempt(self, step: Callable[[], object]) -> None:
        """Do a step; if it is refused, check the refusal, repair the disk and continue."""
        struck = self.faulty.struck
        try:
            step()
        except BackupError as error:
            assert self.faulty.struck > struck, f"refused without a reason: {error}"
            self.refusals += 1
            self.check_refusal()
            self.faulty.heal()
            self.restart_if_needed()
        if self.faulty.struck > struck:
            self.check_power_cut()

    def check_refusal(self) -> None:
        """After a failed commit the writer takes nothing more and does not even touch the disk."""
        writer = self._writer
        if writer is None or writer.failure is None:
            return
        calls = dict(self.faulty.calls)
        writer.maintain()
        with pytest.raises(BackupError):
            writer.append(changes(1)[0])
        with pytest.raises(BackupError):
            writer.take_snapshot(source(), "test")
        assert dict(self.faulty.calls) == calls

    def restart_if_needed(self) -> None:
        """Continue with this writer if it still may write (only a compaction failed), else with a new one."""
        if self.model is None:
            return
        if self._writer is None or self._writer.failure is not None:
            self.close()
            self.open("after a failure")
        found = contents(backup_in(self.plain))
        assert self.next is not None
        if found == self.next.contents:
            self.model = self.next
        assert found == self.now.contents
        self.next = self.model
        self.history.version = self.now.version

    def check_power_cut(self) -> None:
        """A power cut at this moment loses nothing that was acknowledged."""
        for seed in range(2):
            left = backup_in(SimulatedStorage(self.disk.crash(random.Random(seed))))
            if self.model is None or self.next is None:
                continue
            found = contents(left)
            renewed = self.renewed
            if renewed is not None and renewed.generation == found.generation < self.now.generation:
                since = self.now.committed[len(renewed.committed) :]
                assert found == replace(renewed, changes=renewed.changes + since).contents
                assert left.damage.read() is not None
            elif (
                found.generation < self.now.generation
            ):  # a compaction's name was not saved, and so nothing was removed
                assert found.snapshot == b""
                assert found.changes == replace(self.now, changes=self.now.committed).contents.changes
            else:
                assert found in (self.now.contents, self.next.contents)


def live(node: NodeOnFailingDisk) -> None:
    """Go through every kind of step in a node's life."""
    while node.model is None:
        node.attempt(node.create)
        if node.model is None and node.plain.exists():
            backup_in(node.plain).remove()  # what was left could not be removed either
    node.attempt(lambda: node.open("one"))
    while not node.now.committed:
        node.attempt(lambda: node.append(node.history.first()))
    for seed in range(7):
        node.attempt(lambda seed=seed: node.note(noise(2500, seed)))  # type: ignore[misc]
        node.writer.maintain()
    node.attempt(node.note)
    node.attempt(node.note)
    node.attempt(node.compact)
    node.attempt(node.note)
    node.check_power_cut()
    node.attempt(node.note)
    node.close()
    node.attempt(lambda: node.open("two"))
    node.attempt(lambda: node.append(node.history.transaction(f"DELETE FROM vars WHERE name = '{noise(20_000)}'")))
    node.writer.maintain()
    node.attempt(node.snapshot)
    node.attempt(node.note)
    node.attempt(node.renew)
    node.attempt(node.note)
    node.writer.maintain()
    node.close()
    node.faulty.heal()
    node.open("at last")
    node.note()
    node.close()
    assert contents(backup_in(node.plain)) == node.now.contents
    node.check_power_cut()


def ways(operation: Operation) -> list[float]:
    """How much of a failing operation may be carried out despite the error."""
    return [0.0] if operation in LOOKS else [0.0, 0.5, 1.0] if operation in WRITES else [0.0, 1.0]


def faults(operation: Operation, calls: int) -> Iterator[tuple[int, int, float]]:
    """The call that fails, the errno, and how much is done."""
    for nth in range(1, calls + 1):
        for done in ways(operation):
            for number in NUMBERS if CAMPAIGN > 1 else [NUMBERS[nth % len(NUMBERS)]]:
                yield nth, number, done


@pytest.mark.parametrize("operation", OPERATIONS)
def test_disk_operation_failing_at_each_occurrence_loses_nothing_acknowledged(
    operation: Operation, tmp_path: Path
) -> None:
    well = NodeOnFailingDisk(tmp_path)
    live(well)
    assert well.refusals == well.faulty.struck == 0
    counts: Counter[str] = Counter()
    for nth, number, done in faults(operation, well.faulty.calls[operation]):
        node = NodeOnFailingDisk(tmp_path)
        node.faulty.fail(operation, number, nth=nth, done=done)
        live(node)
        counts["faults"] += node.faulty.struck
        counts["refusals"] += node.refusals
    print(operation, dict(counts))
    if operation == "write_durably":
        assert counts["refusals"] == counts["faults"] > 0
