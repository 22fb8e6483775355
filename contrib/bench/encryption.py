"""What encryption costs: a commit and a restore, encrypted beside plain, in one run.

python -m contrib.bench.encryption [--directory DIR] [--rounds N] [--json FILE]

Two nodes play the recording call by call in turns, one with a plain backup and one with an encrypted one on the same
disk. Then a long log is restored, in turns as well: the seconds of processor time, the best of each.
"""

import secrets
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from backends import backup_at, keyring
from backends.keyring import DataKey
from backends.node.hand_over import hand_over
from backends.node.hsm_secret import HSM_SECRET
from backends.node.key_file import write_key
from backends.sqlite.copy import nothing
from backends.sqlite.rebuild import rebuild
from backup_cli.drill.player import recorded_calls
from contrib.bench.contestants import Call
from contrib.bench.long_log import long_log, stored
from contrib.bench.report import hand_out, in_turns, options_of

RESTORES = 7
"""How many times each log is restored."""


def side_by_side(directory: Path, calls: list[Call], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each commit to a plain backup, and to an encrypted one on the same disk."""
    plain, encrypted = in_turns(directory, calls, rounds, [make_backup, partial(make_backup, encrypted=True)])
    return plain, encrypted


def make_backup(directory: Path, *, encrypted: bool = False) -> None:
    """Make the backup of the node in `directory`, below it, and all that the plugin needs to write to it."""
    keys: list[DataKey] = []
    url = (directory / "lightning.bkp").as_uri()
    backup = backup_at(url)
    position = backup.create(nothing(), encrypt=keys.append if encrypted else None)
    for key in keys:
        write_key(directory, key)
        (directory / HSM_SECRET).write_bytes(secrets.token_bytes(32))  # for the key slot that the first start makes
    hand_over(directory, url, backup.id(), position)


def replayed(directory: Path, calls: list[Call]) -> tuple[float, float]:
    """Seconds of processor time that a restore of a long log takes: plain, and encrypted. The best of several."""
    longer = long_log(calls)
    urls = [stored(directory, longer), stored(directory, longer, encrypted=True)]
    took: list[list[float]] = [[], []]
    for number in range(RESTORES):
        for url, times in zip(urls, took, strict=True):
            target = directory / f"restored-{number}.sqlite3"
            with backup_at(url).read() as reader:
                began = time.process_time()
                rebuild(reader, target)
                times.append(time.process_time() - began)
            target.unlink()
    return min(took[0]), min(took[1])


def figures(commits: tuple[float, float], restores: tuple[float, float]) -> dict[str, Any]:
    """What was measured, and the ratios."""
    plain, encrypted = commits
    return {
        "plain_median_us": round(plain * 1e6, 1),
        "encrypted_median_us": round(encrypted * 1e6, 1),
        "plain_restore_s": round(restores[0], 3),
        "encrypted_restore_s": round(restores[1], 3),
        "budget": {
            "encrypted, median, against 1.05 × plain": round(encrypted / (1.05 * plain), 3),
            "restoring a long log, against 1.1 × plain": round(restores[1] / (1.1 * restores[0]), 3),
        },
    }


def main() -> None:
    """Measure, print the figures, and write the file that the options name."""
    options = options_of(__doc__).parse_args()
    calls = recorded_calls()
    plain, encrypted = map(statistics.median, side_by_side(options.directory, calls, options.rounds))
    keyring.forget()
    with tempfile.TemporaryDirectory(prefix="lightningd-backup-bench-", dir=options.directory) as scratch:
        found = figures((plain, encrypted), replayed(Path(scratch), calls))
    hand_out(found, options.json)


if __name__ == "__main__":
    main()
