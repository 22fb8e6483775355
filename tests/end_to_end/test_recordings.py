"""Recorded nodes: streamed, killed at every kind of moment, restored, and compared with their own databases."""

import itertools
import random

import pytest

from tests.end_to_end.crash import Death, Life
from tests.end_to_end.db_compare import differences
from tests.end_to_end.recordings import FRESH, RECORDINGS, UPGRADES, Recording
from tests.end_to_end.world import World, backup_cli, said_at
from tests.fake_lightningd import Moment, Victim, in_pieces

recordings = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
upgrades = pytest.mark.parametrize("recording", UPGRADES, ids=lambda recording: recording.name)


def assert_as_recorded(world: World, recording: Recording) -> None:
    restored = world.assert_restored_equals_the_nodes()
    assert differences(restored, recording.expected(world)) == []


@recordings
def test_recorded_node_from_first_call_to_clean_stop_restores_exactly(world: World, recording: Recording) -> None:
    recording.prepare(world)
    node = world.run(recording.calls())
    assert node.stderr == ""
    assert [level for level, _ in node.logs] == ["info"], node.logs
    assert_as_recorded(world, recording)
    verified = backup_cli("verify", *world.key_options, world.url, "--lightning-dir", world.directory)
    assert verified.code == 0
    assert "identical with the node's database" in verified.out


def test_recorded_node_whose_messages_arrive_in_pieces_restores_exactly(world: World) -> None:
    FRESH.prepare(world)
    node = world.run(FRESH.calls(120), delivery=in_pieces(3000))
    assert said_at(node, "broken") == []
    world.assert_restored_equals_the_nodes()


@recordings
def test_recorded_node_killed_after_each_of_its_first_calls_restores_exactly(
    world: World, recording: Recording
) -> None:
    """The first calls are the migrations, with their lone PRAGMAs, and the first transactions."""
    recording.prepare(world)
    calls, life = recording.calls(), Life(world)
    life.play(itertools.islice(calls, 9), kill_every=1)
    life.play(calls)
    life.stop()
    assert life.starts == 10
    assert_as_recorded(world, recording)


@pytest.mark.slow
@pytest.mark.parametrize("every", [47, 331])
def test_recorded_node_killed_at_intervals_restores_exactly(world: World, every: int) -> None:
    FRESH.prepare(world)
    life = Life(world)
    life.play(FRESH.calls(), kill_every=every)
    life.stop()
    assert_as_recorded(world, FRESH)


@upgrades
def test_recorded_upgrade_killed_at_intervals_restores_exactly(world: World, recording: Recording) -> None:
    recording.prepare(world)
    life = Life(world)
    life.play(recording.calls(), kill_every=401)
    life.stop()
    assert_as_recorded(world, recording)


@pytest.mark.parametrize("victim", Victim)
@pytest.mark.parametrize("moment", Moment)
def test_recorded_node_killed_inside_random_calls_restores_exactly(
    world: World, moment: Moment, victim: Victim
) -> None:
    chance = random.Random(f"{moment} {victim}")
    calls = list(FRESH.calls())
    numbers = {*chance.sample(range(1, 9), 3), *chance.sample(range(9, len(calls) + 1), 4)}
    delays = {number: chance.choice([0.0, chance.uniform(0, 0.001)]) for number in sorted(numbers)}
    FRESH.prepare(world)
    life = Life(world)
    life.play(calls, {number: Death(moment, victim, delay) for number, delay in delays.items()})
    life.stop()
    assert life.starts >= len(numbers)
    assert_as_recorded(world, FRESH)


@upgrades
def test_recorded_upgrade_killed_inside_random_calls_restores_exactly(world: World, recording: Recording) -> None:
    recording.prepare(world)
    chance = random.Random(recording.name)
    calls = list(recording.calls())
    ways = chance.sample(list(itertools.product(Moment, Victim)), 5)
    deaths = {
        chance.randrange(1, len(calls)): Death(moment, victim, chance.uniform(0, 0.001)) for moment, victim in ways
    }
    life = Life(world)
    life.play(calls, deaths)
    life.stop()
    assert_as_recorded(world, recording)
