"""Random histories of members, the power cut at every operation of a fixed one, and each rule broken in turn."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backends.log.format.members import MEMBERS, Epoch, MembersDocument
from tests.log.histories import CAMPAIGN
from tests.members.broken import BROKEN
from tests.members.machines import Fault
from tests.members.mirror_histories import cut_at_every_operation, history
from tests.members.mirror_world import World
from tests.storage.simulated import SimulatedStorage

EVERY = 1 if CAMPAIGN > 1 else 17
"""How many operations lie between two cuts; a campaign cuts at each of them."""

OFTEN = (
    "no_intent",
    "acknowledged_before_epoch",
    "copy_not_synced",
    "joined_early",
)
"""Rules whose lack is noticed within about thirty histories."""

SELDOM = (
    "no_first_document",
    "started_alone",
    "no_check_of_changes",
    "no_deep_pass",
    "marker_of_newest",
    "not_levelled",
)
"""Rules whose lack is noticed within a few hundred histories: for a campaign."""


def test_random_histories_lose_nothing_acknowledged(tmp_path: Path) -> None:
    for number in range(20 * CAMPAIGN):
        history(number, tmp_path)


@pytest.mark.parametrize("rule", OFTEN if CAMPAIGN == 1 else (*OFTEN, *SELDOM))
def test_histories_notice_a_broken_rule(rule: str, tmp_path: Path) -> None:
    with BROKEN[rule]():
        for number in range(200 * CAMPAIGN):
            try:
                history(number, tmp_path)
            except Exception as error:
                print(f"{rule}: noticed by history {number}: {error}")
                return
    raise AssertionError(f"no history notices that the rule {rule} is broken")


def left_alone(world: World) -> bool:
    """Whether a member that another node has taken over meanwhile is still as that node left it."""
    world.start(world.names)
    world.commit()
    world.machines["b"].dead = True
    world.commit()
    world.machines["b"].dead = False
    storage = SimulatedStorage(world.machines["b"].disk)
    document = MembersDocument.decode(storage.read_small(MEMBERS))
    storage.publish(MEMBERS, replace(document, epoch=Epoch(document.epoch.number + 1, "another node")).encode())
    before = {name: storage.read_small(name) for name in storage.names()}
    for _ in range(3):
        world.catch_up("b")
        world.commit()
    return before == {name: storage.read_small(name) for name in storage.names()}


def test_what_another_node_has_written_is_not_overwritten(tmp_path: Path) -> None:
    world = World(tmp_path / "world", 1)
    with world.playing():
        assert left_alone(world)
        assert world.counts["obstructed: OTHER_NODE"] > 0


def test_what_another_node_has_written_is_lost_if_that_rule_is_broken(tmp_path: Path) -> None:
    world = World(tmp_path / "world", 1)
    with BROKEN["unknown_epoch_overwritten"](), world.playing():
        assert not left_alone(world)


def healing(world: World) -> None:
    """A member hangs and is put out of sync, the other goes on and is compacted, and the member joins again."""
    world.start(world.names)
    for _ in range(3):
        world.commit()
    world.maintain()
    world.machines["b"].fail_after(1, Fault.HANG)
    world.commit()
    for _ in range(4):
        world.commit()
        world.maintain()
    world.compact()
    world.machines["b"].heal()
    for _ in range(4):
        world.catch_up("b")
        world.commit()
    world.compact()
    world.commit()
    world.stop()


def restarting(world: World) -> None:
    """Starts with and without a member, which is wiped in between."""
    for reachable in (("a", "b"), ("a",), ("a", "b")):
        world.start(reachable)
        for _ in range(4):
            world.commit()
            world.maintain()
        for _ in range(3):
            world.catch_up("b")
        world.compact()
        world.commit()
        if world.rng.random() < 0.5:
            world.stop()
        else:
            world.killed()
    world.lose("b")
    world.start(("a", "b"))
    for _ in range(4):
        world.catch_up("b")
        world.commit()


@pytest.mark.parametrize("life", [healing, restarting])
def test_power_cut_at_every_operation_loses_nothing_acknowledged(life: Callable[[World], None], tmp_path: Path) -> None:
    for seed in range(1, 20):  # until one with which the member joins
        whole = World(tmp_path / f"whole-{seed}", seed)
        with whole.playing():
            life(whole)
            points = whole.power.points
        if whole.counts["joined"] > 0:
            break
    assert whole.counts["joined"] > 0
    assert whole.counts["compactions"] > 0
    cut_at_every_operation(life, points, EVERY, lambda name: World(tmp_path / name, seed))
