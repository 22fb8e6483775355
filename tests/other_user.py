"""Directories of another user, and commands run by root (or as that user) with a Python that this user may read."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.end_to_end.world import Said, spawned

NAMELESS = 12345
"""A user without a name, here as on most machines."""

OTHER = 64999
"""Another user, who is neither root nor the node's."""

only_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None or shutil.which("unshare") is None,
    reason="only root, with util-linux, can start processes of other users",
)

_HERE = Path(__file__).resolve().parent.parent


def need_root() -> None:
    """Skip for everybody except root, who can give files away."""
    if os.geteuid() != 0:
        pytest.skip("needs root: files are given to another user")


def place_for_others() -> Iterator[Path]:
    """A directory that every user may traverse, unlike pytest's own; the body of a fixture."""
    need_root()
    with tempfile.TemporaryDirectory(prefix="lightningd-backup-test-") as name:
        place = Path(name)
        place.chmod(0o755)
        yield place


def given_to(uid: int, *paths: Path) -> None:
    """Give everything at and below these paths to that user; links themselves, not their targets."""
    for path in paths:
        for each in (path, *path.rglob("*")):
            os.chown(each, uid, uid, follow_symlinks=False)


def run(*words: object, environment: dict[str, str] | None = None, directory: Path | None = None) -> Said:
    """Run a command as root in a process of its own, with a Python that every user may read."""
    return spawned(*everybodys_python(), *words, environment=environment, directory=directory)


def as_user(uid: int) -> list[str]:
    """The prefix of a command that this user shall run."""
    return [*everybodys_python(), *_becoming(uid)]


@contextmanager
def looping(user: int, script: str) -> Iterator[None]:
    """Run this piece of shell again and again as that user. Only root can start it."""
    running = subprocess.Popen(
        [*_becoming(user), "sh", "-c", f"while :; do {script}; done"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def _becoming(uid: int) -> list[str]:
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]


@cache
def everybodys_python() -> tuple[str, ...]:
    """The prefix of a command: empty, unless this Python is in a directory of root's that is closed to others.

    In that case the command sees a private copy of the mounts, in which the directory is open.
    """
    probe = [*_becoming(NAMELESS), sys.executable, "-c", "import sys, backup_cli.main; open(sys.executable)"]
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    if subprocess.run(probe, capture_output=True, cwd="/").returncode == 0:
        return ()
    prefix = ("unshare", "--mount", "--propagation=private", "sh", "-ec", _script(), "sh")
    if shutil.which("unshare") is None or subprocess.run([*prefix, *probe], capture_output=True, cwd="/").returncode:
        pytest.skip("this Python is closed to other users, and no namespace could open it")
    return prefix


def _script() -> str:
    needed = {Path(sys.base_prefix), Path(sys.prefix), _HERE}
    lines = []
    for closed in dict.fromkeys(filter(None, map(_closed_above, sorted(needed)))):
        below = [path for path in sorted(needed) if path.is_relative_to(closed)]
        for number, path in enumerate(below):
            lines.append(f"k{number}=$(mktemp -d /tmp/XXXXXX); mount --bind '{path}' \"$k{number}\"")
        lines.append(f"mount -t tmpfs -o mode=755 tmpfs '{closed}'")
        for number, path in enumerate(below):
            lines.append(f"mkdir -p '{path}'; mount --bind \"$k{number}\" '{path}'")
            lines.append(f'umount "$k{number}"; rmdir "$k{number}"')
    return "\n".join([*lines, 'exec "$@"'])


def _closed_above(path: Path) -> Path | None:
    return next((each for each in reversed(path.parents) if not each.stat().st_mode & 0o001), None)
