"""A node that backs up to PostgreSQL: recordings, deaths, a second writer, members, and a cluster that fails over."""

import secrets
import time
from functools import partial
from pathlib import Path

import pytest

from backends.node.lockfile import read_settings
from backends.node.members_note import read_members_note
from tests.destinations.conftest import Elsewhere, WorldAt
from tests.destinations.places import Places
from tests.destinations.postgres import PostgresCluster
from tests.destinations.postgres_fixtures import Attempt, cluster, waiting
from tests.destinations.second_writer import SMALL_SEGMENTS, created, disturb, opener
from tests.destinations.tools import wait_until
from tests.end_to_end.crash import Death, Life
from tests.end_to_end.db_compare import differences
from tests.end_to_end.recordings import RECORDINGS, Recording
from tests.end_to_end.world import backup_cli, said_at
from tests.fake_lightningd import History, Moment, Node, Refused, Victim
from tests.log.histories import CAMPAIGN

__all__ = ["cluster"]

only_in_a_campaign = pytest.mark.skipif(CAMPAIGN == 1, reason="waits for long; the others show its parts")

ROUNDS = 8 * CAMPAIGN


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_recorded_node_in_postgresql_is_restored_equal(recording: Recording, places: Places, world_at: WorldAt) -> None:
    world = world_at(places.url("postgres"))
    recording.prepare(world)
    node = world.run(recording.calls())
    assert node.stderr == ""
    assert [level for level, _ in node.logs] == ["info"], node.logs
    restored = world.assert_restored_equals_the_nodes()
    assert differences(restored, recording.expected(world)) == []


def test_node_killed_in_the_middle_of_calls_goes_on_and_is_restored_equal(
    places: Places, world_at: WorldAt, history: History
) -> None:
    world = world_at(places.url("postgres")).init()
    life = Life(world)
    deaths = {5: Death(Moment.IN_HOOK, Victim.BOTH, 0.002), 9: Death(Moment.BEFORE_COMMIT, Victim.BOTH)}
    if CAMPAIGN > 1:
        deaths |= {nth: Death(Moment.IN_HOOK, Victim.PLUGIN, nth / 20_000) for nth in range(20, 200, 7)}
    life.play([history.first(), *history.notes(14 * CAMPAIGN)], deaths, kill_every=13)
    life.stop()
    world.assert_restored_equals_the_nodes()


def test_two_nodes_in_postgresql_lose_nothing_acknowledged(places: Places, tmp_path: Path) -> None:
    tally = disturb(created(opener(places.url("postgres"), SMALL_SEGMENTS)), tmp_path, ROUNDS, 5)
    assert (len(tally.lost), tally.damaged, tally.never_stopped) == (0, "", 0), str(tally)
    assert len(tally.refused) < ROUNDS // 5, str(tally)
    assert tally.acknowledged > 10 * ROUNDS


# As one of several members


def restored_without(world: Elsewhere, name: str) -> Path:
    """Restore from the other member alone; the database file."""
    (url,) = [member.url for member in read_settings(world.directory).members if member.name != name]
    target = world.root / f"without-{name}.sqlite3"
    said = backup_cli("restore", *world.key_options, url, target, "--without", name)
    assert said.code == 0, said
    return target


@pytest.mark.parametrize("trailing", [False, True], ids=["in-sync", "trailing"])
def test_member_in_postgresql_beside_a_local_one_holds_the_same(
    trailing: bool, places: Places, world_at: WorldAt, history: History
) -> None:
    world = world_at(places.url("postgres"))
    local, there = world.backup.as_uri(), world.url + ("?trailing" if trailing else "")
    said = backup_cli("init", "--lightning-dir", world.directory, local, there)
    assert said.code == 0, said
    first, second = (member.name for member in read_settings(world.directory).members)
    node = world.node()
    node.start()
    node.play([history.first(), *history.notes(3)])
    node.init()
    node.play(history.notes(40))
    if trailing:
        wait_until(lambda: _lags(node, second) == 0, "trailing member")
    node.stop()
    note = read_members_note(world.directory)
    assert note is not None
    assert set(note.in_sync) == ({first} if trailing else {first, second})
    for name in (first, second):
        assert differences(restored_without(world, name), world.database) == []


def _lags(node: Node, name: str) -> int | None:
    """By how many changes the member is behind; None before the plugin has looked."""
    (member,) = [each for each in node.rpc("backup-status")["members"] if each["name"] == name]
    lag: int | None = member["lag_changes"]
    return lag


# A cluster that fails


def test_standby_that_stays_away_stops_the_node_and_next_start_goes_on(
    cluster: PostgresCluster, places: Places, world_at: WorldAt, history: History
) -> None:
    world = world_at(f"{places.url('postgres')}?timeout=7").init()
    with pytest.raises(Refused, match="no standby is connected") as caught, world.node() as node:
        node.play([history.first(), *history.notes(3)])
        cluster.standby.stop()
        call = history.note()
        began = time.monotonic()
        node.db_write(call)
    assert time.monotonic() - began < 9, "a request of the maintenance was begun after the refusal"
    assert "is safe" in str(caught.value)
    assert [line for line in said_at(node, "unusual") if "waiting for postgres://" in line], node.logs
    cluster.standby.start()
    with world.node() as node:
        node.play([*([call] if world.version < call.data_version else []), *history.notes(3)])
    assert said_at(node, "broken") == []
    world.assert_restored_equals_the_nodes()


def fail_over(cluster: PostgresCluster) -> None:
    """Kill the primary in the middle of commits; the old one comes back as it was, and then as a standby."""
    time.sleep(0.3)
    cluster.primary.kill()
    cluster.fail_over()
    cluster.standby.start()
    time.sleep(0.5)
    cluster.join()


def start_after(cluster: PostgresCluster, seconds: float) -> None:
    """Start the standby, while a commit is waiting for it."""
    time.sleep(seconds)
    waiting(cluster)
    cluster.standby.start()


@only_in_a_campaign
def test_standby_that_is_stopped_delays_the_commit_and_the_log_says_so(
    cluster: PostgresCluster, places: Places, world_at: WorldAt, history: History
) -> None:
    world = world_at(places.url("postgres")).init()
    with world.node() as node:
        node.play([history.first(), *history.notes(3)])
        cluster.standby.stop()
        back = Attempt(partial(start_after, cluster, 5.5))
        began = time.monotonic()
        node.db_write(history.note())
        assert time.monotonic() - began > 5.5
        back.outcome()
        node.play(history.notes(3))
        lines = [line for line in said_at(node, "unusual") if "waiting for postgres://" in line]
        assert lines, node.logs
    assert said_at(node, "broken") == []
    world.assert_restored_equals_the_nodes()


def test_primary_killed_and_standby_promoted_under_a_stream_loses_nothing(
    cluster: PostgresCluster, world_at: WorldAt, history: History
) -> None:
    """Twice, so that both servers have been each. The old primary, when it is back, thinks that it still is one."""
    world = world_at(cluster.url(f"node-{secrets.token_hex(4)}")).init()
    with world.node() as node:
        node.play([history.first(), *history.notes(10)])
        for _ in range(2 * CAMPAIGN):
            disaster = Attempt(lambda: fail_over(cluster))
            while disaster.is_alive():
                node.play(history.notes(10))
            disaster.outcome()
        node.play(history.notes(10))
    assert said_at(node, "broken") == []
    world.assert_restored_equals_the_nodes()
