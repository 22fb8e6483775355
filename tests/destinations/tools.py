"""Programs that the tests start, and checks of what the machine must have for them."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fake_lightningd.warm import Process

INSTALL = "install what .ci/install installs"


def need(*programs: str, root: bool = True) -> None:
    """Skip the test if a program or root's rights are missing; in CI, where nothing is skipped, fail it instead."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    if missing:
        _skip(f"{', '.join(missing)} missing: {INSTALL}")
    if root and os.geteuid() != 0:
        _skip("needs root, to mount, or to serve files as every user")


def need_fuse() -> None:
    """Skip, or fail in CI, if this user cannot mount a FUSE filesystem."""
    need("fusermount3", root=False)
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        _skip("needs /dev/fuse, open to this user")


def _skip(reason: str) -> None:
    (pytest.fail if "CI" in os.environ else pytest.skip)(reason)


def run(*words: object) -> str:
    """Run a program; returns its stdout. AssertionError with its output if it fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout} {done.stderr}"
    return done.stdout.strip()


def start(*words: object) -> "subprocess.Popen[bytes]":
    """Start a program that runs beside the test; its output is discarded."""
    nothing = subprocess.DEVNULL
    return subprocess.Popen([str(word) for word in words], stdin=nothing, stdout=nothing, stderr=nothing)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait until the condition is true; AssertionError if it is not in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what} did not come in {seconds:.0f} s"
        time.sleep(0.02)


def freeze(process: Process) -> None:
    """Send SIGSTOP, and return when every thread has stopped: the signal alone lets them answer a little longer.

    Without that wait, CI failed once: the write that was to hang was answered within a millisecond.
    """
    process.send_signal(signal.SIGSTOP)
    threads = Path(f"/proc/{process.pid}/task")

    def stopped(thread: Path) -> bool:
        try:
            return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"
        except (FileNotFoundError, ProcessLookupError):  # it ended
            return True

    wait_until(lambda: all(map(stopped, threads.iterdir())), f"a stop of every thread of {process.pid}")


def free_ports(count: int) -> list[int]:
    """Ports on the loopback interface that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def unmount(point: Path) -> None:
    """Unmount it whatever its state; does nothing if it is not mounted."""
    command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
    subprocess.run([*command, str(point)], capture_output=True, timeout=30, check=False)
