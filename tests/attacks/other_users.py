"""Commands run as other users of this machine, by root."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.end_to_end.world import Said

NODE, ATTACKER = 65533, 65534

only_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None or shutil.which("unshare") is None,
    reason="only root, with util-linux, can start processes of other users",
)

_OPENED = """mount --bind "$1" /mnt && mount -t tmpfs -o mode=755 tmpfs "$2" && mkdir -p "$1" && mount --bind /mnt "$1"
shift 2; exec "$@"
"""


def as_user(user: int, *words: object) -> list[str]:
    """The command line that runs another one as this user, with nobody's groups. This Python can be run in it, too,
    though it may lie in a directory of root's own: then that is another one, in a mount namespace."""
    command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--", *map(str, words)]
    closed = _closed_to_others(Path(sys.base_prefix))
    if closed is None:
        return command
    return ["unshare", "--mount", "sh", "-ec", _OPENED, "sh", sys.base_prefix, str(closed), *command]


def _closed_to_others(path: Path) -> Path | None:
    """The topmost directory on the way to `path` that others may not pass."""
    return next((up for up in reversed([path, *path.parents]) if not up.stat().st_mode & 0o001), None)


def run_as(user: int, words: Sequence[object], directory: Path | None = None) -> Said:
    """Run a command line to its end as this user."""
    done = subprocess.run(as_user(user, *words), capture_output=True, text=True, timeout=60, cwd=directory or "/")
    return Said(done.returncode, done.stdout, done.stderr)
