"""A few rounds of a second writer; `make second-writer` is the long one. A failure names the seed."""

import math
import os
import random

import pytest

from tests.end_to_end.second_writer import disturb

ROUNDS = int(os.environ.get("SECOND_WRITER_ROUNDS", "8"))
SECONDS = float(os.environ.get("SECOND_WRITER_SECONDS", "inf"))


@pytest.mark.slow
def test_second_writer_loses_no_acknowledged_change() -> None:
    seed = int(os.environ.get("SECOND_WRITER_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}")
    rounds, lost = disturb(seed, rounds=ROUNDS, seconds=SECONDS, say=True)
    assert rounds == ROUNDS or math.isfinite(SECONDS)
    assert lost == 0
