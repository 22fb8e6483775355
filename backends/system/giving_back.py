"""Frees the space of large removed files in steps.

If a large file is removed at once, ext4 frees all its blocks (and discards them, if so mounted) within one transaction
of its journal. Every process that syncs a file meanwhile waits for that: removing a snapshot of 286 MB delayed a node's
commit by 30 to 40 ms.
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
"""The smallest file, in bytes, that is freed in steps."""

STEP = 4 << 20
"""Bytes that are freed at a time."""

_REST, _RESTS, _LONGEST_REST = 0.01, 9, 0.5
"""The shortest pause between two steps, in seconds; as how many steps a pause is long; and the longest pause.

Commits are made during the pauses. On a stick a step is a few flushes, and 20 commits in 100 ms are made there at best:
at most one commit in ten waits for a step.
"""

_KINDS = frozenset({"ext3", "ext4"})
"""The filesystems where this helps. On NFS and FUSE, a file that is removed while open remains under a hidden name."""

_PLAIN = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_one_at_a_time = threading.Lock()


def open_large(name: str, directory: int) -> int | None:
    """Open a file that is about to be removed, for `give_back`. None if it does not need to be freed in steps."""
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
    """Shrink a removed file to nothing, with a pause after each step, and close it.

    `synced` says whether the file's bytes are on the disk. A file that another process still reads, or that has another
    name, is only closed. Never raises: when the file is closed, the kernel frees what is left.
    """
    try:
        with _one_at_a_time, suppress(OSError):
            rest = os.fstat(descriptor).st_size if _is_ours_alone(descriptor) else 0
            while rest:
                began = time.monotonic()
                rest = max(rest - STEP, 0)
                os.ftruncate(descriptor, rest)
                if synced:  # gives each step its own transaction; if not synced, it would write the remaining data
                    os.fsync(descriptor)
                took = time.monotonic() - began
                time.sleep(min(max(took * (_RESTS if synced else 1), _REST), _LONGEST_REST))
    finally:
        os.close(descriptor)


def give_back_beside(descriptor: int) -> None:
    """Do `give_back` for a synced file in a thread. If this process ends earlier, the kernel frees the rest."""
    threading.Thread(
        target=give_back, args=(descriptor,), kwargs={"synced": True}, name="giving back", daemon=True
    ).start()


def _is_ours_alone(descriptor: int) -> bool:
    """Whether the file has no name and no other process has it open (a restore that began before the removal may).

    The kernel grants a write lease only on a file that nobody else has open.
    """
    if os.fstat(descriptor).st_nlink:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # the default, SIGIO, would end the node
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True
