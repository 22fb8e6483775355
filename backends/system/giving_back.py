"""A large file that nobody needs any more is given back to the disk a piece at a time.

Removed in one go, all its blocks are freed (and, on a disk that is told so, discarded) within one transaction of ext4's
journal, and whoever syncs a file meanwhile waits for that: a node's commit 30 to 40 ms for a snapshot of 286 MB.
"""

import fcntl
import os
import signal
import stat
import threading
import time
from contextlib import suppress

from backends.mounts.table import mount_at

LARGE = 16 << 20
"""Bytes of a file from which on it is worth the trouble."""

STEP = 4 << 20
"""Bytes that are given back at a time."""

_REST = 0.01
"""Seconds between two steps at least, for the commits that come in between; else as long as the step took."""

_KINDS = frozenset({"ext3", "ext4"})
"""Where it helps. Elsewhere (NFS, FUSE) a file that is removed while it is open stays there under a hidden name."""

_PLAIN = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_one_at_a_time = threading.Lock()


def open_large(name: str, directory: int) -> int | None:
    """A descriptor of the file, before it is removed, for `give_back`. None where removing it is all there is to do."""
    try:
        descriptor = os.open(name, _PLAIN, dir_fd=directory)
    except OSError:
        return None
    with suppress(OSError):
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_size >= LARGE and mount_at(descriptor).kind in _KINDS:
            return descriptor
    os.close(descriptor)
    return None


def give_back(descriptor: int, *, synced: bool) -> None:
    """Shrink the removed file to nothing, with a rest after each step, and close it. It is `synced` if its bytes are.

    One that somebody still reads, or that has another name, stays whole. Never raises: closing it is enough.
    """
    try:
        with _one_at_a_time, suppress(OSError):
            rest = os.fstat(descriptor).st_size if _is_ours_alone(descriptor) else 0
            while rest:
                began = time.monotonic()
                rest = max(rest - STEP, 0)
                os.ftruncate(descriptor, rest)
                if synced:  # a transaction for each step; of what is not on the disk yet it would write the rest
                    os.fsync(descriptor)
                time.sleep(max(time.monotonic() - began, _REST))
    finally:
        os.close(descriptor)


def give_back_beside(descriptor: int) -> None:
    """The same for a synced file, while the caller goes on. Should this process end before, the kernel does it."""
    threading.Thread(
        target=give_back, args=(descriptor,), kwargs={"synced": True}, name="giving back", daemon=True
    ).start()


def _is_ours_alone(descriptor: int) -> bool:
    """Whether it has no name and nobody else has it open, as a restore might that began before it was removed.

    The kernel gives a write lease on nothing else.
    """
    if os.fstat(descriptor).st_nlink:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # by default SIGIO, which would end the node
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True
