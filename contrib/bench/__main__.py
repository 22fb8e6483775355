"""Plays a recording to five contestants in one run, and reports their latencies and the ratios between them.

python -m contrib.bench [--directory DIR] [--rounds N] [--json FILE] [--svg FILE]
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backup_cli.console import size
from backup_cli.drill.player import recorded_calls
from contrib.bench import encryption
from contrib.bench.budget import replay_ratio, startup
from contrib.bench.contestants import Call, Run, answering, bare_writes, compacting, least, ours, replica, unsynced
from contrib.bench.large import MEGABYTES, print_tail, rounds
from contrib.bench.large import figures as tail_figures
from contrib.bench.members import side_by_side
from contrib.bench.picture import draw
from contrib.bench.report import at_share, print_budget

CONTESTANTS: tuple[Callable[[Path, list[Call]], Run], ...] = (answering, ours, replica, unsynced, least)


def main() -> None:
    """Measure everything, print the tables, and write the files that the options name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="a directory on the disk to measure")
    parser.add_argument("--rounds", type=int, default=3, help="how many times each contestant plays; they take turns")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--svg", type=Path, help="draw the latencies here")
    options = parser.parse_args()
    calls = recorded_calls()
    with tempfile.TemporaryDirectory(prefix="lightningd-backup-bench-", dir=options.directory) as scratch:
        figures, runs = measure(Path(scratch), calls, options.rounds)
    figures["large"] = tail_figures(rounds(options.directory, calls, options.rounds))
    print_table(figures)
    print(f"\nbeside a compaction of {MEGABYTES} MB (µs):")
    print_tail(figures["large"])
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.svg is not None:
        options.svg.write_text(draw([(run.name, run.latencies) for run in runs]))


def measure(scratch: Path, calls: list[Call], rounds: int) -> tuple[dict[str, Any], list[Run]]:
    """All figures, and the runs that they come from, those of one contestant pooled."""
    pooled: dict[str, list[Run]] = {}
    bare: list[float] = []
    rhythmic: list[float] = []
    busy: list[float] = []
    for number in range(rounds):
        for contestant in CONTESTANTS:
            directory = scratch / f"{contestant.__name__}-{number}"
            directory.mkdir()
            run = contestant(directory, calls)
            pooled.setdefault(run.name, []).append(run)
        for name in ("bare", "compacting"):
            (scratch / f"{name}-{number}").mkdir()
        at_once, in_rhythm = bare_writes(scratch / f"bare-{number}", calls)
        bare, rhythmic = bare + at_once, rhythmic + in_rhythm
        busy += compacting(scratch / f"compacting-{number}", calls).latencies
    runs = [_pool(several) for several in pooled.values()]
    raw = sum(len(statement.encode()) for call in calls for statement in call["writes"])
    replayed, one_by_one = replay_ratio(scratch, calls)
    manifest, imported = startup(scratch)
    one, two = side_by_side(scratch, calls, rounds)
    plain, encrypted = map(statistics.median, encryption.side_by_side(scratch, calls, rounds))
    restored, decrypted = encryption.replayed(scratch, calls)
    table = {run.name: _figures(run, runs, len(calls) * rounds, rounds) for run in runs}
    a, b = runs[0], runs[1]
    allowed = 1.25 * statistics.median(a.latencies)
    median = statistics.median(b.latencies)
    budget = {
        "hook call, median, against 1.25 × (a) + a bare write in the node's rhythm": median
        / (allowed + statistics.median(rhythmic)),
        "the same, against bare writes one after the other": median / (allowed + statistics.median(bare)),
        "hook call, median, against a hook with one bare write and sync (e)": median
        / statistics.median(runs[4].latencies),
        "hook call while compacting, median, against 1.5 × without": statistics.median(busy) / (1.5 * median),
        "hook call with two members on this disk, median, against 1.3 × one": statistics.median(two)
        / (1.3 * statistics.median(one)),
        "hook call with an encrypted backup, median, against 1.05 × plain": encrypted / (1.05 * plain),
        "restoring a long log from an encrypted backup, against 1.1 × plain": decrypted / (1.1 * restored),
        "bytes on disk, against 0.12 × raw SQL": b.kept / (0.12 * raw),
        "replaying a long log, against 1.4 × sqlite3 one by one (1 or more is good)": replayed / (1.4 * one_by_one),
        "start-up to manifest, against 1.3 × import pyln.client": manifest / (1.3 * imported),
        "resident memory, against 45 MiB": b.peak_memory / (45 << 20),
    }
    return {
        "calls": len(calls) * rounds,
        "raw_sql_bytes": raw,
        "bare_write_us": round(statistics.median(bare) * 1e6, 1),
        "bare_write_in_rhythm_us": round(statistics.median(rhythmic) * 1e6, 1),
        "bytes_kept_of_raw_sql": round(b.kept / raw, 4),
        "replayed_statements_per_second": round(replayed),
        "sqlite3_statements_per_second": round(one_by_one),
        "startup_s": round(manifest, 4),
        "import_pyln_s": round(imported, 4),
        "contestants": table,
        "budget": {name: round(value, 3) for name, value in budget.items()},
    }, runs


def _pool(several: list[Run]) -> Run:
    first = several[0]
    restores = [run.restore for run in several if run.restore is not None]
    return Run(
        first.name,
        [latency for run in several for latency in run.latencies],
        sum(run.cpu for run in several),
        max(run.peak_memory for run in several),
        first.written,
        first.kept,
        min(restores) if restores else None,
    )


def _figures(run: Run, runs: list[Run], calls: int, rounds: int) -> dict[str, Any]:
    a, c = runs[0], runs[2]
    return {
        "median_us": _us(run, 0.5),
        "p90_us": _us(run, 0.9),
        "p99_us": _us(run, 0.99),
        "max_us": _us(run, 1),
        "median_to_a": round(_us(run, 0.5) / _us(a, 0.5), 2),
        "median_to_c": round(_us(run, 0.5) / _us(c, 0.5), 2),
        "cpu_us_per_call": round(run.cpu / calls * 1e6),
        "peak_memory": run.peak_memory,
        "bytes_written": run.written,
        "bytes_kept": run.kept,
        "written_to_c": round(run.written / c.written, 3),
        "kept_to_c": round(run.kept / c.kept, 3),
        "restore_s": None if run.restore is None else round(run.restore, 4),
    }


def _us(run: Run, share: float) -> int:
    return round(at_share(sorted(run.latencies), share) * 1e6)


def print_table(figures: dict[str, Any]) -> None:
    """Print the figures of all contestants and the budget."""
    print(
        f"{figures['calls']} calls; a bare write and sync: {figures['bare_write_us']} µs one after the other, "
        f"{figures['bare_write_in_rhythm_us']} µs in the node's rhythm\n"
    )
    print(f"{'':40}{'median':>8}{'p90':>8}{'p99':>8}{'max':>8}  {'to (a)':>7}{'to (c)':>7}{'CPU':>6}  kept / written")
    for letter, (name, row) in zip("abcde", figures["contestants"].items(), strict=True):
        print(
            f"({letter}) {name:36}{row['median_us']:8}{row['p90_us']:8}{row['p99_us']:8}{row['max_us']:8}  "
            f"{row['median_to_a']:7}{row['median_to_c']:7}{row['cpu_us_per_call']:6}  "
            f"{size(row['bytes_kept'])} / {size(row['bytes_written'])}"
        )
    print(f"\nours on disk: {100 * figures['bytes_kept_of_raw_sql']:.1f} % of the raw SQL")
    print_budget(figures)


if __name__ == "__main__":
    main()
