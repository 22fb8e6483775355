"""What several members cost: two beside one, and catching one up that lacks everything.

python -m contrib.bench.members [--directory DIR] [--rounds N] [--megabytes N] [--json FILE]

First two nodes play the recording in turns, one with one member and one with two. Then the backup of a large database
has two members,
one of which is away; it comes back empty, is filled, and joins, while commits follow one another. Both members are on
the same disk, so they also wait for each other: with two disks it can only be better.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from backup_cli.drill.player import Player, recorded_calls
from contrib.bench.contestants import Call
from contrib.bench.large import fill_database
from contrib.bench.long_log import long_log
from contrib.bench.report import PLUGIN, hand_out, in_turns, options_of

MEGABYTES = 1074
"""Size of the database, in millions of bytes: 1 GiB, which does not compress."""

ALONE = 3000
"""Commits to one member while nothing is copied, for comparison."""

AROUND = 50
"""Commits before and after the first one that goes to the member that has joined."""

LOOPS = 200
"""Repetitions of the recording: more than enough for the longest copying."""


@dataclass(slots=True)
class Beside:
    """Seconds of each commit: to one member while nothing is copied (`alone`), while the other is filled (`busy`), and
    around its joining (`joining`). Copying took `lasted` seconds."""

    alone: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    joining: list[float] = field(default_factory=list)
    lasted: float = 0.0


class _Listening(Player):
    """A node that also reads what the plugin writes to its log."""

    def __init__(self, directory: Path, plugin: list[str]) -> None:
        self.log: list[str] = []
        super().__init__(directory, plugin)

    def said(self, words: str) -> bool:
        """Whether a line of the log has these words."""
        return any(words in line for line in self.log)

    def _messages(self) -> Iterator[dict[str, Any]]:
        for message in super()._messages():
            self.log.append(str(message.get("params", {}).get("message", "")))
            yield message


def side_by_side(directory: Path, calls: list[Call], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each commit to one member, and to two on the same disk."""
    nodes = [partial(make_members, names=names) for names in (("one",), ("one", "two"))]
    one, two = in_turns(directory, calls, rounds, nodes)
    return one, two


def make_members(directory: Path, names: Sequence[str]) -> list[Path]:
    """Make the backup of the node in `directory` with these members, below it; their directories."""
    places = [directory / name / "lightning.bkp" for name in names]
    for place in places:
        place.parent.mkdir()
    words = ["init", "--lightning-dir", directory, *(place.as_uri() for place in places)]
    command = [sys.executable, "-m", "backup_cli.main", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    os.sync()  # writing back what was prepared must not slow down what is measured
    return places


def catching_up(directory: Path, calls: list[Call], size: int) -> Beside:
    """Fill a member of a backup of a database of `size` bytes. Raises RuntimeError if it does not join in time."""
    with tempfile.TemporaryDirectory(prefix="lightningd-backup-bench-", dir=directory) as scratch:
        node = Path(scratch)
        fill_database(node, calls, size)
        _, there = make_members(node, ("one", "two"))
        player = _Listening(node, PLUGIN)
        try:
            found = _filled(player, there, long_log(calls, LOOPS)[len(calls) :])
            player.stop()
        finally:
            player.kill()
    return found


def _filled(player: _Listening, there: Path, calls: list[Call]) -> Beside:
    found, rest = Beside(), iter(calls)
    player.play(next(rest))  # the first one also opens the backup
    shutil.rmtree(there.parent)
    while not player.said("went out of sync"):
        player.play(next(rest))
    found.alone = [player.play(next(rest)) for _ in range(ALONE)]
    there.parent.mkdir()
    while not any(there.parent.glob("*/snapshot*")):
        player.play(next(rest))
    began = time.monotonic()
    for call in rest:
        found.busy.append(player.play(call))
        if player.said("is back in sync"):
            found.lasted = time.monotonic() - began
            found.joining = found.busy[-AROUND:] + [player.play(next(rest)) for _ in range(AROUND)]
            return found
    raise RuntimeError(f"the member has not joined; the last lines of the log: {player.log[-3:]}")


def figures(one: float, two: float, beside: Beside) -> dict[str, Any]:
    """What was measured, in microseconds, and the ratios."""
    alone, busy = statistics.median(beside.alone), statistics.median(beside.busy)
    return {
        "one_member_median_us": round(one * 1e6),
        "two_members_median_us": round(two * 1e6),
        "alone_median_us": round(alone * 1e6),
        "catching_up_median_us": round(busy * 1e6),
        "catching_up_p99_us": round(sorted(beside.busy)[int(len(beside.busy) * 0.99)] * 1e6),
        "catching_up_max_us": round(max(beside.busy) * 1e6),
        "commits_while_catching_up": len(beside.busy),
        "catching_up_s": round(beside.lasted, 1),
        "joining_max_us": round(max(beside.joining) * 1e6),
        "budget": {
            "two members, median, against 1.3 × one": round(two / (1.3 * one), 3),
            "catching up, median, against 1.5 × without": round(busy / (1.5 * alone), 3),
            "longest commit around the joining, against 50 ms": round(max(beside.joining) / 0.05, 3),
        },
    }


def main() -> None:
    """Measure, print the figures, and write the file that the options name."""
    parser = options_of(__doc__)
    parser.add_argument("--megabytes", type=int, default=MEGABYTES, help="size of the database")
    options = parser.parse_args()
    calls = recorded_calls()
    one, two = map(statistics.median, side_by_side(options.directory, calls, options.rounds))
    found = figures(one, two, catching_up(options.directory, calls, options.megabytes * 1_000_000))
    hand_out(found, options.json)


if __name__ == "__main__":
    main()
