"""How long commits wait while a large database is compacted.

python -m contrib.bench.large [--directory DIR] [--rounds N] [--megabytes N] [--json FILE]

The database is the recording's plus a table of random bytes. These do not compress, so what a compaction reads,
replays, writes and removes is as large as it can be. Commits follow one another, first without a compaction, then
during one and for some seconds after it.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from backends import backup_at
from backends.node.directory import DATABASE
from backends.node.hand_over import hand_over
from backends.sqlite.copy import consistent_copy
from backup_cli.drill.player import Player, recorded_calls
from contrib.bench.long_log import long_log
from contrib.bench.report import PLUGIN, at_share

Call = dict[str, Any]

MEGABYTES = 286
"""Size of the database, in millions of bytes."""

ROW = 1000
"""Random bytes in a row of the table that fills the database."""

AFTERWARDS = 5.0
"""Seconds for which commits go on after the compaction: the disk still frees the space of what was removed."""

ALONE = 3000
"""Commits without a compaction, for comparison."""

LOOPS = 80
"""Repetitions of the recording for a database of MEGABYTES: more than enough for the longest compaction."""


@dataclass(slots=True)
class Beside:
    """Seconds that each commit took without a compaction (`alone`) and from the beginning of one (`busy`).

    `lasted` is the seconds that the compactions took together.
    """

    alone: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    lasted: float = 0.0
    ended_at: int = 0
    """How many commits of `busy` there were when the compaction ended."""

    def add(self, other: "Beside") -> None:
        """Add the figures of another round."""
        self.alone += other.alone
        self.busy += other.busy
        self.lasted += other.lasted


class _Listening(Player):
    """A node that also reads what the plugin writes to its log. `ended` is set once a compaction has ended."""

    def __init__(self, directory: Path, plugin: list[str]) -> None:
        self.ended = False
        super().__init__(directory, plugin)

    def compact(self) -> None:
        """Ask the plugin for a compaction."""
        self._request("backup-compact", {})

    def _messages(self) -> Iterator[dict[str, Any]]:
        for message in super()._messages():
            line = str(message.get("params", {}).get("message", ""))
            if "compaction failed" in line or "there is nothing to compact" in line:
                raise RuntimeError(line)
            self.ended = self.ended or "compaction ended" in line
            yield message


def rounds(directory: Path, calls: list[Call], count: int, megabytes: int = MEGABYTES) -> Beside:
    """Run `count` compactions, each of a new database below `directory`. Raises RuntimeError if one fails."""
    loops = LOOPS * max(1, round(megabytes / MEGABYTES))
    again, found = long_log(calls, loops)[len(calls) :], Beside()
    for _ in range(count):
        with tempfile.TemporaryDirectory(prefix="lightningd-backup-bench-", dir=directory) as scratch:
            found.add(beside(Path(scratch), calls, iter(again), megabytes * 1_000_000))
    return found


def beside(
    directory: Path,
    calls: list[Call],
    again: Iterator[Call],
    size: int,
    *,
    backup: Path | None = None,
    prepared: Callable[[], None] = os.sync,
    alone: int = ALONE,
    rest: float = 0.0,
    plugin: Sequence[str] = PLUGIN,
) -> Beside:
    """Run one compaction of a database of `size` bytes in `directory`. Raises RuntimeError if it fails.

    The backup is in `directory`, too, unless `backup` says where. `prepared` is called before anything is measured;
    writing back what was prepared must not slow it down. The node rests for `rest` seconds after each commit.
    """
    _prepare(directory, calls, size, backup or directory / "backup")
    prepared()
    found = Beside()
    player = _Listening(directory, [*plugin])
    try:
        player.play(next(again))  # the first one also opens the backup
        for _ in range(alone):
            found.alone.append(player.play(next(again)))
            time.sleep(rest)
        player.compact()
        began, until = time.monotonic(), math.inf
        for call in again:
            found.busy.append(player.play(call))
            time.sleep(rest)
            if player.ended and not found.lasted:
                found.lasted = time.monotonic() - began
                found.ended_at = len(found.busy)
                until = time.monotonic() + AFTERWARDS
            if time.monotonic() > until:
                break
        if not found.lasted:
            raise RuntimeError("the compaction outlasted the recording")
        player.stop()
    finally:
        player.kill()
    return found


def _prepare(directory: Path, calls: list[Call], size: int, at: Path) -> None:
    """Create a node with a database of `size` bytes, and a backup `at` this path that holds it."""
    fill_database(directory, calls, size)
    back_up(directory, at)


def back_up(directory: Path, at: Path) -> None:
    """Create a backup `at` this path that holds the database of the node in `directory`."""
    backup = backup_at(at.as_uri())
    with consistent_copy(directory / DATABASE, directory, writable=True) as source:
        position = backup.create(source)
    hand_over(directory, at.as_uri(), backup.id(), position)


def fill_database(directory: Path, calls: list[Call], size: int) -> None:
    """Create a node's database of `size` bytes in `directory`."""
    database = apsw.Connection(str(directory / DATABASE))
    database.execute("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF; PRAGMA foreign_keys = ON")
    for call in calls:
        for statement in call["writes"]:
            database.execute(statement)
    database.execute("CREATE TABLE bench_filler (id INTEGER PRIMARY KEY, bytes BLOB)")
    count = f"WITH RECURSIVE count(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM count WHERE n < {size // (ROW + 24)})"
    database.execute(f"{count} INSERT INTO bench_filler (bytes) SELECT randomblob({ROW}) FROM count")
    database.execute("PRAGMA journal_mode = DELETE")
    database.close()


def figures(found: Beside) -> dict[str, Any]:
    """Median and tail of the commits alone and beside a compaction, in microseconds; and the seconds of compacting."""
    alone, busy = tail(found.alone), tail(found.busy)
    return {"alone": alone, "beside a compaction": busy, "compacting_s": round(found.lasted, 1)}


def tail(latencies: list[float]) -> dict[str, float]:
    """Number, median and tail of commits that took so many seconds, in microseconds."""
    ordered = sorted(latencies)

    def at(share: float) -> float:
        return round(at_share(ordered, share) * 1e6)

    return {
        "commits": len(ordered),
        "median_us": round(statistics.median(ordered) * 1e6),
        "p99_us": at(0.99),
        "p99.9_us": at(0.999),
        "max_us": at(1),
    }


def print_tail(found: dict[str, Any]) -> None:
    """Print what `figures` returned, in microseconds."""
    print(f"{'':40}{'commits':>8}{'median':>8}{'p99':>8}{'p99.9':>8}{'max':>8}")
    for name in ("alone", "beside a compaction"):
        row = found[name]
        print(f"{name:40}" + "".join(f"{row[key]:8}" for key in row))


def main() -> None:
    """Measure, print the table, and write the file that the options name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="a directory on the disk to measure")
    parser.add_argument("--rounds", type=int, default=3, help="how many compactions")
    parser.add_argument("--megabytes", type=int, default=MEGABYTES, help="size of the database")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    found = rounds(options.directory, recorded_calls(), options.rounds, options.megabytes)
    print_tail(figures(found))
    if options.json is not None:
        options.json.write_text(json.dumps(figures(found), indent=1) + "\n")


if __name__ == "__main__":
    main()
