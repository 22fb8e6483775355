"""The segment that is being written: one write and one sync a record, into zeros that lie there already.

Two threads touch it. The hook's thread appends; the maintenance thread makes room ahead. They share no byte and, but
for the one case below, no lock: appends stay below `allocated`, new room is only made from there on.
"""

import errno
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain
from zlib import crc32

from backends.base import Position
from backends.log.format.codec import LEVEL_CHANGES, Compressor
from backends.log.format.records import (
    RECORD_HEADER_SIZE,
    RECORD_MAGIC,
    FileHeader,
    FileKind,
    Flag,
    RecordHeader,
    RecordKind,
    encode_record,
    segment_name,
)
from backends.log.writer.options import LogOptions
from backends.storage.base import FileFenced, Storage, WriteHandle

_MAX_TAKEN = 100
"""Segments without a record in a row that are passed over; each of them took a failure."""


class Segment:
    """A segment open for appending, from `end` on."""

    def __init__(
        self, storage: Storage, handle: WriteHandle, index: int, end: int, allocated: int, options: LogOptions
    ) -> None:
        self._storage, self._options = storage, options
        self.handle, self.index, self.end, self.allocated = handle, index, end, allocated
        self._stream: Compressor | None = None
        self._making_room = threading.Lock()
        self._failed = False
        """Set by the first append that fails: from then on not a byte of the file is touched again."""

    @property
    def name(self) -> str:
        """The file's name."""
        return segment_name(self.index)

    @property
    def full(self) -> bool:
        """Whether the next record belongs into another segment."""
        return self.end >= self._options.segment_size

    def append(self, after: Position, flags: int, data_version: int, now: int, database: int, raw: bytes) -> Position:
        """One change, durable when this returns the position after it. After any exception nothing more is appended."""
        if self._stream is None:
            self._stream = Compressor(LEVEL_CHANGES)
            flags |= Flag.FRAME
        payload = self._stream.add(raw)
        header = RecordHeader(
            RECORD_MAGIC, RecordKind.CHANGE, flags, len(payload), len(raw), data_version,
            after.sequence + 1, now, database, after.checksum, 0,
        )  # fmt: skip
        record, checksum = encode_record(header, payload)
        end = self.end + len(record)
        try:
            if end <= self.allocated:
                self.handle.write_durably(self.end, record)
            else:
                self._append_past_room(record, end)
        except BaseException as error:
            self._failed = True
            if not isinstance(error, FileFenced):  # by now the record may be part of the log, which is another writer's
                self._cut_back()
            raise
        self.end = end
        return Position(data_version, header.sequence, checksum, now)

    def _cut_back(self) -> None:
        """Remove what a failed write has left: cut within a sector, it would look like damage at the next start."""
        with suppress(OSError):
            self.handle.truncate(self.end)

    def _append_past_room(self, record: bytes, end: int) -> None:
        """The maintenance thread did not keep up, or the record is large: grow the file with this very write.

        Under the lock, or zeros that are being laid would cover the record.
        """
        with self._making_room:
            if end > self._options.max_file:
                raise OSError(
                    errno.EFBIG,
                    f"a record of {len(record)} bytes does not fit into a file of {self._options.max_file} bytes",
                )
            try:
                self.handle.write_durably(self.end, record)
            except BaseException:
                self._failed = True  # before the lock is given up: zeros would be laid over what another writer reads
                raise
            self.allocated = max(self.allocated, end)

    def fits(self, length: int) -> bool:
        """Whether a record with `length` bytes of SQL surely fits into the file (zstd adds less than 1 %)."""
        return self.end + RECORD_HEADER_SIZE + length + length // 100 + 1024 <= self._options.max_file

    def preallocate(self) -> None:
        """Write zeros ahead of use, in step with it. For the maintenance thread."""
        ahead = self._options.preallocated(self.end)
        if self.allocated - self.end >= ahead // 2:
            return
        with self._making_room:
            length = min(self.end + ahead, self._options.max_file) - self.allocated
            if length > 0 and not self._failed:
                self.handle.extend(self.allocated, length)
                self.allocated += length

    def seal(self) -> None:
        """Give back the room that was not used, and close."""
        try:
            self.handle.truncate(self.end)
            self.handle.sync()
        finally:
            self.handle.close()

    def remove(self) -> None:
        """Take its name away: it was made ahead of use and holds no record. Raises OSError."""
        with suppress(FileNotFoundError):
            self._storage.remove(self.name)


def create_segment(
    storage: Storage,
    backup_id: bytes,
    index: int,
    options: LogOptions,
    records: Iterable[bytes] = (),
    *,
    replace: bool = False,
) -> Segment:
    """A new segment, whole and durable under its name, with room ahead; it begins with `records`, given in pieces.

    FileExistsError when the name is taken, unless the file is to be replaced. A generator of `records` must then let go
    of its file when it is exhausted: on FUSE filesystems and through the kernel's NFS client a rename over a file that
    this process holds open becomes two, and a crash between them loses the name.
    """
    name, end = segment_name(index), 0
    temporary = storage.temporary(name)
    handle = storage.create(temporary)
    try:
        for piece in chain([FileHeader(FileKind.SEGMENT, backup_id, index).encode()], records):
            handle.write(end, piece)
            end += len(piece)
        zeros = options.preallocated(end)
        handle.write(end, bytes(zeros))
        handle.sync()
        (storage.rename if replace else storage.rename_new)(temporary, name)
        storage.sync_names()
    except BaseException:
        handle.close()
        raise
    return Segment(storage, handle, index, end, end + zeros, options)


def create_next_segment(
    storage: Storage, backup_id: bytes, index: int, check: Callable[[], None], options: LogOptions
) -> Segment:
    """A new segment with this index, or the next one that is free.

    A name that is taken is another writer's who has taken over: then `check` raises Replaced. Or it is one without a
    record, which a writer that was replaced, or an attempt that failed half way, has left: it stays, as an empty one in
    the middle of the log. To remove it is safe for nobody who may be held up between looking and doing.
    """
    for attempt in range(_MAX_TAKEN + 1):
        check()
        try:
            return create_segment(storage, backup_id, index + attempt, options)
        except (FileExistsError, FileNotFoundError) as error:  # the latter: tidied up by another writer
            check()
            if isinstance(error, FileNotFoundError) or attempt == _MAX_TAKEN:
                raise
    raise AssertionError


def first_checksum(backup_id: bytes) -> int:
    """What the first record of a backup follows: a value of its own, so that logs of two backups never chain."""
    return crc32(backup_id)
