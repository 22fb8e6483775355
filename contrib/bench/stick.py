"""How long commits wait on a slow stick while a large database is compacted, and how long that takes.

    python -m contrib.bench.stick [--directory DIR] [--megabytes N] [--json FILE]        (as root)

The stick writes 15 MB/s and takes 5 ms for each flush (see slow_disk.py). The node's own disk is the machine's. The
node commits in three rhythms, beside a compaction that yields to its commits and beside one that does not.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backup_cli.drill.player import recorded_calls
from contrib.bench.large import LOOPS, Beside, Call, beside
from contrib.bench.long_log import long_log
from contrib.bench.report import PLUGIN, at_share
from contrib.bench.slow_disk import Speed, slow_disk

MEGABYTES = 200

RHYTHMS = {"one after the other": (0.0, 600), "every 20 ms or so": (0.02, 200), "once a second": (1.0, 25)}
"""Seconds between the end of a commit and the next one, and commits without a compaction, for comparison."""

_DOES_NOT = (
    sys.executable,
    "-c",
    "from backends.system.commits import Commits; Commits.share = lambda _: None; from plugin.main import main; main()",
)
"""As the plugin does where the kernel has no memory that two processes can share."""


def measured(directory: Path, calls: list[Call], rhythm: str, plugin: Sequence[str], size: int) -> Beside:
    """Compact a database of `size` bytes on a slow stick. Raises RuntimeError if that fails."""
    rest, alone = RHYTHMS[rhythm]
    with (
        tempfile.TemporaryDirectory(prefix="lightningd-backup-bench-", dir=directory) as scratch,
        slow_disk(Path(scratch), 3 * size + (300 << 20), Speed()) as stick,
    ):
        node = Path(scratch) / "node"
        node.mkdir()

        def prepared() -> None:
            os.sync()
            stick.slow()

        again = iter(long_log(calls, LOOPS)[len(calls) :])
        return beside(
            node, calls, again, size,
            backup=stick.point / "backup", prepared=prepared, alone=alone, rest=rest, plugin=plugin,
        )  # fmt: skip


def figures(found: Beside) -> dict[str, dict[str, float]]:
    """Milliseconds of the commits alone, during the compaction and right after it."""
    during, after = found.busy[: found.ended_at], found.busy[found.ended_at :]
    return {"alone": _tail(found.alone), "during": _tail(during), "after": _tail(after)}


def _tail(latencies: list[float]) -> dict[str, float]:
    ordered = sorted(latencies)

    def at(share: float) -> float:
        return round(at_share(ordered, share) * 1e3, 1)

    average = round(statistics.mean(ordered) * 1e3, 1)
    return {
        "commits": len(ordered),
        "average": average,
        "median": at(0.5),
        "p90": at(0.9),
        "p99": at(0.99),
        "max": at(1),
    }


def main() -> None:
    """Measure, print the table, and write the file that the options name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="a directory for the stick's image")
    parser.add_argument("--megabytes", type=int, default=MEGABYTES, help="size of the database")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    calls, everything = recorded_calls(), dict[str, Any]()
    print(f"{'':42}{'':10}{'commits':>8}{'average':>9}{'median':>8}{'p90':>8}{'p99':>8}{'max':>8}")
    for rhythm in RHYTHMS:
        for how, plugin in (("yields", PLUGIN), ("does not", _DOES_NOT)):
            found = measured(options.directory, calls, rhythm, plugin, options.megabytes * 1_000_000)
            rows = everything[f"{rhythm}, {how}"] = figures(found)
            print(f"{rhythm}, {how}: the compaction took {found.lasted:.1f} s")
            for name, row in rows.items():
                print(
                    f"{'':42}{name:10}{row['commits']:8}" + "".join(f"{row[key]:8.1f}" for key in list(row)[1:]),
                    flush=True,
                )
    if options.json is not None:
        options.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
