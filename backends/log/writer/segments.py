"""The segments of one writer: the one that is written, the next one, made ahead of use, and those that were left.

The hook's thread goes from one segment to the next; the maintenance thread makes the next one and seals the last. They
meet in `slow`, which the commit path only takes when nothing was made ahead.
"""

import threading
from collections.abc import Callable

from backends.log.writer.options import LogOptions
from backends.log.writer.segment import Segment, create_next_segment
from backends.storage.base import Storage


class Segments:
    """Begins with the open segment `current`.

    `check` raises Replaced when another writer has taken over, and `fenced` makes that error. All methods but
    `for_record` want the caller to hold `slow`.
    """

    def __init__(
        self,
        storage: Storage,
        backup_id: bytes,
        current: Segment,
        slow: threading.Lock,
        options: LogOptions,
        check: Callable[[], None],
        fenced: Callable[[], Exception],
    ) -> None:
        self._storage, self._backup_id, self._slow, self._options = storage, backup_id, slow, options
        self._check, self._fenced = check, fenced
        self.current = current
        self._next: Segment | None = None
        self._retired: list[Segment] = []
        self._retired_bytes: dict[int, int] = {}

    def for_record(self, length: int) -> Segment:
        """The segment that takes a record with `length` bytes of SQL. Raises OSError or Replaced.

        Without one made ahead it stays with the current one as long as the record fits.
        """
        current = self.current
        if not current.full and current.fits(length):
            return current
        if self._next is None:
            if current.fits(length):
                return current
            with self._slow:
                if self._next is None:  # else the maintenance thread made it while we waited
                    self.prepare()
        return self._go_on()

    def _go_on(self) -> Segment:
        left, prepared = self.current, self._next
        assert prepared is not None
        # In this order: a maintenance thread that finds nothing prepared must find the new segment here, or it would
        # make that one again, in the place of the one that is written to.
        self.current = prepared
        self._next = None
        self._retired_bytes[left.index] = left.end
        self._retired.append(left)
        return prepared

    def prepare(self) -> Segment:
        """The next segment, made now if it is not there yet. Raises OSError or Replaced."""
        if self._next is None:
            self._next = self._make_next()
        return self._next

    def _make_next(self) -> Segment:
        prepared = create_next_segment(
            self._storage, self._backup_id, self.current.index + 1, self._check, self._options
        )
        try:
            # Again, now that it has its name: a writer that takes over seals what it sees, and only after its mark.
            self._check()
            # A writer that was held up may have put its own mark back: the segment in its hands tells.
            if self.current.handle.is_fenced():
                raise self._fenced()
        except BaseException:
            prepared.handle.close()
            raise
        return prepared

    def begin_generation(self) -> None:
        """Go on in the next segment; the ones before are of the old generation, and closed."""
        self.prepare()
        self._go_on()
        while self._retired:
            self._retired.pop().handle.close()

    def maintain(self) -> None:
        """Zeros ahead of use, the next segment before this one is full, those that were left sealed. Raises OSError."""
        self.current.preallocate()
        if self._next is None and self.current.end > self._options.segment_size // 2:
            self.prepare()
        while self._retired:
            self._retired.pop().seal()

    def set_retired_bytes(self, sizes: dict[int, int]) -> None:
        """The bytes of each earlier segment of the generation, by index, as they lie at the destination."""
        self._retired_bytes = sizes

    def bytes_since(self, first: int) -> int:
        """Bytes of records in the segments from index `first` on; costs no I/O."""
        return self.current.end + sum(size for index, size in list(self._retired_bytes.items()) if index >= first)

    def close(self, *, failed: bool) -> None:
        """Trim what was preallocated, unless nothing here may be touched any more. Raises OSError or Replaced."""
        open_segments, prepared = [*self._retired, self.current], self._next
        self._next, self._retired = None, []
        for segment in open_segments:
            if failed:
                segment.handle.close()
            else:
                segment.seal()
        if prepared is not None:
            prepared.handle.close()
            if not failed:
                self._check()
                prepared.remove()
