"""A small real filesystem, to fill up. (A backup may not be in memory.)"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_small_disks = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mkfs.ext4") is None,
    reason="needs root and mkfs.ext4, to mount a small filesystem",
)


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[None]:
    """An ext4 of `size` bytes mounted at `place`, with its image beside it. Skips if nothing can be mounted."""
    image = place.with_name(f"{place.name}.img")
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, place]).returncode:
        pytest.skip("no filesystem can be mounted here")
    try:
        (place / "lost+found").rmdir()
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=False)
