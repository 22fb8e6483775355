"""What a commit costs at each kind of destination: all of them in one run, on this machine's loopback.

python -m contrib.bench.destinations [--directory DIR] [--rounds N] [--only KIND,KIND] [--json FILE] [--svg FILE]

One node for each kind plays the recording, call by call in turns, and so do a hook that only answers and, for some
kinds, bare requests: the same number of durable requests with nothing around them. Our own time is the median of a
commit without the medians of these two. The servers are those of the tests (tests/destinations), with their data on the
directory's disk or in memory, so only the ratios and our own time say something about another place: there, add the
line's round trip, once a commit.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from backends import backup_at
from backends.node.hand_over import hand_over
from backends.sqlite.copy import nothing
from backup_cli.drill.player import Player, recorded_calls
from contrib.bench.contestants import HERE, Call
from contrib.bench.encryption import make_backup
from contrib.bench.members import make_members
from contrib.bench.picture import draw
from contrib.bench.report import PLUGIN, options_of, print_budget
from contrib.bench.requests import Bare, BareBucket, BareSftp, BareTable, bare_file
from tests.destinations.places import Places
from tests.destinations.postgres import DATABASE, ROLE, SCHEMA
from tests.destinations.radosgw import KEYS

HOOK = "a hook that only answers"
FILE = "file"
PREFIX = "lightningd-backup-bench-"
PLUGIN_MEMORY = 55 << 20
"""Bytes that a plugin may have resident with an extra loaded."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One node of the run. `make` makes its backup, if it has one."""

    name: str
    make: Callable[[Path], object] | None
    bare: Callable[[Path, int], Bare] | None = None
    own_ms: float | None = None
    """The budget for our own time, in milliseconds."""


@dataclass(slots=True)
class Measured:
    """Seconds of each commit, and of each bare request; the largest resident memory of the plugin, in bytes."""

    commits: list[float]
    bare: list[float]
    memory: int = 0

    @property
    def median(self) -> float:
        """Seconds of a commit."""
        return statistics.median(self.commits)


def contestants(places: Places) -> list[Contestant]:
    """All kinds. A server is started when its contestant begins."""

    def at(kind: str) -> Callable[[Path], object]:
        return lambda node: _make(node, places.url(kind))

    return [
        Contestant(HOOK, None),
        Contestant(FILE, _make_file, bare_file),
        Contestant("two members", partial(make_members, names=("one", "two"))),
        Contestant("encrypted", partial(make_backup, encrypted=True)),
        Contestant("nfs", at("nfs41")),
        Contestant("sftp", at("openssh"), lambda _, __: _bare_sftp(places), 0.2),
        Contestant("s3", at("s3"), lambda _, __: _bare_bucket(places), 0.5),
        Contestant("postgres", at("postgres"), lambda _, __: _bare_table(places), 0.5),
    ]


def _make_file(node: Path) -> None:
    _make(node, (node / "lightning.bkp").as_uri())


def _make(node: Path, url: str) -> None:
    backup = backup_at(url)
    position = backup.create(nothing())
    hand_over(node, backup.place.durable_url(url), backup.id(), position)


def _bare_sftp(places: Places) -> Bare:
    server = places.sftp("openssh")
    ssh = ["ssh", "-F", str(server.config), "-p", str(server.port), "-s", f"{server.user}@127.0.0.1"]
    return BareSftp(ssh, str(server.served / "bare"))


def _bare_bucket(places: Places) -> Bare:
    server = places.radosgw
    return BareBucket(places.bucket, server.endpoint, KEYS.key_id, KEYS.secret)


def _bare_table(places: Places) -> Bare:
    port = places.postgres.primary.port
    return BareTable(f"host=127.0.0.1 port={port} user={ROLE} dbname={DATABASE}", SCHEMA)


def in_turns(scratch: Path, calls: list[Call], every: list[Contestant]) -> dict[str, Measured]:
    """Play the calls once to each, call by call in turns; who begins changes from call to call."""
    measured = {each.name: Measured([], []) for each in every}
    with ExitStack() as stack:
        players: list[tuple[str, Player]] = []
        loops: list[tuple[str, Bare]] = []
        for number, each in enumerate(every):
            node = scratch / f"node-{number}"
            node.mkdir()
            plugin = PLUGIN
            if each.make is None:
                plugin = [sys.executable, str(HERE / "answering.py")]
            else:
                each.make(node)
            player = Player(node, plugin)
            stack.callback(player.kill)
            players.append((each.name, player))
            if each.bare is not None:
                loop = each.bare(node, len(calls))
                stack.callback(loop.close)
                loops.append((each.name, loop))
        for number, call in enumerate(calls):
            order = 1 if number % 2 else -1
            for name, player in players[::order]:
                measured[name].commits.append(player.play(call))
            for _, loop in loops[::order]:
                loop.write()
        for name, player in players:
            measured[name].memory = psutil.Process(player.pid).memory_info().rss
            player.stop()
        for name, loop in loops:
            measured[name].bare = list(loop.latencies)
    return measured


def figures(measured: dict[str, Measured], every: list[Contestant]) -> dict[str, Any]:
    """What was measured, in microseconds and MiB, the ratios to a local file, and those to the budget."""
    hook, file = measured[HOOK].median, measured[FILE].median
    table: dict[str, dict[str, Any]] = {}
    budget: dict[str, float] = {}
    for each in every:
        found = measured[each.name]
        row: dict[str, Any] = {
            "median_us": round(found.median * 1e6),
            "p90_us": round(sorted(found.commits)[int(len(found.commits) * 0.9)] * 1e6),
            "p99_us": round(sorted(found.commits)[int(len(found.commits) * 0.99)] * 1e6),
            "to_file": round(found.median / file, 2),
            "resident_mib": round(found.memory / (1 << 20), 1),
        }
        if found.bare:
            bare = statistics.median(found.bare)
            own = found.median - hook - bare
            row |= {"bare_us": round(bare * 1e6), "own_us": round(own * 1e6)}
            if each.own_ms is not None:
                budget[f"{each.name}: our own time, against {each.own_ms} ms"] = round(own * 1e3 / each.own_ms, 3)
        if each.name in ("sftp", "s3", "postgres"):
            budget[f"{each.name}: resident memory, against {PLUGIN_MEMORY >> 20} MiB"] = round(
                found.memory / PLUGIN_MEMORY, 3
            )
        table[each.name] = row
    return {"commits": len(measured[FILE].commits), "destinations": table, "budget": budget}


def print_table(table: dict[str, dict[str, Any]]) -> None:
    """Print a line for each kind: microseconds, ratios, MiB."""
    columns = ("median_us", "p90_us", "p99_us", "to_file", "bare_us", "own_us", "resident_mib")
    print(f"{'':26}" + "".join(f"{name:>14}" for name in columns))
    for name, row in table.items():
        print(f"{name:26}" + "".join(f"{row.get(column, ''):>14}" for column in columns))


def main() -> None:
    """Measure, print the figures, and write the file that the options name."""
    parser = options_of(__doc__)
    parser.add_argument("--only", help="these kinds besides file, separated by commas")
    parser.add_argument("--svg", type=Path, help="draw the distributions of the commits' latencies here")
    options = parser.parse_args()
    calls = recorded_calls()
    pooled: dict[str, Measured] = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX, dir=options.directory)))
        (scratch / "servers").mkdir()
        every = contestants(Places(scratch / "servers", stack))
        if options.only is not None:
            every = [each for each in every if each.name in (HOOK, FILE, *options.only.split(","))]
        for number in range(options.rounds):
            (scratch / f"round-{number}").mkdir()
            for name, found in in_turns(scratch / f"round-{number}", calls, every).items():
                before = pooled.setdefault(name, Measured([], []))
                before.commits += found.commits
                before.bare += found.bare
                before.memory = max(before.memory, found.memory)
    found_figures = figures(pooled, every)
    print_table(found_figures["destinations"])
    print_budget(found_figures)
    if options.json is not None:
        options.json.write_text(json.dumps(found_figures, indent=1) + "\n")
    if options.svg is not None:
        options.svg.write_text(draw([(name, found.commits) for name, found in pooled.items()]))


if __name__ == "__main__":
    main()
