"""What the steps with a whole database take, as ratios to `cp` and `sync`, and to `zstd -3`, of the same file.

python -m contrib.bench.whole FILE [--directory DIR]

FILE is a node's database; contrib/bench/node_like.py makes a large one. Everything is done twice, because the first
round may be the first to touch that much memory, and the second round counts. It needs the command `zstd`.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

CLI = (sys.executable, "-m", "backup_cli.main")


def main() -> None:
    """Measure, and print a line for each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="a directory on the disk to measure")
    options = parser.parse_args()
    for _ in range(2):
        with tempfile.TemporaryDirectory(prefix="lightningd-backup-bench-", dir=options.directory) as scratch:
            took = _round(options.file, Path(scratch))
    print(f"{'':18}{'seconds':>8}{'x cp':>8}{'x zstd':>8}")
    for name, seconds in took.items():
        print(f"{name:18}{seconds:8.2f}{seconds / took['cp and sync']:8.2f}{seconds / took['zstd -3']:8.2f}")


def _round(file: Path, scratch: Path) -> dict[str, float]:
    directory, url, warm = scratch / "regtest", (scratch / "lightning.bkp").as_uri(), scratch / "warm"
    directory.mkdir()
    database, copy, packed = directory / "lightningd.sqlite3", scratch / "copy", scratch / "packed"
    shutil.copyfile(file, database)
    subprocess.run(["sync"], check=True)
    return {
        "cp and sync": _seconds(["sh", "-c", 'cp "$0" "$1" && sync "$1"', str(file), str(copy)], copy),
        "zstd -3": _seconds(["sh", "-c", 'zstd -q -3 "$0" -o "$1" && sync "$1"', str(file), str(packed)], packed),
        "init": _seconds([*CLI, "init", "--lightning-dir", str(directory), url]),
        "restore": _seconds([*CLI, "restore", url, str(copy)], copy),
        "restore --check": _seconds([*CLI, "restore", "--check", url, str(copy)], copy),
        "verify": _seconds([*CLI, "verify", url]),
        "follow --once": _seconds([*CLI, "follow", "--once", url, str(warm)]),
        "follow --promote": _seconds([*CLI, "follow", "--promote", "--take-over", url, str(warm)]),
    }


def _seconds(command: Sequence[str], remove: Path | None = None) -> float:
    """What the command took. Afterwards, the file `remove` is removed. Raises CalledProcessError with what it said."""
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    took = time.monotonic() - began
    if remove is not None:
        remove.unlink()
    return took


if __name__ == "__main__":
    main()
