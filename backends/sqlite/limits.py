"""How much memory, processor time and disk space the bytes of a backup may take, in proportion to their number.

No honest backup comes near these limits, and each is far below what a few kilobytes could take without them: 38 kB
doubled a table until it had 2.8 GiB. `--no-limits` lifts them, for an operator who knows that the backup is honest.
"""

import errno
import os
import resource
import signal
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from backends.errors import BackupError
from backends.sqlite import connection
from backends.sqlite.replay_errors import MemoryMissing, memory_for, memory_missing
from backends.system.pulse import pulse

MIB = 1 << 20

FLOOR = 64 * MIB
"""Bytes that any database, or any value in it, may have: forty times what the first call of a new node makes."""

FOR_A_DATABASE_BYTE = 8
"""Bytes that the rebuilt database may have per byte of the snapshot. A migration copies tables one after the other, and
the space of dropped tables is reused: three were enough."""

FOR_A_STORED_BYTE = 256
"""Bytes that a stored byte may unpack to. Recorded calls shrink to a twelfth, the most similar ones to a hundredth."""

ADDRESS_SPACE = 512 * MIB
"""Address space for Python and its libraries, on top of SQLite's memory. Measured, with all that is read ahead, they
take a third of it."""

FOR_A_VALUE_BYTE = 4
"""Bytes in Python per byte of a large statement: its text, its bytes, and a second copy of both while they are made."""

SPOOL = 1088 * MIB
"""Bytes for the temporary file that holds a change while it is executed; a change may have 1 GiB."""

CPU_SECONDS = 3600
STORED_BYTES_A_SECOND = 4096
"""Limit for the total processor time: an hour, plus a second for every STORED_BYTES_A_SECOND stored bytes. A Raspberry
Pi is a hundred times as fast."""

STUCK_AFTER = 120.0
"""Seconds of processor time without progress after which work counts as stuck. A value of a gigabyte takes a tenth."""

STUCK_BYTES_A_SECOND = MIB // 2
"""A single step of SQLite may go through a whole table (to build an index, to drop the table), so STUCK_AFTER is
extended by a second for every so many stored bytes of the backup."""

WATCH_EVERY = 0.1
"""Seconds between two looks at what a confined process takes: a fast disk takes hundreds of megabytes in a second."""

FILES = 4096
"""Open files that a confined process may have."""

_NEVER = resource.RLIM_INFINITY
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38


ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""Environment variables of a confined process: without this, malloc reserves address space for each thread."""


class BeyondLimits(BackupError):
    """A backup would take more than anything that a node writes. That is no proof that it is damaged."""

    exit_code = 3

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}. {_ANYWAY}")
        self.what = what


_ANYWAY = (
    "Nothing was made from it. Most likely this backup was altered, or does not come from a node: do not start a node "
    "from it, and look for another copy. If you know that it is a node's own, repeat the command with --no-limits"
)
"""What is safe, and what to type, after one of these limits was reached."""


class _Here:
    """The settings of this process."""

    confined = False
    lifted = False


def lift(lifted: bool) -> None:
    """Set whether the processes that this one starts run without limits (`--no-limits`)."""
    _Here.lifted = lifted


def lifted() -> bool:
    """Whether the processes that this one starts run without limits."""
    return _Here.lifted


def confine(*, limited: bool = True) -> None:
    """Limit this process irrevocably, before it reads anything from a backup. Best effort: a limit that the system does
    not offer is skipped.

    Unless `limited`, only what honest work never needs is taken away.
    """
    with suppress(OSError):  # when memory runs out, the kernel kills this process and not the node
        Path("/proc/self/oom_score_adj").write_text("1000")
    _set(resource.RLIMIT_CORE, 0)  # a core dump would contain the database's secrets
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if not limited:
        return
    _Here.confined = True
    _set(resource.RLIMIT_NOFILE, FILES)
    connection.limit_values(FLOOR, _more_memory)
    _more_memory(connection.MEMORY, 0)


def end_with_the_parent(parent: int) -> None:
    """Arrange to be killed when `parent`, the process that started this one, dies; exit at once if it has died."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def scale(stored: int) -> None:
    """Before a backup of `stored` bytes is unpacked: set the limits in proportion. Only in a confined process."""
    if not _Here.confined:
        return
    connection.limit_values(FLOOR + FOR_A_STORED_BYTE * stored, _more_memory)
    most = CPU_SECONDS + stored // STORED_BYTES_A_SECOND
    _set(resource.RLIMIT_CPU, most)
    allow_file(0, stored)


def allow_values(stored: int) -> None:
    """As `scale` for the size of values and statements alone: for a log that has grown to `stored` bytes since."""
    if _Here.confined:
        connection.limit_values(FLOOR + FOR_A_STORED_BYTE * stored, _more_memory)


def allow_snapshot(stored: int) -> int | None:
    """How many bytes a snapshot of `stored` bytes may unpack to; None: no limit."""
    return FLOOR + FOR_A_STORED_BYTE * stored if _Here.confined else None


def allow_file(database: int, stored: int) -> int | None:
    """How many bytes a database made from a snapshot of `database` bytes and `stored` bytes of changes may have.

    The system's limit for the size of a file is set accordingly. None: no limit.
    """
    if not _Here.confined:
        return None
    most = FLOOR + FOR_A_DATABASE_BYTE * database + FOR_A_STORED_BYTE * stored
    _soft(resource.RLIMIT_FSIZE, most + SPOOL)
    return most


def too_large(most: int) -> BeyondLimits:
    """The error for a database that grows beyond `most` bytes (see `allow_file`)."""
    return BeyondLimits(
        f"the database in this backup grows beyond {most // MIB} MiB, far more than a node's backup of this size holds"
    )


def long_statement(data_version: int, size: int) -> BeyondLimits:
    """The error for a change with a statement of `size` bytes, out of all proportion to the bytes of its backup."""
    return BeyondLimits(
        f"the change with data version {data_version} holds a statement of {size // MIB} MiB, which takes up to "
        f"{memory_for(size)} of memory, far more than what a node writes into a backup of this size"
    )


def out_of_memory() -> BeyondLimits | MemoryMissing:
    """The error for a MemoryError in a confined process."""
    if pulse.statement:
        return memory_missing(pulse.statement, pulse.change)
    return BeyondLimits(
        "reading this backup takes more memory than anything that a node writes, or than this machine has"
    )


def overflowing() -> BeyondLimits | None:
    """The error for temporary files that together exceed the limit for one file; None while they do not.

    The system limits each file by itself, but one statement can make SQLite sort hundreds of lists at a time: 2 kB of
    SQL took 7.6 GB.
    """
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if not _Here.confined or most == _NEVER or _temporary_bytes() <= most:
        return None
    return _overflowed(most)


def file_refused(system_error: int) -> BeyondLimits | None:
    """The error for a file that has reached the limit for one file, if that is what the system refused with this errno.

    On a fast disk a temporary file gets there between two looks at all of them, and SQLite speaks of its disk.
    """
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return _overflowed(most) if _Here.confined and most != _NEVER and system_error == errno.EFBIG else None


def _overflowed(most: int) -> BeyondLimits:
    return BeyondLimits(
        f"temporary files for this backup grow beyond {most // MIB} MiB, far more than a node's backup of this size "
        "needs"
    )


def _temporary_bytes() -> int:
    """Bytes of disk taken by this process's open files that have been unlinked. 0 if /proc cannot be read."""
    taken, seen = 0, set[int]()
    with suppress(OSError):
        for link in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # closed in the meantime
                found = os.fstat(int(link.name))
                if stat.S_ISREG(found.st_mode) and not found.st_nlink and found.st_ino not in seen:
                    seen.add(found.st_ino)
                    taken += found.st_blocks * 512
    return taken


def stuck(change: int | None, segment: int) -> BeyondLimits:
    """The error for work that makes no progress, with the change and segment where it is stuck, if they are known."""
    where = "" if change is None else f" at the change with data version {change}"
    where += f" in segment-{segment:08}" if change is not None and segment else ""
    return BeyondLimits(f"reading this backup got stuck{where}, so it was stopped")


def end_when_stuck(tell: Callable[[BeyondLimits], None]) -> None:
    """Watch this process from another thread: once its work is stuck or fills the disk with temporary files, call
    `tell` with the error, then end the process at once."""
    threading.Thread(target=_watch, args=(tell,), name="watch", daemon=True).start()


class StuckClock:
    """Measures the processor time that work has taken since it last made progress."""

    def __init__(self, used: Callable[[], float]) -> None:
        """`used` returns the total processor time, in seconds."""
        self._used = used
        self._beat: object = None
        self._since = used()
        self._stored = 0

    def saw(self, beat: object, stored: int) -> None:
        """Note how far the work is: `beat` changes with any progress. `stored`: the bytes of the whole backup."""
        if beat != self._beat:
            self._beat, self._since, self._stored = beat, self._used(), stored

    def stands_still(self) -> bool:
        """Whether the time since the last progress is more than any honest step takes."""
        return self._used() - self._since > STUCK_AFTER + self._stored / STUCK_BYTES_A_SECOND


def _watch(tell: Callable[[BeyondLimits], None]) -> None:
    clock = StuckClock(time.process_time)
    while True:
        time.sleep(WATCH_EVERY)
        clock.saw(pulse.beat(), pulse.total)
        error = overflowing() or (stuck(pulse.change, pulse.segment) if clock.stands_still() else None)
        if error is not None:
            tell(error)
            os._exit(1)


def _more_memory(heap: int, value: int) -> None:
    """SQLite may now allocate `heap` bytes, for a value of at most `value` bytes: raise the address space to match."""
    _soft(resource.RLIMIT_AS, ADDRESS_SPACE + heap + FOR_A_VALUE_BYTE * value)


def _set(kind: int, most: int) -> None:
    """Set a resource limit irrevocably: the hard limit too, unless that is already lower."""
    hard = resource.getrlimit(kind)[1]
    most = most if hard == _NEVER else min(most, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(kind, (most, most))


def _soft(kind: int, most: int) -> None:
    """Set only the soft limit: it is raised again as more is read."""
    hard = resource.getrlimit(kind)[1]
    with suppress(OSError, ValueError):
        resource.setrlimit(kind, (most if hard == _NEVER else min(most, hard), hard))


def _prctl(option: int, value: int) -> None:
    with suppress(OSError, AttributeError, ImportError):  # not Linux, or a Python without libffi
        import ctypes  # not at the top: the plugin imports this module and never needs ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
