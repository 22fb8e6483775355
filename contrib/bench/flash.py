"""Flash wear: what reaches the device in a thousand commits, for this backup and for SQLite's replica.

    python -m contrib.bench.flash        (as root; needs losetup, mkfs.ext4, mkfs.exfat and mount.exfat-fuse)

Each contestant gets a fresh filesystem on a loop device. This counts the bytes that the kernel writes to that device
(/sys/block/…/stat), and the 4 KiB blocks that differ afterwards. Bytes divided by the bytes of these blocks is how
often, on average, one block is written: that is what wears out a stick.
"""

import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends import backup_at
from backends.change import Change, foreign_keys_setting
from backends.sqlite.copy import nothing
from backup_cli.drill.player import recorded_calls

BLOCK = 4096
SECTOR = 512
PREPARED = 8
COMMITS = 1000
UPKEEP_EVERY = 50
"""Commits between two rounds of maintenance; a busy node makes about a hundred in the maintenance thread's 0.2 s."""

Commit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Wear:
    """What a run wrote to the device."""

    written: int  # bytes
    blocks: int  # distinct blocks that were changed


def main() -> None:
    """Measure each contestant on each filesystem, and print a table."""
    print(f"{COMMITS} commits of a recorded node       bytes written   distinct blocks   writes per block")
    for filesystem in ("ext4", "exfat"):
        for name, contestant in (("SQLite replica", replica), ("this backup", ours)):
            wear = measure(filesystem, contestant)
            again = wear.written / BLOCK / max(wear.blocks, 1)
            print(f"{filesystem:<8}{name:<24}{wear.written:>20,}{wear.blocks:>18,}{again:>19.1f}")


def measure(filesystem: str, contestant: Callable[[Path], "Iterator[Commit]"]) -> Wear:
    """Play the recording to one contestant on a fresh filesystem."""
    calls = recorded_calls()
    with tempfile.TemporaryDirectory() as scratch:
        image, point = Path(scratch) / "stick.img", Path(scratch) / "stick"
        point.mkdir()
        with mounted(filesystem, image, point) as device, contextmanager(contestant)(point) as commit:
            for call in calls[:PREPARED]:
                commit(call)
            before = settled(device, image, point)
            for call in calls[PREPARED : PREPARED + COMMITS]:
                commit(call)
            after = settled(device, image, point)
    changed = sum(old != new for old, new in zip(before[1], after[1], strict=True))
    return Wear(after[0] - before[0], changed)


def ours(directory: Path) -> Iterator[Commit]:
    """The plugin's backup, with the maintenance that its other thread does."""
    backup = backup_at((directory / "lightning.bkp").as_uri())
    backup.create(nothing())
    writer = backup.open(lambda level, line: None, "bench")
    done = 0

    def commit(call: dict[str, Any]) -> None:
        nonlocal done
        writer.append(Change(call["data_version"], call["writes"]))
        done += 1
        if done % UPKEEP_EVERY == 0:
            writer.maintain()

    yield commit
    writer.close()


def replica(directory: Path) -> Iterator[Commit]:
    """A second database that executes the same statements, as durably as lightningd's own: journal and full syncs."""
    connection = sqlite3.connect(directory / "replica.sqlite3", isolation_level=None)
    connection.executescript("PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")

    def commit(call: dict[str, Any]) -> None:
        alone = foreign_keys_setting(call["writes"]) is not None
        if not alone:
            connection.execute("BEGIN")
        for statement in call["writes"]:
            connection.execute(statement)
        if not alone:
            connection.execute("COMMIT")

    yield commit
    connection.close()


@contextmanager
def mounted(filesystem: str, image: Path, point: Path) -> Iterator[str]:
    """Create and mount a fresh filesystem; yields its loop device."""
    with image.open("wb") as file:
        file.truncate(256 << 20)
    # The filesystem must not finish its own initialisation while it is measured.
    at_once = ["-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"] if filesystem == "ext4" else []
    run([f"mkfs.{filesystem}", *at_once, str(image)])
    device = run(["losetup", "-f", "--show", str(image)])
    try:
        run(["mount.exfat-fuse" if filesystem == "exfat" else "mount", device, str(point)])
        try:
            yield device
        finally:
            run(["umount", str(point)])
    finally:
        run(["losetup", "-d", device])


def settled(device: str, image: Path, point: Path) -> tuple[int, list[int]]:
    """Sync, and return the bytes written to the device so far and a digest of each of its blocks."""
    run(["sync", "--file-system", str(point)])  # not all filesystems: that takes minutes on a busy machine
    run(["sync", device])  # what a FUSE program has written to the device
    sectors = int((Path("/sys/block") / Path(device).name / "stat").read_text().split()[6])
    with image.open("rb") as file:
        return sectors * SECTOR, [hash(block) for block in iter(lambda: file.read(BLOCK), b"")]


def run(words: Sequence[str]) -> str:
    """Run a program and return its stdout, stripped. Raises CalledProcessError if it fails."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
