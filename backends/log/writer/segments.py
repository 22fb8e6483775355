"""The segments of one writer: the current one, the next one, which is made ahead of use, and the retired ones.

The hook's thread moves from one segment to the next; the maintenance thread makes the next one and seals the retired
ones. The lock `slow` is for both, but the commit path takes it only if the next segment was not made ahead.
"""

import threading
from collections.abc import Callable
from dataclasses import replace

from backends.log.format.records import FileHeader
from backends.log.writer.options import LogOptions
from backends.log.writer.segment import Segment, create_next_segment
from backends.storage.base import Storage


class Segments:
    """Begins with the open segment `current`; `file` is the file header of this and of every later one, but for its
    number.

    `check` raises Fenced when another writer has taken over, and `fenced` makes that error. The caller must hold `slow`
    for `prepare`, `begin_generation`, `maintain` and `close`, and must not hold it for `for_record`.
    """

    def __init__(
        self,
        storage: Storage,
        file: FileHeader,
        current: Segment,
        slow: threading.Lock,
        options: LogOptions,
        check: Callable[[], None],
        fenced: Callable[[], Exception],
    ) -> None:
        self._storage, self._file, self._slow, self._options = storage, file, slow, options
        self._check, self._fenced = check, fenced
        self.current = current
        self._next: Segment | None = None
        self._retired: list[Segment] = []
        self._retired_bytes: dict[int, int] = {}

    def for_record(self, length: int) -> Segment:
        """The segment for a record with `length` bytes of SQL, once the current one is full or too small for it.

        If the next segment was not made ahead, a full one is used as long as the record fits. Raises OSError or Fenced.
        """
        if self._next is None:
            if self.current.fits(length):
                return self.current
            with self._slow:
                if self._next is None:  # otherwise the maintenance thread made it while we waited
                    self.prepare()
        return self.go_on()

    def go_on(self) -> Segment:
        """Go on in the next segment, which was made, and return it."""
        retired, prepared = self.current, self._next
        assert prepared is not None
        # In this order: when the maintenance thread finds no next segment, it must find the new one in `current`.
        # Otherwise it would make the new one again, in place of the one that is being written.
        self.current = prepared
        self._next = None
        self._retired_bytes[retired.index] = retired.end
        self._retired.append(retired)
        return prepared

    def prepare(self) -> Segment:
        """The next segment, made now if it does not exist yet. Raises OSError or Fenced."""
        if self._next is None:
            self._next = self._make_next()
        return self._next

    def _make_next(self) -> Segment:
        prepared = create_next_segment(
            self._storage, replace(self._file, number=self.current.index + 1), self._check, self._options
        )
        try:
            # Check again, now that the segment has its name: a writer that takes over first writes its mark and then
            # seals the segments that it sees.
            self._check()
            # If we were held up, we may have overwritten the other writer's mark: our sealed segment still shows it.
            if self.current.handle.is_fenced():
                raise self._fenced()
        except BaseException:
            prepared.handle.close()
            raise
        return prepared

    def encrypt(self, key_id: str) -> None:
        """Make every segment after the current one under this key. One that was made ahead of use is left behind."""
        self._file = replace(self._file, key=key_id)
        if self._next is not None:
            self._next.handle.close()
            self._next = None

    def begin_generation(self) -> None:
        """Go on in the next segment, and close the earlier ones, which belong to the old generation."""
        self.prepare()
        self.go_on()
        while self._retired:
            self._retired.pop().handle.close()

    def maintain(self) -> None:
        """Preallocate, make the next segment before this one is full, seal retired ones, let the storage tidy up.

        Raises OSError, Fenced.
        """
        self.current.preallocate()
        if self._next is None and (self.current.end > self._options.segment_size // 2 or self.current.cut_short):
            self.prepare()
        while self._retired:
            self._retired.pop().seal()
        self.current.handle.tidy()

    def set_retired_bytes(self, sizes: dict[int, int]) -> None:
        """Set the file size of each earlier segment of the generation, by index."""
        self._retired_bytes = sizes

    def bytes_since(self, first: int) -> int:
        """Bytes of the segments from index `first` on, without preallocated space in the current one; costs no I/O."""
        return self.current.end + sum(size for index, size in list(self._retired_bytes.items()) if index >= first)

    def close(self, *, failed: bool) -> None:
        """Close all segments. Unless the writer `failed`, also give back preallocated space and remove the unused next
        segment. Raises OSError or Fenced."""
        open_segments, prepared = [*self._retired, self.current], self._next
        self._next, self._retired = None, []
        for segment in open_segments:
            if failed:
                segment.handle.close()
            else:
                segment.close()
        if prepared is not None:
            prepared.handle.close()
            if not failed:
                self._check()
                prepared.remove()
