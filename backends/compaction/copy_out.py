"""Writes the copy of a database to the node's disk before the kernel does, which would do it all at once.

A compaction rebuilds the database in a file that it removes at the end, and nothing needs it on the disk. But after 30
seconds in memory the kernel writes it: hundreds of megabytes in one go, in which commits took 80 to 230 ms. A small
copy is gone by then.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from backends.log.writer.pace import Pace

BEGIN_AFTER = 10.0
"""Seconds. What was written to the file within the 20 seconds after that, the kernel has not begun to write yet."""

AT_ONCE = 1 << 20
"""Bytes that are written out each time that another piece of the database (a quarter of that) has been dealt with."""


class CopyOut:
    """Brings the file `copy`, which need not exist yet, to the disk in portions, and yields to commits as `pace` says.

    Best effort: where that is impossible, the kernel writes the file as it likes.
    """

    def __init__(self, copy: Path, pace: Pace | None, *, begin_after: float | None = None) -> None:
        """It begins after `begin_after` seconds, or after BEGIN_AFTER."""
        self._copy, self._pace = copy, pace
        self._next = time.monotonic() + (BEGIN_AFTER if begin_after is None else begin_after)
        self._descriptor: int | None = None
        self._out = 0

    def __enter__(self) -> "CopyOut":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def go_on(self) -> None:
        """Write out some more, if it is time. Raises nothing."""
        if self._pace is None or time.monotonic() < self._next:
            return
        with suppress(OSError):  # the one who writes the file is told, too
            self._go_on(self._pace)

    def _go_on(self, pace: Pace) -> None:
        from backends.system.write_out import is_able, write_out

        if self._descriptor is None:
            self._descriptor = os.open(self._copy, os.O_RDONLY | os.O_CLOEXEC)
            if not is_able(self._descriptor):
                self._pace = None
                return
        until = min(self._out + AT_ONCE, os.fstat(self._descriptor).st_size)
        while self._out < until:
            began, size = pace.now(), min(pace.next.portion, until - self._out)
            write_out(self._descriptor, self._out, size)
            self._out += size
            pace.wrote(size, began)
        if self._out == os.fstat(self._descriptor).st_size:  # once more later: changes are being replayed into it
            self._out, self._next = 0, time.monotonic() + BEGIN_AFTER
