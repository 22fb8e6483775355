"""How long a restore of a log of many changes takes.

python -m contrib.bench.long_restore [--changes N] [--directory DIR] [--as-recorded]

The log is the recording's changes again and again. On a node, the numbers of a channel's commitments grow, so that what
belongs to old ones is deleted; the same numbers again would fill a table that is never emptied (`--as-recorded`).
"""

import argparse
import re
import tempfile
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from backends import backup_at
from backends.change import Change
from backends.confined.work import rebuild_backup
from backends.sqlite.copy import nothing
from backup_cli.drill.player import recorded_calls
from contrib.bench.contestants import Call
from contrib.bench.long_log import BUMP, repeatable

_COMMITMENT = re.compile(r"(commitment_index <= |VALUES \(1,)(\d+)")
_ROUND = 1000
"""More than the recording has commitments."""


def changes(calls: list[Call], *, growing: bool) -> Iterator[Change]:
    """The recorded changes, then those that can be repeated, without end."""
    yield from (Change(call["data_version"], call["writes"]) for call in calls)
    again, version = repeatable(calls), calls[-1]["data_version"]
    for number in count(1):
        for call in again:
            *writes, bump = call["writes"]
            if growing:
                writes = [_grown(statement, number * _ROUND) for statement in writes]
            bump = BUMP.sub(str(version), bump)
            version += 1
            yield Change(version, [*writes, bump])


def _grown(statement: str, by: int) -> str:
    if "local_anchors" not in statement:
        return statement
    return _COMMITMENT.sub(lambda found: found[1] + str(int(found[2]) + by), statement)


def main() -> None:
    """Write the log, restore it twice, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=500_000)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="a directory on the disk to measure")
    parser.add_argument("--as-recorded", action="store_true", help="with the same numbers again and again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lightningd-backup-bench-", dir=options.directory) as scratch:
        url = (Path(scratch) / "lightning.bkp").as_uri()
        backup = backup_at(url)
        backup.create(nothing())
        writer = backup.open(lambda level, line: None, "0123456789abcdef")
        calls = recorded_calls()
        for number, change in enumerate(islice(changes(calls, growing=not options.as_recorded), options.changes)):
            writer.append(change)
            if number % 100 == 0:
                writer.maintain()
        writer.close()
        for attempt in range(2):
            began = time.monotonic()
            outcome = rebuild_backup(url, Path(scratch) / f"restored-{attempt}.sqlite3")
            print(f"{outcome.rebuilt.changes} changes restored in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
