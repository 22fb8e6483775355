"""How much memory, processor time and disk the bytes of a backup may take, in proportion to what is stored.

No honest backup comes near these limits, and each is far below what a few kilobytes could take without them: 38 kB
doubled a table until it had 2.8 GiB. `--no-limits` lifts them, for whoever knows better.
"""

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
from backends.system.pulse import pulse

MIB = 1 << 20

FLOOR = 64 * MIB
"""Bytes that a database or one value of it may always have: forty times what the first call of a new node makes."""

FOR_A_DATABASE_BYTE = 8
"""Bytes that the rebuilt database may have for each of the snapshot's: a migration copies tables, one after the other,
and what it drops is used again; three were enough."""

FOR_A_STORED_BYTE = 256
"""Bytes that may become of a stored one: recorded calls shrink to a twelfth, the most alike ones to a hundredth."""

ADDRESS_SPACE = 512 * MIB
"""What Python and its libraries take (a third of it, measured, with all that is read ahead) beside SQLite's memory."""

FOR_A_VALUE_BYTE = 4
"""Bytes in Python for each of a large statement: its text, its bytes, and both once more while they are made."""

SPOOL = 1088 * MIB
"""A change of 1 GiB lies in a temporary file while it is executed."""

CPU_SECONDS = 3600
STORED_BYTES_A_SECOND = 4096
"""Processor time in all: an hour, and a second for each of so many stored bytes. A Raspberry Pi does a hundred times
as much."""

STUCK_AFTER = 120.0
"""Seconds of processor time without any sign that the work goes on. A value of a gigabyte takes a tenth of it."""

STUCK_BYTES_A_SECOND = MIB // 2
"""One step of SQLite's may go through a whole table (an index is built, a table dropped): a second more for each of so
many stored bytes of the backup."""

FILES = 4096

_NEVER = resource.RLIM_INFINITY
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38


ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""The environment of a confined process: malloc would reserve address space for each of its threads."""


class BeyondLimits(BackupError):
    """A backup would take more than anything that a node writes; nobody has proved that it is damaged."""

    exit_code = 3

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}. {_ANYWAY}")
        self.what = what


_ANYWAY = (
    "Nothing was made of it. Most likely this backup was altered or made by something else: start no node from it, and "
    "look for another copy. If you know that it is a node's own, repeat the command with --no-limits"
)
"""What is safe, and what to type, after any of these limits was met."""


class _Here:
    """What holds for this process."""

    confined = False
    lifted = False


def lift(lifted: bool) -> None:
    """Whether there are no limits in the processes that this one starts: somebody knows the backup, and said so."""
    _Here.lifted = lifted


def lifted() -> bool:
    """Whether that was said."""
    return _Here.lifted


def confine(*, limited: bool = True) -> None:
    """Limit this process for good, before it reads anything of a backup. Whatever the system does not know is left out.

    Not `limited`: only what no honest work can miss.
    """
    with suppress(OSError):  # the node beside it stays when memory runs out
        Path("/proc/self/oom_score_adj").write_text("1000")
    _set(resource.RLIMIT_CORE, 0)  # the database in its memory holds secrets
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if not limited:
        return
    _Here.confined = True
    _set(resource.RLIMIT_NOFILE, FILES)
    connection.limit_values(FLOOR, _more_memory)
    _more_memory(connection.MEMORY, 0)


def end_with_the_parent(parent: int) -> None:
    """Be killed when the process `parent`, which has started this one, dies."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def scale(stored: int) -> None:
    """A backup of so many stored bytes is going to be unpacked: limit what it may take. For a confined process only."""
    if not _Here.confined:
        return
    connection.limit_values(FLOOR + FOR_A_STORED_BYTE * stored, _more_memory)
    most = CPU_SECONDS + stored // STORED_BYTES_A_SECOND
    _set(resource.RLIMIT_CPU, most)
    allow_file(0, stored)


def allow_snapshot(stored: int) -> int | None:
    """How many bytes a snapshot of so many stored ones may unpack to. None: as many as there is room for."""
    return FLOOR + FOR_A_STORED_BYTE * stored if _Here.confined else None


def allow_file(database: int, stored: int) -> int | None:
    """How many bytes a database may have that is made of a snapshot of `database` bytes and `stored` bytes of changes.

    The system's limit for a file is set accordingly. None: as many as there is room for.
    """
    if not _Here.confined:
        return None
    most = FLOOR + FOR_A_DATABASE_BYTE * database + FOR_A_STORED_BYTE * stored
    _soft(resource.RLIMIT_FSIZE, most + SPOOL)
    return most


def too_large(most: int) -> BeyondLimits:
    """The error for a database that grows beyond what `allow_file` gave it."""
    return BeyondLimits(
        f"the database in this backup grows beyond {most // MIB} MiB, far more than a node makes of so few bytes"
    )


def out_of_memory() -> BeyondLimits:
    """The error for a MemoryError in a confined process."""
    return BeyondLimits(
        "reading this backup takes more memory than anything that a node writes, or than this machine has"
    )


def overflowing() -> BeyondLimits | None:
    """The error for temporary files that are larger together than a file may be; None while they are not.

    The system limits each file, and one statement can have SQLite sort hundreds of lists at a time: 2 kB took 7.6 GB.
    """
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if not _Here.confined or most == _NEVER or _temporary_bytes() <= most:
        return None
    return BeyondLimits(
        f"temporary files for this backup grow beyond {most // MIB} MiB, far more than a node makes of so few bytes"
    )


def _temporary_bytes() -> int:
    """Disk that this process's files take which have no name any more. 0 where /proc does not tell."""
    taken, seen = 0, set[int]()
    with suppress(OSError):
        for link in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                found = os.fstat(int(link.name))
                if stat.S_ISREG(found.st_mode) and not found.st_nlink and found.st_ino not in seen:
                    seen.add(found.st_ino)
                    taken += found.st_blocks * 512
    return taken


def stuck(change: int | None, segment: int) -> BeyondLimits:
    """The error for work that does not go on, with the place where it stands still, as far as that is known."""
    where = "" if change is None else f", at the change with data version {change}"
    where += f" in segment-{segment:08}" if change is not None and segment else ""
    return BeyondLimits(f"reading this backup does not come to an end{where}: it was stopped")


def end_when_stuck(tell: Callable[[BeyondLimits], None]) -> None:
    """Watch this process from another thread: once its work stands still or fills the disk with temporary files, `tell`
    why, and end it at once."""
    threading.Thread(target=_watch, args=(tell,), name="watch", daemon=True).start()


class StuckClock:
    """How much processor time work has taken since it last showed that it goes on; `used` tells how much in all."""

    def __init__(self, used: Callable[[], float]) -> None:
        self._used = used
        self._beat: object = None
        self._since = used()
        self._stored = 0

    def saw(self, beat: object, stored: int) -> None:
        """Where the work is, on a backup of so many bytes."""
        if beat != self._beat:
            self._beat, self._since, self._stored = beat, self._used(), stored

    def stands_still(self) -> bool:
        """Whether it has taken more than any honest step does."""
        return self._used() - self._since > STUCK_AFTER + self._stored / STUCK_BYTES_A_SECOND


def _watch(tell: Callable[[BeyondLimits], None]) -> None:
    clock = StuckClock(time.process_time)
    while True:
        time.sleep(1)
        clock.saw(pulse.beat(), pulse.total)
        error = overflowing() or (stuck(pulse.change, pulse.segment) if clock.stands_still() else None)
        if error is not None:
            tell(error)
            os._exit(1)


def _more_memory(heap: int, value: int) -> None:
    """SQLite may have a heap of that size now, for a value of at most so many bytes."""
    _soft(resource.RLIMIT_AS, ADDRESS_SPACE + heap + FOR_A_VALUE_BYTE * value)


def _set(kind: int, most: int) -> None:
    """For good: also the hard limit, unless that is lower already."""
    hard = resource.getrlimit(kind)[1]
    most = most if hard == _NEVER else min(most, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(kind, (most, most))


def _soft(kind: int, most: int) -> None:
    """For now: it grows with what is read."""
    hard = resource.getrlimit(kind)[1]
    with suppress(OSError, ValueError):
        resource.setrlimit(kind, (most if hard == _NEVER else min(most, hard), hard))


def _prctl(option: int, value: int) -> None:
    with suppress(OSError, AttributeError, ImportError):  # another system than Linux, a Python without libffi
        import ctypes  # the plugin imports this module, and has no use for that one

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
