"""Files that are open for writing: what is added at the end becomes extents, and everything else is rare.

A durable write is one request: the creation of the next extent. Zeros at the end of a file are not stored. They are
there to be written over, and only the size in the name object tells of them.
"""

import errno
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, suppress
from typing import Protocol

from backends.storage.base import TEMPORARY, FileFenced, WriteHandle
from backends.storage.deadline import carried, for_a_message
from backends.storage.objects.chain import extent_key, new_chain
from backends.storage.objects.merging import MERGE_AT, merge
from backends.storage.objects.names import File, Names
from backends.storage.objects.reading import ChainReadHandle, closed
from backends.storage.objects.store import Changed, Exists, ObjectStore
from backends.storage.objects.upkeep import Upkeep

EXTENT = 4 << 20
"""The most bytes of an extent. A larger write becomes several."""
_IN_FLIGHT = 2
"""How many extents are uploaded at a time; with one that is being filled, that bounds the memory. Only of a file that
has no final name yet: a process that is killed leaves no gap in the others, and so a gap there is damage."""


class Directory(Protocol):
    """What an open file needs of the storage that it belongs to."""

    store: ObjectStore
    files: Names

    def executor(self) -> Executor:
        """Threads for uploads."""

    def reader(self, chain: str, name: str) -> ChainReadHandle:
        """Open a chain for reading."""

    def moved(self, before: str, handle: "ObjectWriteHandle") -> None:
        """The file goes on in another chain."""

    def let_go(self, handle: "ObjectWriteHandle") -> None:
        """The file was closed."""

    upkeep: Upkeep

    def sweep_if_due(self) -> None:
        """Have what nobody needs any more deleted, if it is time for that."""


class ObjectWriteHandle(WriteHandle):
    """A file that is open for writing, in a chain that this process began.

    One thread writes. Others may `extend`, `tidy` and rename meanwhile; they share `_meta`, which a commit never takes.
    """

    def __init__(self, directory: Directory, name: str, version: str, chain: str) -> None:
        self._directory, self.name, self.chain = directory, name, chain
        self._store = directory.store
        self.version = version
        """The version of the name object."""
        self._named_size = 0
        self._size = 0
        self._next, self._end = 0, 0
        """The number of the next extent, and how many bytes are in those before it."""
        self._buffer = bytearray()
        """What follows them and is not uploaded yet."""
        self._uploads: deque[Future[None]] = deque()
        self._merged = 0
        """The number of the first extent that was not merged yet."""
        self._meta = threading.RLock()
        self._removed = self._failed = False
        self._open = True

    # Writing

    def write_durably(self, offset: int, data: bytes) -> None:
        self._check()
        if offset == self._end and not self._buffer and not self._uploads and 0 < len(data) <= EXTENT:
            self._create(self._next, data)
            self._next += 1
            self._end += len(data)
            self._size = max(self._size, self._end)
            if self._removed:
                raise FileFenced(self.name)
        else:
            self.write(offset, data)
            self.sync()

    def _create(self, number: int, data: bytes) -> None:
        """Create one extent. Raises FileFenced; after any error, nothing more can be written."""
        key, until = extent_key(self.chain, number), self._store.would_end()
        try:
            self._store.create(key, data)
        except Exists as error:
            self._failed = True
            if self._may_be_fence(key, until):
                raise FileFenced(self.name) from None
            raise OSError(errno.EIO, "somebody else writes to this file", self.name) from error
        except BaseException:
            self._failed = True
            raise

    def _may_be_fence(self, key: str, until: float) -> bool:
        """Whether the object in the place of the next extent is empty, as a fence is. Nothing is written in any case.

        If the store does not say so before `until`, it is taken for one: only a writer that takes the file over knows
        this chain, and the operator must hear of that rather than of a slow store.
        """
        try:
            with for_a_message(until):
                return not self._store.get(key).data
        except OSError:
            return True

    def write(self, offset: int, data: bytes) -> None:
        self._check()
        if not data:
            return
        tip = self._end + len(self._buffer)
        if offset < tip:
            self._overwrite(offset, data)
        elif data.count(0) != len(data):
            for zeros in _zeros(offset - tip):
                self._add(zeros)
            for start in range(0, len(data), EXTENT):
                self._add(data[start : start + EXTENT])
        self._size = max(self._size, offset + len(data))

    def _add(self, data: bytes) -> None:
        if len(self._buffer) + len(data) > EXTENT:
            self._upload()
        self._buffer += data

    def _upload(self) -> None:
        """Begin to upload what is in the buffer."""
        if not self._buffer:
            return
        while len(self._uploads) >= (_IN_FLIGHT if self.name.endswith(TEMPORARY) else 1):
            self._uploads.popleft().result()
        data, number = bytes(self._buffer), self._next
        self._uploads.append(self._directory.executor().submit(carried(self._create), number, data))
        self._buffer.clear()
        self._next += 1
        self._end += len(data)

    def _flush(self) -> None:
        """Make all bytes durable. Raises FileFenced, OSError."""
        if self._buffer and not self._uploads:
            data = bytes(self._buffer)
            self._create(self._next, data)
            self._next, self._end = self._next + 1, self._end + len(data)
            self._buffer.clear()
        self._upload()
        while self._uploads:
            self._uploads.popleft().result()

    def sync(self) -> None:
        self._check()
        self._flush()
        if self._named_size > self._size or self._size > max(self._named_size, self._end):
            self._point_to(File(None, self.chain, self._size))

    def flush(self) -> None:
        """Let others see what was written. Does nothing, and takes no lock, if they do already."""
        if self._open and not self._failed and not self._removed:
            self.sync()

    # Zeros at the end, and what else is rare

    def extend(self, offset: int, length: int) -> None:
        self._check()
        self._size = max(self._size, offset + length)
        if self._size > self._end + len(self._buffer):
            self._point_to(File(None, self.chain, self._size))

    def truncate(self, size: int) -> None:
        self._check()
        tip = self._end + len(self._buffer)
        if size < self._end:
            self._replace(self._blocks(size))
        elif size < tip:
            del self._buffer[size - self._end :]
        self._size = size

    def _overwrite(self, offset: int, data: bytes) -> None:
        """Write over bytes that were written before; the rest of `data` follows them."""
        if offset >= self._end:
            at = offset - self._end
            replaced = min(len(data), len(self._buffer) - at)
            self._buffer[at : at + replaced] = data[:replaced]
        else:
            end = self._end + len(self._buffer)
            replaced = min(len(data), end - offset)
            self._replace(_patched(self._blocks(end), offset, data[:replaced]))
        if replaced < len(data):
            self.write(offset + replaced, data[replaced:])

    def _blocks(self, end: int) -> Iterator[bytes]:
        """The file's bytes up to `end`."""
        reader = self._directory.reader(self.chain, self.name)
        try:
            yield from reader.blocks(0, end)
        finally:
            reader.close()

    def _replace(self, content: Iterator[bytes]) -> None:
        """Go on in a new chain with this content, at which the name then points.

        The old chain gets a fence first. A writer that takes the file over marks the name object before it puts its own
        fence, so it does not matter whose fence there is: then the name object cannot be replaced. Raises FileFenced.
        """
        self._flush()
        chain, number, end = new_chain(), 0, 0
        self._failed = True  # unless all of it is done
        for extent in _joined(content):
            self._store.create(extent_key(chain, number), extent)
            number, end = number + 1, end + len(extent)
        with suppress(Exists):
            self._store.create(extent_key(self.chain, self._next), b"")
        with self._meta:
            self._point_to(File(None, chain, max(self._size, end)))
            before, self.chain = self.chain, chain
        self._next, self._end, self._merged = number, end, 0
        self._failed = False
        self._directory.moved(before, self)

    def _point_to(self, file: File) -> None:
        """Write the name object; a removed file has none. Raises FileFenced."""
        with self._meta:
            while not self._removed:
                try:
                    self.version = self._directory.files.put(self.name, file, self.version)
                except Changed:
                    self.version = self._version_there()
                else:
                    self._named_size = file.size
                    return

    def _version_there(self) -> str:
        """The version of the name object, which somebody has changed. Raises FileFenced if it is not ours any more."""
        there = self._directory.files.look(self.name)
        if there.version is None or there.file is None or there.file.sealed or there.file.chain != self.chain:
            self._failed = True
            raise FileFenced(self.name)
        return there.version

    # The name

    def renamed(self, name: str, version: str) -> None:
        """The file has this name now."""
        self.name, self.version = name, version

    def removed(self) -> None:
        """The file has no name any more."""
        self._removed = True

    @property
    def meta(self) -> AbstractContextManager[object]:
        """Held while the file is renamed or removed."""
        return self._meta

    def is_fenced(self) -> bool:
        self._check()
        if self._removed:
            return True
        try:
            if not self._store.get(extent_key(self.chain, self._next)).data:
                return True
        except FileNotFoundError:
            pass
        with self._meta:
            there = self._directory.files.look(self.name).file
            return not self._removed and (there is None or there.sealed or there.chain != self.chain)

    # Maintenance

    def tidy(self) -> None:
        if self._next - 1 - self._merged >= MERGE_AT:
            self._directory.upkeep.ask(f"merge {self.chain}", self._merge)
        self._directory.sweep_if_due()
        self._directory.upkeep.check()

    def _merge(self) -> None:
        stop = self._next - 1  # the last extent stays as it is
        merge(self._store, self.chain, self._merged, stop)
        self._merged = stop

    def finish(self) -> None:
        self._check()
        self._flush()
        store, chain = self._store, self.chain
        if self._next > 1:
            self._directory.upkeep.ask(f"finish {chain}", lambda: merge(store, chain))

    def close(self) -> None:
        if not self._open:
            return
        try:
            self.flush()
        finally:
            self._open = False
            self._buffer.clear()
            self._directory.let_go(self)

    def _check(self) -> None:
        if not self._open:
            raise closed(self.name)
        if self._failed:
            raise OSError(errno.EIO, "an earlier write to this file failed", self.name)


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield bytes(min(count, EXTENT))
        count -= EXTENT


def _patched(blocks: Iterator[bytes], offset: int, data: bytes) -> Iterator[bytes]:
    """The blocks of a file, with `data` in place of what they have at `offset`."""
    at = 0
    for block in blocks:
        first, last = max(offset - at, 0), min(offset + len(data) - at, len(block))
        if first < last:
            yield block[:first] + data[at + first - offset : at + last - offset] + block[last:]
        else:
            yield block
        at += len(block)


def _joined(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in as few blocks as extents allow."""
    joined = bytearray()
    for block in blocks:
        if joined and len(joined) + len(block) > EXTENT:
            yield bytes(joined)
            joined.clear()
        joined += block
    if joined:
        yield bytes(joined)
