"""Writing a large file beside a node that commits to the same disk: its bytes reach the disk in portions."""

from backends.log.writer.pace import Pace
from backends.storage.base import WriteHandle

_BLOCK = 4096
"""Portions end at multiples of this, so that none writes a block that the next one has to write again."""


class PacedFile:
    """A file that is written from its beginning to its end. `pace` is None when nobody commits meanwhile.

    `sync_every` is how many bytes there are between two syncs, at most. `syncs_cost` says that each sync has a price,
    besides its time: then no portion is smaller.
    """

    def __init__(self, handle: WriteHandle, sync_every: int, pace: Pace | None, *, syncs_cost: bool = False) -> None:
        self._handle, self._sync_every, self._pace, self._syncs_cost = handle, sync_every, pace, syncs_cost
        self._end = self._out = self._synced = 0

    def write(self, data: bytes) -> None:
        """Append these bytes. Raises OSError."""
        if self._pace is None or self._syncs_cost:
            self._append(data)
        else:
            self._append_in_portions(data, self._pace)
        if self._end - self._synced >= self._sync_every:
            self.sync()

    def _append(self, data: bytes) -> None:
        self._handle.write(self._end, data)
        self._end += len(data)

    @property
    def end(self) -> int:
        """How many bytes the file has."""
        return self._end

    @property
    def synced(self) -> int:
        """How many bytes of the file are durable."""
        return self._synced

    def _append_in_portions(self, data: bytes, pace: Pace) -> None:
        """Append these bytes; what makes a portion is brought to the disk before more is written."""
        while data:
            portion_ends = (self._out + min(pace.next.portion, self._sync_every)) // _BLOCK * _BLOCK
            here = max(portion_ends - self._end, 0)
            self._append(data[:here])
            data = data[here:]
            if self._end >= portion_ends:
                self._bring_out(pace)

    def _bring_out(self, pace: Pace) -> None:
        """Bring to the disk what was written."""
        began, size = pace.now(), self._end - self._out
        if not pace.flushed and self._handle.write_out(self._out, size):
            self._out = self._end
            pace.wrote(size, began)
        else:
            pace.flushed = True
            self.sync()

    def sync(self) -> None:
        """Make everything durable that was written. Raises OSError."""
        if self._pace is not None:
            self._pace.give_way()
            began, size = self._pace.now(), self._end - self._out
        self._handle.sync()
        self._out = self._synced = self._end
        if self._pace is not None:
            self._pace.wrote(size, began)
