"""The five contestants (a) to (e). Each plays the same recording."""

import os
import shutil
import sqlite3
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from backends import backup_at
from backends.change import foreign_keys_setting
from backends.node.hand_over import hand_over
from backends.sqlite.copy import nothing
from backends.sqlite.rebuild import rebuild
from backup_cli.drill.player import Player

HERE = Path(__file__).parent
Call = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """What one contestant measured. Times are in seconds, sizes in bytes; `restore` is None if nothing was restored."""

    name: str
    latencies: list[float]
    cpu: float
    peak_memory: int
    written: int
    kept: int
    restore: float | None


def answering(directory: Path, calls: list[Call]) -> Run:
    """(a) A hook that only answers (answering.py)."""
    return _play("a hook that only answers", directory, [sys.executable, str(HERE / "answering.py")], calls)


def ours(directory: Path, calls: list[Call]) -> Run:
    """(b) lightningd-backup, with the time of a restore."""
    url = (directory / "backup").as_uri()
    backup = backup_at(url)
    position = backup.create(nothing())
    hand_over(directory, url, backup.id(), position)
    run = _play("lightningd-backup", directory, [sys.executable, "-m", "plugin.main"], calls, directory / "backup")
    began = time.perf_counter()
    with backup.read() as reader:
        rebuild(reader, directory / "restored.sqlite3")
    return _with_restore(run, time.perf_counter() - began)


def compacting(directory: Path, calls: list[Call]) -> Run:
    """(b) again, with a threshold so low that a compaction is almost always running."""
    url = (directory / "backup").as_uri()
    backup = backup_at(url)
    position = backup.create(nothing())
    hand_over(directory, url, backup.id(), position)
    os.environ["LIGHTNINGD_BACKUP_COMPACT_AT"] = "1"
    try:
        return _play("lightningd-backup, compacting", directory, [sys.executable, "-m", "plugin.main"], calls)
    finally:
        del os.environ["LIGHTNINGD_BACKUP_COMPACT_AT"]


def replica(directory: Path, calls: list[Call]) -> Run:
    """(c) What lightningd's `--wallet=sqlite3://main:replica` does: the same transactions in a second database."""
    path = directory / "replica.sqlite3"
    process = psutil.Process()
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA foreign_keys = ON")
    latencies, io, cpu = [], _written(process), sum(process.cpu_times()[:2])
    for call in calls:
        began = time.perf_counter()
        lone = foreign_keys_setting(call["writes"]) is not None
        if not lone:
            database.execute("BEGIN")
        for statement in call["writes"]:
            database.execute(statement)
        if not lone:
            database.execute("COMMIT")
        latencies.append(time.perf_counter() - began)
    cpu, io = sum(process.cpu_times()[:2]) - cpu, _written(process) - io
    database.close()
    began = time.perf_counter()
    shutil.copy(path, directory / "restored.sqlite3")
    took = time.perf_counter() - began
    return Run("SQLite replica, synchronous FULL", latencies, cpu, 0, io, _size(path), took)


def unsynced(directory: Path, calls: list[Call]) -> Run:
    """(d) A hook that appends without sync (unsynced.py)."""
    kept = directory / "unsynced.bkp"
    return _play("append without sync", directory, [sys.executable, str(HERE / "unsynced.py")], calls, kept)


def least(directory: Path, calls: list[Call]) -> Run:
    """(e) A hook with one bare write and sync (bare.py)."""
    return _play("a hook with one bare write and sync", directory, [sys.executable, str(HERE / "bare.py")], calls)


def _play(name: str, directory: Path, plugin: list[str], calls: list[Call], kept: Path | None = None) -> Run:
    player = Player(directory, plugin)
    try:
        process = psutil.Process(player.pid)
        latencies = [player.play(call) for call in calls]
        cpu, written = sum(process.cpu_times()[:2]), _written(process)
        peak = _peak(process.pid)
        player.stop()
    finally:
        player.kill()
    return Run(name, latencies, cpu, peak, written, _size(kept) if kept else 0, None)


def _with_restore(run: Run, seconds: float) -> Run:
    return Run(run.name, run.latencies, run.cpu, run.peak_memory, run.written, run.kept, seconds)


def _written(process: psutil.Process) -> int:
    return int(process.io_counters().write_bytes)


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir())
    return path.stat().st_size


class BareWriter:
    """Writes 512 bytes with pwrite and fdatasync into preallocated zeros: what the disk itself costs.

    `latencies` are the seconds of each write so far.
    """

    def __init__(self, directory: Path, count: int) -> None:
        self._descriptor = os.open(directory / "bare", os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(self._descriptor, bytes(512 * count), 0)
        os.fsync(self._descriptor)
        self.latencies: list[float] = []

    def write(self) -> None:
        """Write the next 512 bytes and sync."""
        began = time.perf_counter()
        os.pwrite(self._descriptor, b"x" * 512, 512 * len(self.latencies))
        os.fdatasync(self._descriptor)
        self.latencies.append(time.perf_counter() - began)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def bare_writes(directory: Path, calls: list[Call]) -> tuple[list[float], list[float]]:
    """Seconds of bare writes: one after the other; and in a node's rhythm, after each recorded call and its answer.

    Compare a commit with the second: between two of those writes the processor has slept and done other work.
    """
    at_once = BareWriter(directory, len(calls))
    for _ in calls:
        at_once.write()
    at_once.close()
    in_rhythm = BareWriter(directory, len(calls))
    player = Player(directory, [sys.executable, str(HERE / "answering.py")])
    try:
        for call in calls:
            player.play(call)
            in_rhythm.write()
        player.stop()
    finally:
        player.kill()
        in_rhythm.close()
    return at_once.latencies, in_rhythm.latencies
