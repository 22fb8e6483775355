"""Nodes whose backup is in a bucket of a real S3 server: recorded, killed, taken over, beside a local member."""

import time
from pathlib import Path

import pytest

from tests.destinations.conftest import WorldAt
from tests.destinations.places import Places
from tests.destinations.second_writer import SMALL_SEGMENTS, created, disturb, opener
from tests.end_to_end.crash import Life
from tests.end_to_end.db_compare import differences
from tests.end_to_end.recordings import RECORDINGS, Recording
from tests.end_to_end.world import backup_cli

CAMPAIGN = bool(__import__("os").environ.get("LIGHTNINGD_BACKUP_CAMPAIGN"))


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_recorded_node_restores_exactly_from_a_bucket(places: Places, world_at: WorldAt, recording: Recording) -> None:
    world = world_at(places.url("s3"))
    recording.prepare(world)
    began = time.monotonic()
    life = Life(world)
    life.play(recording.calls(), kill_every=301)
    life.stop()
    print("played", time.monotonic() - began)
    restored = world.assert_restored_equals_the_nodes()
    assert differences(restored, recording.expected(world)) == []
    verified = backup_cli("verify", *world.key_options, world.url, "--lightning-dir", world.directory)
    assert verified.code == 0, verified


def test_two_nodes_in_a_bucket_lose_nothing_acknowledged(places: Places, tmp_path: Path) -> None:
    began = time.monotonic()
    tally = disturb(created(opener(places.url("s3"), SMALL_SEGMENTS)), tmp_path, 20, 5)
    print(tally, time.monotonic() - began)
    assert (len(tally.lost), tally.damaged, tally.never_stopped) == (0, "", 0), str(tally)
    assert tally.acknowledged > 10 * 20
