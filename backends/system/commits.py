"""When this process commits and how long that takes, in a page that a compaction can read from another process.

A compaction writes to the same disk as the commits, and yields to them: it has to know when one is under way. The page
costs the commit path a few stores to memory. Whoever reads it believes nothing that could make it wait for ever: the
process that writes it may hang or be dead.
"""

import fcntl
import mmap
import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

KEPT = 64
"""How many of the last commits the page remembers."""

_BEGUN, _ENDED, _BYTES, _RING = 0, 1, 2, 3
"""Cells of the page: commits begun, commits ended, bytes of the log that they wrote; then _RING pairs."""

_PAGE = mmap.PAGESIZE
_CELL = 8


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit, in seconds of the monotonic clock (which all processes of a machine share)."""

    began: float
    took: float


class CommitTimes:
    """The commits of one process, read from its page. Any thread and any process may read at any time.

    Whatever stands in the page, no method raises, and none waits.
    """

    def __init__(self, page: "bytearray | mmap.mmap") -> None:
        self._cells = memoryview(page).cast("Q")

    @property
    def begun(self) -> int:
        """How many commits have begun."""
        return self._cells[_BEGUN]

    @property
    def ended(self) -> int:
        """How many commits have ended."""
        return self._cells[_ENDED]

    @property
    def written(self) -> int:
        """How many bytes the ended commits have added to the log."""
        return self._cells[_BYTES]

    @property
    def under_way(self) -> bool:
        """Whether a commit is being made at this moment."""
        return self._cells[_BEGUN] != self._cells[_ENDED]

    def since(self, ended: int) -> list[Commit]:
        """The commits that ended after the first `ended` ones, oldest first; of many, the last ones."""
        now = self.ended
        found = []
        for number in range(max(ended, now - KEPT + 1, 0), now):
            at = _RING + 2 * (number % KEPT)
            began, until = self._cells[at], self._cells[at + 1]
            if 0 < began <= until:
                found.append(Commit(began / 1e9, (until - began) / 1e9))
        return found

    def usual(self) -> float | None:
        """The median of the commits that the page remembers, in seconds; None when they are too few to tell."""
        took = [commit.took for commit in self.since(0)]
        return statistics.median(took) if len(took) >= _ENOUGH else None


_ENOUGH = 5


class Commits(CommitTimes):
    """The commits of this process: the thread that commits calls `begin` and `end`."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        super().__init__(bytearray(_PAGE))
        self._clock = clock
        self._shared: int | None = None
        self._began = self._log_end = 0

    def begin(self) -> None:
        """A commit begins."""
        self._began = self._clock()
        self._cells[_BEGUN] += 1

    def end(self, log_end: int) -> None:
        """The commit has ended; the file that it was written to ends at byte `log_end`."""
        cells = self._cells
        at = _RING + 2 * (cells[_ENDED] % KEPT)
        cells[at], cells[at + 1] = self._began, self._clock()
        cells[_BYTES] += log_end - self._log_end if log_end > self._log_end else 0
        self._log_end = log_end
        cells[_ENDED] = cells[_BEGUN]

    def share(self) -> int | None:
        """A descriptor through which another process may read the page, from now on; None where that is impossible.

        Nobody can change the page through it, or shrink it, which would end this process by a signal.
        """
        if self._shared is None:
            with suppress(OSError, AttributeError):  # a sandbox may forbid it
                self._shared = self._move()
        return self._shared

    def _move(self) -> int:
        """Move the page into memory that has a descriptor. A commit that ends meanwhile may be missed: it is only
        counted. Raises OSError; AttributeError where there is no such memory."""
        memory = os.memfd_create("commits", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(memory, _PAGE)
            page = mmap.mmap(memory, _PAGE)
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            shared = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(memory)
        page[:] = bytes(self._cells)
        self._cells = memoryview(page).cast("Q")
        return shared


def read_shared(descriptor: int) -> CommitTimes | None:
    """The commits of the process that shared its page through this descriptor; None if it cannot be read."""
    try:
        return CommitTimes(mmap.mmap(descriptor, _PAGE, prot=mmap.PROT_READ))
    except (OSError, ValueError):
        return None


commits = Commits()
"""The commits of this process."""
