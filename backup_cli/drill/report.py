"""A drill's report: what was measured, as a table, a histogram and a verdict that a person can act on."""

import statistics
from dataclasses import dataclass
from typing import Any

from backends.text import counted
from backup_cli.console import show_line, show_row, size

CALLS_PER_PAYMENT = 13.4
"""How many changes one payment through a channel makes: 20,084 in 1,500 recorded payments."""

GOOD, FAIR, SLOW = 0.005, 0.020, 0.100
"""A destination is good, fair or slow up to these medians of commit latency in seconds; above the last, it is unfit."""

STALLS = 0.5
"""If one commit in a hundred takes more seconds than this, the destination is uneven, however good its median."""

_EDGES = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class DrillReport:
    """What a drill measured. Times in seconds, sizes in bytes."""

    latencies: list[float]
    snapshot: int
    log: int
    raw: int
    """The size of the SQL in the log. The start after the kill may have replaced what came before by a snapshot."""
    restore: float
    version: int
    database: int
    tables: int
    rows: int
    differences: list[str]
    opened_with: str | None = None
    """What alone gave back the key of the encrypted backup; None if the backup was not encrypted."""

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        ordered = sorted(self.latencies)
        return {
            "commit_seconds": {
                "median": statistics.median(ordered),
                "p99": ordered[int(len(ordered) * 0.99)],
                "max": ordered[-1],
            },
            "raw_bytes": self.raw,
            "snapshot_bytes": self.snapshot,
            "segment_bytes": self.log,
            "data_version": self.version,
            "database_bytes": self.database,
            "restore_seconds": self.restore,
            "tables": self.tables,
            "rows": self.rows,
            "identical": not self.differences,
            "differences": self.differences,
            "opened_with": self.opened_with,
        }


def tell(seen: DrillReport) -> None:
    """Print the report, ending with the verdict."""
    ordered = sorted(seen.latencies)
    median, p99 = statistics.median(ordered), ordered[int(len(ordered) * 0.99)]
    histogram(ordered)
    rows = [
        ("commit latency", f"{_ms(median)} median, {_ms(p99)} at 99 %, {_ms(ordered[-1])} at most"),
        ("payments", f"about {1 / (median * CALLS_PER_PAYMENT):.0f} a second, by this latency alone"),
        (
            "backup",
            f"a snapshot of {size(seen.snapshot)}; after it {size(seen.log)} for {size(seen.raw)} of SQL "
            f"({100 * seen.log / seen.raw:.1f} %)",
        ),
        ("restored", f"version {seen.version}, {size(seen.database)} in {seen.restore:.2f} s"),
        *([("encrypted", f"restored with {seen.opened_with} alone")] if seen.opened_with is not None else []),
        ("compared", f"{counted(seen.tables, 'table')}, {counted(seen.rows, 'row')}"),
    ]
    for name, value in rows:
        show_row(name, value, 16)
    for difference in seen.differences:
        show_line(f"DIFFERENT: {difference}")
    show_line("identical" if not seen.differences else "not identical", bold=True)
    show_line(verdict(median, p99, seen.differences))


def verdict(median: float, p99: float, differences: list[str]) -> str:
    """What to do about this destination. `median` and `p99` are commit latencies in seconds."""
    if differences:
        return (
            "Verdict: do not use this destination: what was restored is not what was saved. Check the disk and its "
            "cable."
        )
    if median <= SLOW and p99 > STALLS:
        return (
            f"Verdict: uneven. A commit mostly takes {_ms(median)}, but one in a hundred {_ms(p99)}, and with it about "
            f"every {100 / CALLS_PER_PAYMENT:.0f}th payment. Cheap sticks and busy disks do that; choose another "
            "destination."
        )
    if median <= GOOD:
        return "Verdict: good. This destination keeps up with a busy node."
    if median <= FAIR:
        return "Verdict: fair. Good for a home node; a busy one would feel it."
    if median <= SLOW:
        return (
            f"Verdict: slow. Each commit waits {_ms(median)}, so payments take noticeably longer. Use a faster stick, "
            "a cable instead of WiFi, or a disk in the machine."
        )
    return (
        f"Verdict: unfit. A commit takes {_ms(median)} (at times {_ms(p99)}): while it waits, the node does nothing "
        "else, and peers may give up on it. Choose another destination."
    )


def histogram(ordered: list[float]) -> None:
    """Print how many commits took how long, as a bar per range. `ordered` are the latencies in seconds, sorted."""
    counts: list[tuple[str, int]] = []
    low, rest = 0.0, ordered
    for edge in (*_EDGES, float("inf")):
        inside = sum(1 for value in rest if low <= value < edge)
        label = f"over {_ms(low)}" if edge == float("inf") else f"to {_ms(edge)}"
        counts.append((label, inside))
        low = edge
    used = [number for number, (_, count) in enumerate(counts) if count]
    most = max(count for _, count in counts)
    for label, count in counts[used[0] : used[-1] + 1]:
        show_line(f"{label:>14} {'#' * round(40 * count / most):<40} {count}")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
