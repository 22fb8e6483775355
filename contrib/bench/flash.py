"""How kind to flash: what reaches the device in a thousand commits, ours against a replica kept by SQLite.

    python -m contrib.bench.flash        (as root; needs losetup, mkfs.ext4, mkfs.exfat and mount.exfat-fuse)

Each contestant gets a fresh filesystem on a loop device. Counted are the bytes that the kernel writes to that device
(/sys/block/…/stat), and the 4 KiB blocks of it that differ afterwards. Bytes over blocks is how often, on average, one
block is written again: that is what wears a stick out.
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
"""Commits between two rounds of upkeep; a busy node makes some hundred in the maintenance thread's 0.2 s."""

Commit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Wear:
    """What a run did to the device."""

    written: int  # bytes
    blocks: int  # distinct


def main() -> None:
    """Print a table."""
    print(f"{COMMITS} commits of a recorded node       bytes written   distinct blocks   writes per block")
    for filesystem in ("ext4", "exfat"):
        for name, contestant in (("SQLite replica", replica), ("this backup", ours)):
            wear = measure(filesystem, contestant)
            again = wear.written / BLOCK / max(wear.blocks, 1)
            print(f"{filesystem:<8}{name:<24}{wear.written:>20,}{wear.blocks:>18,}{again:>19.1f}")


def measure(filesystem: str, contestant: Callable[[Path], "Iterator[Commit]"]) -> Wear:
    """One contestant on a fresh filesystem."""
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
    """The plugin's backup, with the upkeep that its other thread does."""
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
    """A second database that executes the same statements, as safe as lightningd's own: journal and full syncs."""
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
    """A fresh filesystem; gives its loop device."""
    with image.open("wb") as file:
        file.truncate(256 << 20)
    # Nothing of the filesystem's own making is left to be done while it is measured.
    done_now = ["-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"] if filesystem == "ext4" else []
    run([f"mkfs.{filesystem}", *done_now, str(image)])
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
    """Bytes written to the device so far, and a digest of each of its blocks, once everything is there."""
    run(["sync", "--file-system", str(point)])  # not all filesystems: those of a busy machine take minutes
    run(["sync", device])  # what a FUSE program has written to it
    sectors = int((Path("/sys/block") / Path(device).name / "stat").read_text().split()[6])
    with image.open("rb") as file:
        return sectors * SECTOR, [hash(block) for block in iter(lambda: file.read(BLOCK), b"")]


def run(words: Sequence[str]) -> str:
    """A program's stdout."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
