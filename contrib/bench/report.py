"""What the single benchmarks share: two nodes that play the recording in turns, and how figures are handed out."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from backup_cli.drill.player import Player
from contrib.bench.contestants import Call

PLUGIN = [sys.executable, "-m", "plugin.main"]


def in_turns(
    directory: Path, calls: list[Call], rounds: int, nodes: Sequence[Callable[[Path], object]]
) -> list[list[float]]:
    """Seconds of each commit of several nodes, which play the recording call by call in turns.

    Each of `nodes` makes what one node needs, in a directory that it is given. Who begins changes from call to call:
    so whatever else the machine does slows down all of them.
    """
    latencies: list[list[float]] = [[] for _ in nodes]
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="lightningd-backup-bench-", dir=directory) as scratch:
            players: list[Player] = []
            try:
                for number, make in enumerate(nodes):
                    node = Path(scratch, f"node-{number}")
                    node.mkdir()
                    make(node)
                    players.append(Player(node, PLUGIN))
                for number, call in enumerate(calls):
                    pairs = list(zip(latencies, players, strict=True))
                    for seconds, player in pairs if number % 2 else reversed(pairs):
                        seconds.append(player.play(call))
                for player in players:
                    player.stop()
            finally:
                for player in players:
                    player.kill()
    return latencies


def at_share(ordered: Sequence[float], share: float) -> float:
    """The value below which this share of the values is: 0.5 for the median, 1 for the largest one."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def options_of(description: str | None) -> argparse.ArgumentParser:
    """The options of every single benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="a directory on the disk to measure")
    parser.add_argument("--rounds", type=int, default=3, help="how many times the recording is played to each")
    parser.add_argument("--json", type=Path, help="write all figures here")
    return parser


def hand_out(found: dict[str, Any], file: Path | None) -> None:
    """Print the figures, with the ratios to the budget last, and write them to the file, if one is named."""
    for name, value in found.items():
        if name != "budget":
            print(f"{value:12}  {name}")
    print_budget(found)
    if file is not None:
        file.write_text(json.dumps(found, indent=1) + "\n")


def print_budget(found: dict[str, Any]) -> None:
    """Print the ratios to the budget."""
    print("\nbudget (1.0 is the limit):")
    for name, value in found["budget"].items():
        print(f"  {value:6.3f}  {name}")
