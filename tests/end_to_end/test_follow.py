"""`backup-cli follow` beside a real node: at every look, the copy is the node's database at that version."""

import os
import random
import time
from collections import Counter
from contextlib import closing
from itertools import cycle

import pytest

from backends import backup_at
from backends.confined.work import rebuild_backup
from backends.following.follower import Ended, Order, follow
from tests.cli.following import once, promote
from tests.end_to_end.db_compare import compared, differences, everything
from tests.end_to_end.following import VICTIMS, Follower, Shadow, Stream, check_look, following, kill
from tests.end_to_end.recordings import RECORDINGS, Recording
from tests.end_to_end.world import World, backup_cli
from tests.fake_lightningd import Refused, Victim

CAMPAIGN = os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN", "0") != "0"
CHANGES, PAUSE, PROMOTIONS = (10_000, 0.002, 20) if CAMPAIGN else (600, 0.004, 1)


@pytest.mark.slow
def test_copy_is_the_nodes_database_at_every_look_with_kills_on_both_sides(world: World) -> None:
    chance, did, looks = random.Random(4), Counter[str](), Counter[bool]()
    world.init()
    follower = Follower(world)
    with Stream(world, 40_000, PAUSE) as stream, closing(Shadow(world.root, stream)) as shadow:
        try:
            stream.wait_for(20)
            follower.start().wait_for(1)
            for victim in cycle(VICTIMS):
                if len(stream.calls) >= CHANGES and did.total() > len(VICTIMS) and looks[True] > 2:
                    break
                assert did.total() < 2 * CHANGES, follower.said
                time.sleep(chance.uniform(0.3, 1.5))
                kill(victim, stream, follower)
                did[victim] += 1
                looks[check_look(follower, shadow, world.root) > 0] += 1
                if follower.process is None:
                    follower.start()
            stream.wait_for(len(stream.calls) + 5)  # a node that was just killed may lack what was saved last
            stream.stop()
            follower.wait_for(world.version)
            check_look(follower, shadow, world.root)
        finally:
            follower.kill()
    assert compared(everything(follower.copy), everything(world.database)) == []
    assert world.status()["generation"] > 1, "it has crossed compactions"


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_copy_of_a_recorded_node_is_its_database(recording: Recording, world: World) -> None:
    """Taken up between any two changes, with the PRAGMAs of migrations among them."""
    recording.prepare(world)
    copy = world.root / "following.sqlite3"
    backup_id = backup_at(world.url).id()
    once = Order(backup_id, once=True, every=1.0, check_in=1e12, check_every=1e12, accept_unknown=False, lineage=0)
    rebuild_backup(world.url, copy, following=backup_id)
    with world.node() as node:
        for number, call in enumerate(recording.calls(None if CAMPAIGN else 120)):
            if number == 3:
                node.init()
            node.db_write(call)
            if number < 8 or number % 25 == 0:
                assert follow(backup_at(world.url), copy, once, lambda news: None).ended is Ended.IN_STEP
                assert compared(everything(copy), everything(world.database)) == []
    assert follow(backup_at(world.url), copy, once, lambda news: None).ended is Ended.IN_STEP
    assert compared(everything(copy), everything(world.database)) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(PROMOTIONS))
def test_promotion_at_a_random_moment_loses_nothing_and_stops_the_other_node(seed: int, world: World) -> None:
    """The node goes on writing, as if it was on another machine: the lock in the backup does not keep it out."""
    chance = random.Random(seed)
    world.init()
    with Stream(world, 100_000, 0.002) as stream:
        stream.wait_for(50)
        with following(world) as follower:
            follower.wait_for(50)
            stream.wait_for(len(stream.calls) + chance.randrange(300))
            follower.kill(chance.choice((2, 9)))
        (world.backup / "lock").unlink()
        time.sleep(chance.uniform(0, 0.3))
        refused = promote(world, follower.directory)
        assert refused.code == 1 and "--take-over" in refused.err, refused
        said = promote(world, follower.directory, "--take-over")
        assert said.code == 0, said
        until = time.monotonic() + 20
        while stream.refused is None:
            assert time.monotonic() < until, "the other node goes on"
            time.sleep(0.01)
    promoted = World(world.root, "promoted")
    promoted.directory, promoted.backup = follower.directory, world.backup
    assert promoted.version >= max(stream.calls), "what the other node was told is saved"
    assert promoted.version <= max(stream.calls) + 1
    with closing(Shadow(world.root, stream)) as shadow:
        assert stream.last is not None
        stream.calls.setdefault(promoted.version, stream.last)
        assert compared(everything(promoted.database), shadow.at(promoted.version)) == []
    stream.history.version = promoted.version
    promoted.run([stream.history.note() for _ in range(5)])
    assert differences(promoted.restore(), promoted.database) == []


def test_node_starts_on_no_copy_that_was_not_promoted(world: World) -> None:
    """Somebody has renamed it, at two in the morning."""
    stream = Stream(world)
    world.init()
    with stream:
        stream.wait_for(10)
    directory = world.root / "warm"
    assert once(world, directory).code == 0
    world.database.unlink()
    (directory / "following.sqlite3").rename(world.database)
    world.database.chmod(0o600)
    with pytest.raises(Refused, match="follows a backup and was never promoted"), world.node() as node:
        node.db_write(stream.history.note())
    said = backup_cli("check-config", "--lightning-dir", world.directory)
    assert said.code == 1 and "never promoted" in said.text
    said = backup_cli("follow", "--promote", world.url, world.directory)
    assert said.code == 1 and "name it following.sqlite3 again" in said.text


def test_change_that_a_crash_kept_from_being_committed_is_in_copy_and_node(world: World) -> None:
    stream, directory = Stream(world), world.root / "warm"
    world.init()
    with stream:
        stream.wait_for(10)
    call = stream.history.note("in the backup, and not committed")
    with pytest.raises(AssertionError, match="stop here"), world.node() as node:
        node.execute(call)
        node.ask(call)
        node.die(Victim.BOTH)
        raise AssertionError("stop here")
    assert once(world, directory).code == 0
    world.run([stream.history.note("the next one")])
    assert once(world, directory).code == 0
    assert compared(everything(directory / "following.sqlite3"), everything(world.database)) == []
