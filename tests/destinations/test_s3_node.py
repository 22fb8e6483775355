"""Nodes whose backup is in a bucket of a real S3 server: recorded, killed, taken over, and beside a local member."""

import os
import random
import time
from pathlib import Path

import pytest

from backends import place_at
from backends.log.backup import Backup
from tests.destinations.buckets import SHORT, Proxied
from tests.destinations.conftest import Elsewhere, WorldAt
from tests.destinations.fault_proxy import PASS, Asked, Treatment, status
from tests.destinations.places import Places
from tests.destinations.second_writer import SMALL_SEGMENTS, created, disturb, opener
from tests.destinations.sloppy_gateway import Sloppy, gateway
from tests.end_to_end.crash import Life
from tests.end_to_end.db_compare import differences
from tests.end_to_end.recordings import RECORDINGS, Recording
from tests.end_to_end.world import backup_cli, said_at
from tests.fake_lightningd import History, Refused
from tests.members.elsewhere import LOCAL, MembersElsewhere, go_on_without, status_of
from tests.members.world import eventually

CAMPAIGN = bool(os.environ.get("LIGHTNINGD_BACKUP_CAMPAIGN"))

ROUNDS = 60 if CAMPAIGN else 3


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_recorded_node_killed_now_and_then_restores_exactly_from_a_bucket(
    places: Places, world_at: WorldAt, recording: Recording
) -> None:
    world = world_at(places.url("s3"))
    recording.prepare(world)
    life = Life(world)
    life.play(recording.calls(None if CAMPAIGN else 250), kill_every=101)
    life.stop()
    restored = world.assert_restored_equals_the_nodes()
    if CAMPAIGN:
        assert differences(restored, recording.expected(world)) == []
    verified = backup_cli("verify", *world.key_options, world.url, "--lightning-dir", world.directory)
    assert verified.code == 0, verified


# Other writers


def test_two_nodes_in_a_bucket_lose_nothing_acknowledged(places: Places, tmp_path: Path) -> None:
    tally = disturb(created(opener(places.url("s3"), SMALL_SEGMENTS)), tmp_path, ROUNDS, 5)
    assert (len(tally.lost), tally.damaged, tally.never_stopped) == (0, "", 0), str(tally)
    assert tally.acknowledged > 10 * ROUNDS


WRONG = (
    Treatment(silent=True),
    Treatment(times=2),
    Treatment(times=0, answer=status(500, "InternalError")),
    Treatment(answer=status(503, "SlowDown")),
    Treatment(times=0, answer=status(409, "ConditionalRequestConflict")),
    Treatment(cut_after=40),
    Treatment(cut_request=True),
    Treatment(late=0.3),
    Treatment(late=2.0),
)


class Unruly:
    """A network and a store that do something wrong with every tenth request."""

    def __init__(self, seed: int) -> None:
        self._chance, self.done = random.Random(seed), 0

    def __call__(self, _: Asked) -> Treatment:
        if self._chance.random() > 0.1:
            return PASS
        self.done += 1
        return self._chance.choice(WRONG)


def test_two_nodes_over_an_unruly_network_lose_nothing_acknowledged(bucket: Proxied, tmp_path: Path) -> None:
    """Answers are lost, requests repeated and carried out seconds later, when another writer has long gone on."""
    url = bucket.at(bucket.proxy.endpoint, "&timeout=30")
    made = created(opener(url, SMALL_SEGMENTS))
    wrong = bucket.proxy.treat = Unruly(7)
    tally = disturb(made, tmp_path, ROUNDS, 6)
    assert (len(tally.lost), tally.damaged, tally.never_stopped) == (0, "", 0), str(tally)
    assert tally.acknowledged > 10 * ROUNDS
    assert wrong.done > 10 * ROUNDS


def test_node_over_an_unruly_network_killed_now_and_then_restores_exactly(
    bucket: Proxied, world_at: WorldAt, history: History
) -> None:
    world = world_at(bucket.at(bucket.proxy.endpoint, "&timeout=30")).init()
    bucket.proxy.treat = Unruly(8)
    life = Life(world)
    life.play([history.first(), *history.notes(50 * ROUNDS)], kill_every=67)
    life.stop()
    world.assert_restored_equals_the_nodes()


# A store that fails


@pytest.mark.slow
def test_store_that_freezes_beyond_commit_timeout_stops_the_node(
    bucket: Proxied, world_at: WorldAt, history: History
) -> None:
    world = world_at(bucket.url).init()
    with pytest.raises(Refused, match=r"not answered|does not answer") as caught, world.node() as node:
        node.play([history.first(), *history.notes(3)])
        call, began = history.note(), time.monotonic()
        bucket.always(Treatment(hang=4 * SHORT))
        node.db_write(call)
    bucket.always(PASS)
    assert time.monotonic() - began < SHORT + 5
    assert "is safe" in str(caught.value)
    # The store may have done it without answering; then the next start brings the database forward by itself.
    with world.node() as node:
        node.play([*([call] if world.version < call.data_version else []), *history.notes(3)])
    assert said_at(node, "broken") == []
    world.assert_restored_equals_the_nodes()


def test_node_taken_over_by_another_is_refused_by_its_next_commit(
    places: Places, world_at: WorldAt, history: History
) -> None:
    world = world_at(places.url("s3")).init()
    with pytest.raises(Refused, match="another"), world.node() as node:
        node.play([history.first(), *history.notes(20)])
        with_copy = Backup(place_at(world.url)).open(lambda *_: None, "copied")
        try:
            node.play(history.notes(1))
        finally:
            with_copy.close()


# Beside a local member


def test_bucket_beside_a_disk_fails_and_joins_again(bucket: Proxied, tmp_path: Path) -> None:
    world = MembersElsewhere(tmp_path, {"bucket": bucket.url}).init()
    go_on_without(
        world,
        "bucket",
        lambda: bucket.always(Treatment(times=0, answer=status(503, "SlowDown"))),
        lambda: bucket.always(PASS),
        "has not answered",
    )


def test_trailing_bucket_is_never_waited_for_and_catches_up(bucket: Proxied, tmp_path: Path, history: History) -> None:
    world = MembersElsewhere(tmp_path, {"bucket": bucket.url}, trailing=("bucket",)).init()
    with world.node() as node:
        node.play([history.first(), *history.notes(30)])
        bucket.always(Treatment(delay=0.3))
        took = [node.db_write(history.note()) for _ in range(30)]
        assert sorted(took)[15] < 0.1, "a slow bucket that trails slows no commit down"
        bucket.always(PASS)
        eventually(lambda: status_of(node, "bucket")["lag_changes"] == 0, 30)
        assert world.note.in_sync == (LOCAL,)
    world.assert_member_equals_the_node("bucket")


# Buckets that keep the past


@pytest.mark.parametrize("kind", ["versioned", "locked"])
def test_bucket_whose_versions_make_radosgw_ignore_conditions_is_refused(
    places: Places, world_at: WorldAt, kind: str
) -> None:
    """Ceph 16 keeps If-None-Match in plain buckets, and ignores it as soon as a bucket has versions."""
    server = places.radosgw
    name = server.bucket(versioned=kind == "versioned", locked=kind == "locked")
    world = world_at(server.url(name, "node/lightning.bkp"))
    said = backup_cli("init", "--lightning-dir", world.directory, world.url)
    assert said.code == 1
    assert "ignores If-None-Match" in said.err


def test_bucket_with_versions_keeps_what_a_thief_of_the_keys_deletes(
    world_at: WorldAt, history: History, places: Places
) -> None:
    """He can put a marker on top of every object. Whoever may remove markers has everything back."""
    assert places.radosgw, "it puts keys into the environment"
    with gateway(Sloppy.NOTHING, versioned=True) as kept:
        world = world_at(f"s3://bucket/node/lightning.bkp?endpoint={kept.endpoint}").init()
        world.run([history.first(), *history.notes(20)])
        world.run(history.notes(20))
        world.assert_restored_equals_the_nodes()
        place_at(world.url).storage.unmake()
        said = backup_cli("restore", world.url, world.root / "nothing.sqlite3")
        assert said.code == 1
        assert "there is no backup at" in said.err
        kept.undelete()
        world.assert_restored_equals_the_nodes()
        world.run(history.notes(5))
        world.assert_restored_equals_the_nodes()


# What it costs


def test_library_takes_no_more_memory_than_the_budget_has_for_it(places: Places, tmp_path: Path) -> None:
    """45 MiB without it and 55 with it are the budget; here only the difference is tested, which varies by a little."""
    taken = []
    for name, url in (("bucket", places.url("s3")), ("file", (tmp_path / "lightning.bkp").as_uri())):
        world = Elsewhere(tmp_path / name)
        world.place = url
        history = History()
        with world.init().node() as node:
            node.play([history.first(), *history.notes(200)])
            taken.append(resident(node.pid))
    assert taken[0] - taken[1] < 12, "MiB"


def resident(pid: int) -> float:
    """MiB of memory that a process occupies."""
    status_lines = Path(f"/proc/{pid}/status").read_text()
    return int(status_lines.partition("VmRSS:")[2].split()[0]) / 1024
