"""Random histories with stops, kills and power cuts anywhere: a reader always gets what was acknowledged."""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.log.conftest import SMALL
from tests.log.histories import CAMPAIGN, Node, noise
from tests.log.model import contents
from tests.storage.simulated import PowerCut, SimulatedDisk, SimulatedStorage


def large_note(node: Node) -> None:
    node.note(noise(9000, node.now.version))


def stop(node: Node) -> None:
    node.close()
    node.open("after a stop")


def kill(node: Node) -> None:
    node.open("after a kill")


def maintenance(node: Node) -> None:
    node.writer.maintain()


STEPS: dict[str, Callable[[Node], None]] = {
    step.__name__: step
    for step in (Node.note, large_note, maintenance, Node.snapshot, Node.compact, Node.renew, stop, kill)
}


class Histories(RuleBasedStateMachine):
    """One node, its disk, and its model."""

    def __init__(self) -> None:
        super().__init__()
        self._scratch = tempfile.TemporaryDirectory()
        self._disk = SimulatedDisk()
        self.node = Node(SimulatedStorage(self._disk), Path(self._scratch.name), options=SMALL)

    def teardown(self) -> None:
        self._scratch.cleanup()

    @initialize()
    def begin(self) -> None:
        """A new node with its schema."""
        self.node.create()
        self.node.open()
        self.node.append(self.node.history.first())

    @rule(sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=5))
    def commits(self, sizes: list[int]) -> None:
        """Some transactions."""
        for size in sizes:
            self.node.note(noise(size, self.node.now.version))

    @rule(on=st.booleans())
    def pragma(self, on: bool) -> None:
        """A lone PRAGMA, which leaves the version as it is."""
        self.node.append(self.node.history.foreign_keys(on=on))

    @precondition(lambda self: self.node.model is not None)
    @rule(step=st.sampled_from(sorted(STEPS)))
    def step(self, step: str) -> None:
        """Any step."""
        STEPS[step](self.node)

    @rule(step=st.sampled_from(sorted(STEPS)), points=st.integers(1, 40), seed=st.integers(0, 1 << 30))
    def power_cut(self, step: str, points: int, seed: int) -> None:
        """In the middle of a step, or at its end."""
        self._disk.crash_at(self._disk.operations + points)
        try:
            STEPS[step](self.node)
            self._disk.is_off = True
        except PowerCut:
            pass
        self._disk = self._disk.crash(random.Random(seed))
        node = self.node
        node.storage = node.plain = SimulatedStorage(self._disk)
        node.go_on("after a power cut")

    @invariant()
    def what_is_read_is_what_was_acknowledged(self) -> None:
        """A reader beside the writer gets everything acknowledged, at any time."""
        if self.node.model is None:
            return
        assert contents(self.node.backup()) == self.node.now.contents
        position = self.node.writer.position
        assert position.data_version == self.node.now.version


@pytest.mark.usefixtures("readers_do_not_wait")
def test_random_history_with_kills_and_power_cuts_is_read_as_acknowledged() -> None:
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=40 * CAMPAIGN,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
