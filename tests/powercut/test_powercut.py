"""A short campaign of power cuts; `make powercut` is the long one. A failure names the seed."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.powercut.disks import Unavailable, check_available
from tests.powercut.proof import GOOD, Outcome

CALLS = 24
"""How many of the recorded calls are played: a new node's migrations, and its first transactions."""

NOT_GOOD = [outcome.name for outcome in Outcome if outcome not in GOOD]

Outcomes = dict[str, Counter[str]]


def campaign(tmp_path: Path, filesystem: str, *options: object) -> tuple[int, Outcomes, str]:
    """Run a campaign; returns its exit code, the outcomes of each kind of cut, and what it printed."""
    try:
        check_available([filesystem])
    except Unavailable as error:
        if "CI" in os.environ:
            pytest.fail(str(error))
        pytest.skip(str(error))
    words = ["--filesystems", filesystem, "--calls", CALLS, "--commands", 0, "--json", tmp_path / "outcomes", *options]
    done = subprocess.run(
        [sys.executable, "-m", "tests.powercut.campaign", *map(str, words)],
        capture_output=True, text=True, timeout=300, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert (tmp_path / "outcomes").exists(), said
    outcomes = json.loads((tmp_path / "outcomes").read_text())[filesystem]
    return done.returncode, {kind: Counter(counted) for kind, counted in outcomes.items()}, said


@pytest.mark.parametrize(
    ("filesystem", "options"),
    [
        ("ext4", ("--sample", 12, "--random", 1, "--starts", 1)),
        ("xfs", ("--sample", 8, "--random", 0, "--starts", 0, "--rest", 0)),
        ("btrfs", ("--sample", 8, "--random", 0, "--starts", 0, "--rest", 0)),
    ],
)
def test_node_starts_without_loss_after_every_power_cut(
    tmp_path: Path, filesystem: str, options: Sequence[object]
) -> None:
    code, outcomes, said = campaign(tmp_path, filesystem, *options)
    wrong = {kind: counted for kind, counted in outcomes.items() if not counted.keys().isdisjoint(NOT_GOOD)}
    assert (code, wrong) == (0, {}), said
    assert sum(outcomes[kind]["rolled forward"] for kind in outcomes) > 4, f"the cuts took nothing back: {said}"


def test_campaign_fails_for_a_plugin_that_does_not_roll_forward(tmp_path: Path) -> None:
    options = ("--sample", 6, "--random", 0, "--starts", 0, "--rest", 0, "--without", "roll-forward")
    code, outcomes, said = campaign(tmp_path, "ext4", *options)
    assert code == 1, said
    assert sum(outcomes[kind][name] for kind in outcomes for name in NOT_GOOD) > 4, said
