"""The segment that is being written: one write and one sync per record, into preallocated zeros.

Two threads use it. The hook's thread appends; the maintenance thread preallocates. They never write the same byte:
appends stay below `allocated`, and zeros are only written from there on. So they share no lock, except when a record
does not fit into the preallocated space (`_append_beyond_allocated`).
"""

import dataclasses
import errno
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain
from zlib import crc32

from backends.base import Position
from backends.change import UNKNOWN_DATABASE
from backends.log.format.codec import LEVEL_CHANGES, Compressor
from backends.log.format.encryption import FINGERPRINT, Sealer, known_key, stored_size
from backends.log.format.records import (
    RECORD_HEADER_SIZE,
    RECORD_MAGIC,
    FileHeader,
    Flag,
    RecordHeader,
    RecordKind,
    encode_fields,
    header_fields,
    segment_name,
)
from backends.log.writer.options import LogOptions
from backends.storage.base import FileFenced, Storage, WriteHandle

_MAX_TAKEN = 100
"""The most taken names in a row that are skipped; each is a segment without a record, left by a failure."""


class CutShort(Exception):
    """The record was not written: the log must go on in another segment (see `WriteHandle.safe_to`)."""


class Segment:
    """A segment open for appending, from `end` on."""

    def __init__(
        self, storage: Storage, handle: WriteHandle, file: FileHeader, end: int, allocated: int, options: LogOptions
    ) -> None:
        self._storage, self._options = storage, options
        self.handle, self.index, self.end, self.allocated = handle, file.number, end, allocated
        self._stream: Compressor | None = None
        self._max_file = options.max_file
        self._respect_reach()
        self._sealer = None if file.key is None else Sealer(known_key(file.key), file)
        self._preallocating = threading.Lock()
        self._failed = False
        """Set by the first append that fails: from then on no zeros are written to the file."""

    @property
    def name(self) -> str:
        """The file's name."""
        return segment_name(self.index)

    @property
    def full(self) -> bool:
        """Whether the next record belongs in another segment."""
        return self.end >= self._options.segment_size

    def append(self, after: Position, flags: int, data_version: int, now: int, database: int, raw: bytes) -> Position:
        """Append one change, which is durable when this returns the position after it.

        `after` is the position before it, `now` is in seconds since 1970, `raw` is the encoded change. After any
        exception nothing more may be appended; after CutShort, not to this segment.
        """
        if self._stream is None:
            self._stream = Compressor(LEVEL_CHANGES)
            flags |= Flag.FRAME
        payload = self._stream.add(raw)
        sealer, length = self._sealer, len(payload)
        if sealer is not None:
            payload, database = database.to_bytes(FINGERPRINT, "little") + payload, UNKNOWN_DATABASE
            begins = flags & Flag.FRAME != 0
            length = stored_size(FINGERPRINT + length, begins)
        header = RecordHeader(
            RECORD_MAGIC, RecordKind.CHANGE, flags, length, len(raw), data_version,
            after.sequence + 1, now, database, after.checksum, 0,
        )  # fmt: skip
        fields = header_fields(header)
        if sealer is not None:
            payload = sealer.seal(fields, payload, begins)
        record, checksum = encode_fields(fields, payload)
        end = self.end + len(record)
        try:
            if end <= self.allocated:
                self.handle.write_durably(self.end, record)
            else:
                self._append_beyond_allocated(record, end)
        except CutShort:
            raise
        except BaseException as error:
            self._failed = True
            if not isinstance(error, FileFenced):  # another writer has the log now, and may have taken the record over
                self._cut_back()
            raise
        self.end = end
        return Position(data_version, header.sequence, checksum, now)

    def _cut_back(self) -> None:
        """Remove what a failed write left: a record cut within a sector would look like damage at the next start."""
        with suppress(OSError):
            self.handle.truncate(self.end)

    def _append_beyond_allocated(self, record: bytes, end: int) -> None:
        """Append a record that does not fit into the preallocated space: this write grows the file.

        The maintenance thread did not keep up, or the record is large. The lock is needed, because otherwise zeros that
        are being preallocated could overwrite the record.
        """
        with self._preallocating:
            if self.cut_short and end > self._max_file:
                raise CutShort  # as the maintenance thread found out while this one waited for the lock
            if end > self._max_file:
                raise OSError(
                    errno.EFBIG,
                    f"a record of {len(record)} bytes does not fit in a file of {self._max_file} bytes",
                )
            try:
                self.handle.write_durably(self.end, record)
            except BaseException:
                self._failed = True  # before the lock is released: zeros would overwrite what another writer may read
                raise
            self.allocated = max(self.allocated, end)

    def fits(self, length: int) -> bool:
        """Whether a record with `length` bytes of SQL is certain to fit in the file (zstd adds less than 1 %)."""
        return self.end + RECORD_HEADER_SIZE + length + length // 100 + 1024 <= self._max_file

    def preallocate(self) -> None:
        """Write more zeros ahead of use once half of them are used. For the maintenance thread. Raises OSError."""
        ahead = self._options.preallocated(self.end)
        if self.allocated - self.end >= ahead // 2:
            return
        with self._preallocating:
            length = min(self.end + ahead, self._max_file) - self.allocated
            if length > 0 and not self._failed:
                try:
                    self.handle.extend(self.allocated, length)
                except OSError as error:
                    if not self._respect_reach() or isinstance(error, TimeoutError):
                        raise
                else:
                    self.allocated += length

    @property
    def cut_short(self) -> bool:
        """Whether the log must go on in another segment before this one is full."""
        return self.handle.safe_to is not None

    def _respect_reach(self) -> bool:
        """Write no further than `safe_to` allows; returns whether it limits the file."""
        safe_to = self.handle.safe_to
        if safe_to is None:
            return False
        self._max_file, self.allocated = min(self._max_file, safe_to), min(self.allocated, safe_to)
        return True

    def seal(self) -> None:
        """Give back the preallocated space that was not used, and close: the log goes on elsewhere. Raises OSError."""
        try:
            self._give_back()
            self.handle.finish()
        finally:
            self.handle.close()

    def close(self) -> None:
        """Give back the preallocated space that was not used, and close, for now: a start copies the last segment.

        Raises OSError.
        """
        try:
            self._give_back()
        finally:
            self.handle.close()

    def _give_back(self) -> None:
        self.handle.truncate(self.end)
        self.handle.sync()

    def remove(self) -> None:
        """Remove the file of a segment that was made ahead of use and holds no record. Raises OSError."""
        with suppress(FileNotFoundError):
            self._storage.remove(self.name)


def create_segment(
    storage: Storage,
    file: FileHeader,
    options: LogOptions,
    records: Iterable[bytes] = (),
    *,
    replace: bool = False,
) -> Segment:
    """Make a segment with this file header that begins with `records`, given in pieces: complete, preallocated and
    durable under its name.

    Raises FileExistsError if the name is taken, unless `replace` is set. With `replace`, a generator of `records` must
    close the old file when it is exhausted: on FUSE filesystems and through the kernel's NFS client, a rename over a
    file that this process holds open becomes two renames, and a crash between them loses the name.
    """
    name, end = segment_name(file.number), 0
    temporary = storage.temporary(name)
    handle = storage.create(temporary)
    try:
        for piece in chain([file.encode()], records):
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
    return Segment(storage, handle, file, end, end + zeros, options)


def create_next_segment(storage: Storage, file: FileHeader, check: Callable[[], None], options: LogOptions) -> Segment:
    """Make a new segment with this index, or with the next index whose name is free.

    A taken name may belong to another writer who has taken over: then `check` raises Fenced. Otherwise it is a segment
    without a record, left by a fenced writer or by an attempt that failed halfway. That segment stays, empty, in the
    middle of the log: removing it is never safe, because this process may be held up between the check and the removal.
    """
    for attempt in range(_MAX_TAKEN + 1):
        check()
        try:
            return create_segment(storage, dataclasses.replace(file, number=file.number + attempt), options)
        except (FileExistsError, FileNotFoundError) as error:  # not found: another writer removed our file
            check()
            if isinstance(error, FileNotFoundError) or attempt == _MAX_TAKEN:
                raise
    raise AssertionError


def first_checksum(backup_id: bytes) -> int:
    """The checksum that a backup's first record follows: different for each backup, so that two logs never chain."""
    return crc32(backup_id)
