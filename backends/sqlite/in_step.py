"""A check of a database in step with somebody who reads the same file from its beginning to its end.

So that both find a page in memory that one of them has read, neither gets far ahead: the check waits until what it is
going to look at has been read, and the reader waits until that was checked.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import suppress

from backends.log.reader.snapshot import PIECE
from backends.sqlite.sparing import forgetful, read_in_tree_order

AHEAD = 1 << 20
"""Bytes that are read ahead for the reader, who does not leave that to the kernel: it would keep them in pieces of
megabytes, and keeps or drops a piece as a whole."""


class InStep:
    """What the two tell each other. Either side may end; then the other one goes on alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._read = 0
        self._allowed = 0
        self._check_ended = self._reader_ended = False

    def may_read(self, until: int) -> bool:
        """For the reader: it has read all before this offset but the last piece, and waits until it may go on.

        False if the check has ended.
        """
        with self._changed:
            self._read = until
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._check_ended or until <= self._allowed)
            return not self._check_ended

    def end_reading(self) -> None:
        """For the reader, or whoever gives up: nothing more is read."""
        with self._changed:
            self._reader_ended = True
            self._changed.notify_all()

    def wait_until_read(self, until: int, ahead: int) -> None:
        """For the check: wait until everything before this offset was read; so many bytes more may be read."""
        with self._changed:
            self._allowed = max(self._allowed, until + ahead)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._reader_ended or self._read >= until)

    def end_check(self) -> None:
        """For the check: it is complete, or goes on in another way."""
        with self._changed:
            self._check_ended = True
            self._changed.notify_all()


def pieces_in_step(descriptor: int, size: int, step: InStep) -> Iterator[bytes]:
    """The first `size` bytes of the file in pieces of PIECE bytes; less if it ends before. Raises OSError."""
    forget = forgetful(descriptor, size)
    done, together = 0, None
    try:
        while done < size:
            before, together = together, step.may_read(done)
            if together and not before:
                read_in_tree_order(descriptor)
            elif before and not together:
                _advise(descriptor, 0, 0, os.POSIX_FADV_NORMAL)
            if together and done % AHEAD == 0:
                _advise(descriptor, done, 2 * AHEAD, os.POSIX_FADV_WILLNEED)
            piece = os.pread(descriptor, min(PIECE, size - done), done)
            if not piece:
                return
            yield piece
            done += len(piece)
            if not together:
                forget(done)
    finally:
        step.end_reading()


def _advise(descriptor: int, start: int, length: int, advice: int) -> None:
    with suppress(OSError):  # then it is slower
        os.posix_fadvise(descriptor, start, length, advice)
