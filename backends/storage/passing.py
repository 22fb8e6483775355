"""A file that is read once, from its beginning to its end, on a machine whose memory is needed for something else."""

from backends.storage.base import ReadHandle

DROPPED_AT_ONCE = 1 << 20
"""Bytes."""


class Passing(ReadHandle):
    """An open file of which nothing stays in this machine's memory after it was read."""

    def __init__(self, handle: ReadHandle) -> None:
        self._handle = handle
        self._dropped = 0

    def size(self) -> int:
        return self._handle.size()

    def read(self, offset: int, length: int) -> bytes:
        until = offset // DROPPED_AT_ONCE * DROPPED_AT_ONCE
        if until > self._dropped:
            # From the beginning: the kernel drops no part of a folio, and one may be larger than this step.
            self._handle.drop_cached(0, until)
            self._dropped = until
        return self._handle.read(offset, length)

    def close(self) -> None:
        self._handle.close()
