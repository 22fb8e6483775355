"""A short torture; `make torture` is the long one. A failure names the seed."""

import os
import random

import pytest

from tests.end_to_end.live_torture import LiveTorture
from tests.end_to_end.torture import torture
from tests.members.torture import MembersTorture

SECONDS = float(os.environ.get("TORTURE_SECONDS", "20"))


@pytest.mark.slow
def test_random_kills_lose_no_acknowledged_change() -> None:
    seed = int(os.environ.get("TORTURE_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}")
    assert torture(seed, rounds=1 << 30, seconds=SECONDS, say=True) > 3


@pytest.mark.slow
def test_random_kills_and_failing_members_lose_no_acknowledged_change() -> None:
    seed = int(os.environ.get("TORTURE_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}")
    assert torture(seed, rounds=1 << 30, seconds=SECONDS, say=True, kind=MembersTorture) > 0


@pytest.mark.slow
def test_random_kills_beside_new_snapshots_lose_no_acknowledged_change() -> None:
    seed = int(os.environ.get("TORTURE_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}")
    assert torture(seed, rounds=1 << 30, seconds=min(SECONDS, 10), say=True, kind=LiveTorture) > 0
