"""What the steps with a whole database read from the disk when the memory is smaller than the database.

python -m contrib.bench.short_of_memory FILE [--megabytes N] [--directory DIR] [--only STEP]

FILE is a node's database; contrib/bench/node_like.py makes a large one. It is copied to an ext4 filesystem of its own
on a loop device, which counts what is read from it. Each step begins with nothing of that filesystem in memory, and
runs in a control group with `--megabytes` of memory. As root; needs losetup, mkfs.ext4, and the memory controller of
either version of control groups.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw

from backends import backup_at
from backends.change import Change
from backends.node.directory import DATABASE
from contrib.bench.whole import CLI

CHANGES = 80
"""Changes in the log when it is compacted."""

_SECTOR = 512
_CONTROL = Path("/sys/fs/cgroup")


@dataclass(slots=True)
class LoopDisk:
    """An ext4 filesystem at `point`, on a loop device."""

    device: str
    point: Path

    def forget(self) -> None:
        """Have the kernel keep nothing of it in memory."""
        _run("umount", str(self.point))
        _run("mount", self.device, str(self.point))

    def requests(self) -> tuple[int, int]:
        """How often something was read from the device so far, and how many bytes."""
        fields = Path("/sys/block", Path(self.device).name, "stat").read_text().split()
        return int(fields[0]), int(fields[2]) * _SECTOR


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def loop_disk(directory: Path, size: int) -> Iterator[LoopDisk]:
    """A disk of `size` bytes whose image is in `directory`; the image's own pages do not stay in memory."""
    image, point = directory / "disk.img", directory / "disk"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    with ExitStack() as undo:
        device = _run("losetup", "--direct-io=on", "-f", "--show", str(image))
        undo.callback(_run, "losetup", "-d", device)
        _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
        _run("mount", device, str(point))
        undo.callback(_run, "umount", str(point))
        yield LoopDisk(device, point)


@contextmanager
def limited_memory(size: int) -> Iterator[Callable[[], None]]:
    """What a process calls to have no more than `size` bytes of memory, its files' pages included."""
    version_1 = (_CONTROL / "memory").is_dir()
    group = (_CONTROL / "memory" if version_1 else _CONTROL) / f"lightningd-backup-bench-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if version_1 else "memory.max")).write_text(str(size))
        yield lambda: _join(group)
    finally:
        group.rmdir()


def _join(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def _add_changes(url: str, database: Path) -> None:
    """Append CHANGES changes of the largest table to the backup's log."""
    connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)
    ((version,),) = connection.execute("SELECT intval FROM vars WHERE name = 'data_version'").fetchall()
    ((first,),) = connection.execute("SELECT max(id) FROM channel_htlcs").fetchall()
    connection.close()
    writer = backup_at(url).open(lambda level, line: None, "0123456789abcdef")
    for number in range(CHANGES):
        before = int(str(version)) + number
        change = f"UPDATE channel_htlcs SET hstate=19 WHERE id={int(str(first)) - 1000 * number}"
        bump = f"UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = {before}"
        writer.append(Change(before + 1, [change, bump]))
        if number == CHANGES // 2:
            writer.begin_segment()  # a compaction frees whole segments, so it needs a second one
    writer.close()


def measure(file: Path, disk: LoopDisk, limit: Callable[[], None], only: str | None) -> None:
    """Run each step, or the one named `only` with what it needs, and print a line for each."""
    node, scratch = disk.point / "regtest", disk.point / "scratch"
    node.mkdir()
    scratch.mkdir()
    database, url = node / DATABASE, (disk.point / "lightning.bkp").as_uri()
    shutil.copyfile(file, database)
    size = database.stat().st_size

    def step(name: str, *command: str, prepare: Callable[[], None] | None = None, remove: Path | None = None) -> None:
        if prepare is not None:
            prepare()
        if only not in (None, name) and name != "init":
            return
        disk.forget()
        (requests, read), before = disk.requests(), os.times()
        began = time.monotonic()
        environment = {**os.environ, "TMPDIR": str(scratch)}
        done = subprocess.run([*CLI, *command], capture_output=True, text=True, preexec_fn=limit, env=environment)
        took, after = time.monotonic() - began, os.times()
        busy = after.children_user + after.children_system - before.children_user - before.children_system
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stdout}{done.stderr}")
        now = disk.requests()
        print(
            f"{name:18}{(now[1] - read) / size:6.2f} x{now[0] - requests:10} requests{took:8.1f} s{busy:8.1f} s busy",
            flush=True,
        )
        if remove is not None:
            remove.unlink()

    step("init", "init", "--lightning-dir", str(node), url)
    step("verify", "verify", url)
    step("restore", "restore", url, str(scratch / "restored"), remove=scratch / "restored")
    step("restore --check", "restore", "--check", url, str(scratch / "restored"), remove=scratch / "restored")
    step(
        "resync", "resync", "--lightning-dir", str(node)
    )  # later than verify, which would also read the generation that this keeps
    step("compact", "compact", url, prepare=lambda: _add_changes(url, database))


def main() -> None:
    """Measure with the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--megabytes", type=int, default=400, help="of memory")
    parser.add_argument(
        "--directory", type=Path, default=Path("/var/tmp"), help="a directory with room for five copies"
    )
    parser.add_argument("--only", help="this step alone (after init)")
    options = parser.parse_args()
    print(f"{sys.version.split()[0]}, {options.megabytes} MiB of memory, {options.file.stat().st_size >> 20} MiB")
    with (
        tempfile.TemporaryDirectory(prefix="lightningd-backup-bench-", dir=options.directory) as scratch,
        loop_disk(Path(scratch), 5 * options.file.stat().st_size + (512 << 20)) as disk,
        limited_memory(options.megabytes << 20) as limit,
    ):
        measure(options.file, disk, limit, options.only)


if __name__ == "__main__":
    main()
