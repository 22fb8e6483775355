"""Files that are open for reading.

A chain's objects never change, so a reader sees one file whatever happens to its name. Its end is looked for again when
a read gets there: a writer may have added to it.
"""

import errno
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor

from backends.errors import Damaged
from backends.storage.base import ReadHandle
from backends.storage.deadline import carried
from backends.storage.objects.chain import Layout, Part, extent_key, grow, read_layout
from backends.storage.objects.kept import keep_object, kept_object, layout_of
from backends.storage.objects.store import ObjectStore
from backends.system import spool

_SMALL = 256 << 10
"""An object of at most this many bytes is read as a whole, with its neighbours and in parallel."""
_WINDOW = 256 << 10
_MAX_WINDOW = 4 << 20
"""How many bytes are read ahead: the more of the file was read in order, the more."""
_MAX_WINDOWS = 3
"""Of how many files what was read ahead is kept: the log of a generation is many open files."""
_ATTEMPTS = 5
_MAX_KEPT = 4 << 20
_KEPT_FOR = 60.0
_OVERHEAD = 200
"""Bytes of memory that an object takes besides its own."""
_FRESH = 1.0
"""For how many seconds the first question about a file that was just opened is answered without asking again."""


class ContentReadHandle(ReadHandle):
    """A small file, whose content came with its name."""

    def __init__(self, content: bytes, name: str) -> None:
        self._content: bytes | None = content
        self._name = name

    def size(self) -> int:
        return len(self._bytes())

    def read(self, offset: int, length: int) -> bytes:
        return self._bytes()[offset : offset + length]

    def _bytes(self) -> bytes:
        if self._content is None:
            raise closed(self._name)
        return self._content

    def close(self) -> None:
        self._content = None


class ReadAhead:
    """What the files of one storage keep in memory, which stays bounded.

    The windows of the last few files, and the last small objects. A start reads the last segment three times, and
    objects never change.
    """

    def __init__(self) -> None:
        self._last: deque[weakref.ref[ChainReadHandle]] = deque()
        self._objects: dict[str, bytes] = {}
        self._bytes = 0
        self._used = time.monotonic()
        self._changing = threading.Lock()

    def small(self, store: ObjectStore, keys: Sequence[str]) -> Iterator[bytes]:
        """Small objects, in this order."""
        kept = spool.current()
        with self._changing:
            known = {key: data for key in keys if (data := self._objects.get(key)) is not None}
        if kept is not None:
            for key in keys:
                if key not in known and (data := kept_object(store, key, kept)) is not None:
                    known[key] = data
        self._used = time.monotonic()
        fetched = store.read_many([key for key in keys if key not in known])
        for key in keys:
            data = known.get(key)
            if data is None:
                data = next(fetched)
                if kept is None or not keep_object(store, key, data, kept):
                    self._keep(key, data)
            yield data

    def layout(self, store: ObjectStore, chain: str) -> Layout:
        """The layout of a chain now."""
        kept = spool.current()
        return read_layout(store, chain) if kept is None else layout_of(store, chain, kept)

    def _keep(self, key: str, data: bytes) -> None:
        with self._changing:
            self._bytes += len(data) + _OVERHEAD - self._drop(key)
            self._objects[key] = data
            while self._bytes > _MAX_KEPT:
                self._bytes -= self._drop(next(iter(self._objects)))

    def _drop(self, key: str) -> int:
        data = self._objects.pop(key, None)
        return 0 if data is None else len(data) + _OVERHEAD

    def forget_old(self) -> None:
        """Forget the small objects if none was read lately: a writer only reads when it starts."""
        if self._objects and time.monotonic() - self._used > _KEPT_FOR:
            with self._changing:
                self._objects.clear()
                self._bytes = 0

    def reads(self, handle: "ChainReadHandle") -> None:
        """Called by a file that has read ahead."""
        with self._changing:
            if self._last and self._last[-1]() is handle:
                return
            self._last.append(weakref.ref(handle))
            while len(self._last) > _MAX_WINDOWS:
                other = self._last.popleft()()
                if other is not None and all(each() is not other for each in self._last):
                    other.forget()


class ChainReadHandle(ReadHandle):
    """A file whose bytes are in a chain. `size` is what its name says of its size: the rest are zeros."""

    def __init__(
        self,
        store: ObjectStore,
        executor: Callable[[], Executor],
        read_ahead: ReadAhead,
        chain: str,
        size: int,
        name: str,
    ) -> None:
        self._store, self._executor, self._read_ahead = store, executor, read_ahead
        self._chain, self._named_size, self._name = chain, size, name
        self._window, self._ahead = (0, b""), _WINDOW
        self._layout = read_ahead.layout(store, chain)
        self._fresh_until = time.monotonic() + _FRESH
        self._open = True

    def size(self) -> int:
        layout = self._look_again()
        return max(layout.end + layout.incomplete, self._named_size)

    def read(self, offset: int, length: int) -> bytes:
        if not self._open:
            raise closed(self._name)
        if length <= 0:
            return b""
        layout = self._layout
        if offset + length > layout.end:
            layout = self._look_again()
            if layout.incomplete and offset >= layout.end:
                raise self._missing(layout)
        stop = min(offset + length, layout.end if layout.incomplete else max(layout.end, self._named_size))
        data = self._stored(offset, min(stop, layout.end))
        return data + bytes(max(stop - offset - len(data), 0))

    def _stored(self, start: int, stop: int) -> bytes:
        """Bytes of the chain, all of which exist."""
        if start >= stop:
            return b""
        first, window = self._window
        if start < first or stop > first + len(window):
            in_order = window and first <= start <= first + len(window)
            self._ahead = min(self._ahead * 2, _MAX_WINDOW) if in_order else _WINDOW
            self._window = first, window = self._fetch(start, stop)
            self._read_ahead.reads(self)
        return window[start - first : stop - first]

    def _fetch(self, start: int, stop: int) -> tuple[int, bytes]:
        """A window with these bytes and some more, and the byte that it begins with."""
        for _ in range(_ATTEMPTS):
            parts = self._layout.within(start, min(max(stop, start + self._ahead), self._layout.end))
            try:
                data = b"".join(self._pieces(parts, start, max(stop, start + self._ahead)))
            except FileNotFoundError:  # merged meanwhile, or the file was removed long ago
                self._look_again(whole=True)
                continue
            return (parts[0].start if parts[0].size <= _SMALL else start), data
        raise self._gone()

    def forget(self) -> None:
        """Forget what was read ahead. May be called from any thread."""
        self._window = 0, b""

    def _missing(self, layout: Layout) -> Damaged:
        """What comes before the gap can be read, but must not pass for the whole file."""
        key = extent_key(self._chain, layout.next)
        what = f"the object {key} is missing, and later ones are there: something has deleted it;"
        return Damaged(what, self._name, layout.end)

    def _gone(self) -> OSError:
        return FileNotFoundError(errno.ENOENT, "the file was removed while it was read", self._name)

    def _pieces(self, parts: list[Part], start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` to `stop`; small objects as a whole."""
        number = 0
        while number < len(parts):
            small = number
            while small < len(parts) and parts[small].size <= _SMALL:
                small += 1
            if small > number:
                for part, data in zip(
                    parts[number:small],
                    self._read_ahead.small(self._store, [part.key for part in parts[number:small]]),
                    strict=True,
                ):
                    yield self._whole(data, part.size)
                number = small
                continue
            part = parts[number]
            first, last = max(start, part.start), min(stop, part.end)
            yield from self._ranges(part, first - part.start, last - part.start)
            number += 1

    def _ranges(self, part: Part, first: int, last: int) -> Iterator[bytes]:
        """A range of one large object, in parallel if it is long."""
        step = _MAX_WINDOW // 4
        ranges = [(offset, min(step, last - offset)) for offset in range(first, last, step)]
        if len(ranges) == 1:
            yield self._whole(self._store.read(part.key, *ranges[0]), ranges[0][1])
            return
        reads = [self._executor().submit(carried(self._store.read), part.key, *one) for one in ranges]
        for (_, length), read in zip(ranges, reads, strict=True):
            yield self._whole(read.result(), length)

    def _whole(self, data: bytes, length: int) -> bytes:
        if len(data) != length:
            raise OSError(errno.EIO, "the store returned another number of bytes than it has listed", self._name)
        return data

    def _look_again(self, *, whole: bool = False) -> Layout:
        """The chain's layout now. Raises FileNotFoundError if some of it is gone: the file was removed long ago."""
        if not self._open:
            raise closed(self._name)
        before = self._layout
        fresh, self._fresh_until = time.monotonic() < self._fresh_until, 0.0
        if not whole and (fresh or before.fenced):
            return before
        layout = read_layout(self._store, self._chain) if whole else grow(self._store, self._chain, before)
        if layout.end < before.end:
            raise self._gone()
        self._layout = layout
        return layout

    def close(self) -> None:
        self._open = False
        self._window = 0, b""


def closed(name: str) -> OSError:
    """The error for a handle that is used after `close`."""
    return OSError(errno.EBADF, os.strerror(errno.EBADF), name)
