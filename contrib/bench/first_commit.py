"""How long lightningd waits for its first commit when the last run left a doubt, and for those that follow.

python -m contrib.bench.first_commit [--directory DIR] [--database FILE | --megabytes N] [--rest SECONDS] [--json FILE]

A node with a large database starts without its sync point, as after a kill -9 that came right after a commit. The
backup then needs a new snapshot, which is made while the commits go on. `--database` is copied; see
contrib/bench/node_like.py for one like a node's.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from backends.node.directory import DATABASE
from backends.node.sync_point import SYNC_POINT_FILE
from backup_cli.drill.player import Player, recorded_calls
from contrib.bench.contestants import Call
from contrib.bench.large import MEGABYTES, back_up, fill_database, tail
from contrib.bench.long_log import long_log
from contrib.bench.report import PLUGIN

LOOPS = 80
"""Repetitions of the recording: more than enough commits for the largest snapshot, with a rest after each."""

BEFORE = 20
"""Commits before that: the recording's first ones belong to an upgrade, and one removes old payments at once."""

ALONE = 300
"""Commits after the new snapshot, for comparison."""


class _Listening(Player):
    """A node that reads the plugin's log. `complete` is set once the backup is complete again."""

    def __init__(self, directory: Path, plugin: list[str]) -> None:
        self.complete = False
        super().__init__(directory, plugin)
        self._connection.execute("PRAGMA synchronous = FULL")  # as lightningd: without syncs, a journal looks hot

    def _messages(self) -> Iterator[dict[str, Any]]:
        for message in super()._messages():
            line = str(message.get("params", {}).get("message", ""))
            if "no new snapshot could be taken" in line:
                raise RuntimeError(line)
            self.complete = self.complete or "the backup is complete again" in line
            yield message


def measure(directory: Path, again: Iterator[Call], rest: float) -> dict[str, Any]:
    """Start the node in `directory`, whose backup is in doubt, and let it commit until that is over.

    It rests for `rest` seconds after each commit. Raises RuntimeError if no new snapshot could be made.
    """
    began = time.monotonic()
    player = _Listening(directory, [*PLUGIN])
    try:
        manifest = time.monotonic() - began
        first = player.play(next(again))
        process, resident, busy, alone = psutil.Process(player.pid), 0, list[float](), list[float]()
        began = time.monotonic()
        while not player.complete:
            busy.append(player.play(next(again)))
            resident = max(resident, process.memory_info().rss)
            time.sleep(rest)
        lasted = time.monotonic() - began
        for _ in range(ALONE):
            alone.append(player.play(next(again)))
            time.sleep(rest)
        player.stop()
    finally:
        player.kill()
    return {
        "manifest_s": round(manifest, 3),
        "first_commit_s": round(first, 3),
        "complete_after_s": round(lasted, 1),
        "resident_mib": resident >> 20,
        "while it is made": tail(busy),
        "alone": tail(alone),
        "over_20_ms": [sum(took > 0.02 for took in each) for each in (busy, alone)],
    }


def prepare(directory: Path, database: Path | None, megabytes: int, again: Iterator[Call]) -> None:
    """Create a node in `directory`, and its backup; let it make a few commits, and leave the backup in doubt."""
    if database is None:
        fill_database(directory, recorded_calls(), megabytes * 1_000_000)
    else:
        shutil.copyfile(database, directory / DATABASE)
    back_up(directory, directory / "lightning.bkp")
    player = _Listening(directory, [*PLUGIN])
    try:
        for _ in range(BEFORE):
            player.play(next(again))
        player.stop()
    finally:
        player.kill()
    (directory / SYNC_POINT_FILE).unlink()


def main() -> None:
    """Measure, print, and write the file that the options name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="a directory on the disk to measure")
    parser.add_argument("--database", type=Path, help="a node's database, which is copied")
    parser.add_argument("--megabytes", type=int, default=MEGABYTES, help="size of the database that is made otherwise")
    parser.add_argument("--rest", type=float, default=0.02, help="seconds between two commits")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lightningd-backup-bench-", dir=options.directory) as scratch:
        calls = recorded_calls()
        again = iter(long_log(calls, LOOPS)[len(calls) :])
        prepare(Path(scratch), options.database, options.megabytes, again)
        found = json.dumps(measure(Path(scratch), again, options.rest), indent=1)
    print(found)
    if options.json is not None:
        options.json.write_text(found + "\n")


if __name__ == "__main__":
    main()
