"""Counts the plugin's instructions: what it costs on a small board, told from this machine, whatever else runs here.

    python -m contrib.bench.instructions

The recorded node streams to a backup beneath valgrind (cachegrind without its cache), once few and once many calls. The
difference is what a call takes; what is left is the start. Memory is measured without valgrind.
"""

import re
import shutil
import statistics
import sys
import tempfile
from itertools import islice
from pathlib import Path

import psutil

from backup_cli.drill.player import Player, recorded_calls
from contrib.bench.encryption import make_backup
from contrib.bench.report import PLUGIN

FEW, MANY = 50, 450


def streamed(calls: int, command: list[str]) -> tuple[float, float, list[float]]:
    """Have the recorded node make that many calls. Returns the plugin's processor seconds, its resident memory in MiB,
    and the seconds of each call."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        make_backup(Path(directory))
        player = Player(Path(directory), command)
        try:
            took = [player.play(call) for call in islice(recorded_calls(), calls)]
            process = psutil.Process(player.pid)
            times, memory = process.cpu_times(), process.memory_info().rss / 2**20
        finally:
            player.stop()
        return times.user + times.system, memory, took


def counted(calls: int) -> int:
    """The instructions of a whole run with that many calls."""
    with tempfile.NamedTemporaryFile("r") as log:
        tool = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
        streamed(calls, [*tool, f"--log-file={log.name}", *PLUGIN])
        found = re.search(r"I\s+refs:\s+([\d,]+)", log.read())
    if found is None:
        sys.exit("valgrind has counted nothing; is it there?")
    return int(found[1].replace(",", ""))


def main() -> None:
    """Count, and print."""
    if shutil.which("valgrind") is None:
        sys.exit("this needs valgrind: apt install valgrind")
    few, many = counted(FEW), counted(MANY)
    call = (many - few) / (MANY - FEW)
    print(f"instructions  {call / 1e6:.2f} million a call, {(few - FEW * call) / 1e6:.0f} million for start and end")
    seconds, memory, took = streamed(MANY, PLUGIN)
    begun = streamed(FEW, PLUGIN)[0]
    print(f"here          {(seconds - begun) / (MANY - FEW) * 1e3:.2f} ms of the processor a call, {memory:.0f} MiB")
    print(f"latency       {statistics.median(took) * 1e3:.2f} ms median")


if __name__ == "__main__":
    main()
