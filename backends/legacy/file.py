"""The older plugin's file: a header of 512 bytes, then records. All numbers are big-endian.

Header: u32 file version (1), u32 data version, u64 offset of the end, u32 previous version, u64 offset of the
previous end, u64 count, zeros. Record: u32 length of the payload, u32 data version, u8 kind, payload. A change is SQL
as UTF-8, its statements joined by NUL bytes; a snapshot is a whole SQLite file. There are no checksums. The writer
appended the record first and wrote the header second, and synced neither.
"""

import os
import stat
from io import BufferedReader, FileIO
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import NamedTuple

from backends.change import MAX_CHANGE
from backends.errors import BackupError, NotABackup, Unreachable
from backends.legacy.errors import LegacyDamaged
from backends.mounts.missing import is_it_mounted
from backends.node.directory import expanded
from backends.sqlite_header import MAGIC
from backends.urls import parse_url

HEADER_SIZE = 512
CHANGE, SNAPSHOT = 1, 2

_HEADER = Struct(">IIQIQQ")
_RECORD = Struct(">IIB")
_FILE_VERSION = b"\0\0\0\1"
_NO_FILE_IS_LARGER = 1 << 48
_READ_AHEAD = 1 << 18


class Header(NamedTuple):
    """What the writer noted after its last record. After a crash, it may be the note from before the last record."""

    data_version: int
    end: int
    """Where the writer believed the end to be. After a rewind it appended further on without knowing."""

    records: int
    """How many records the writer counted, rewound ones included; early releases of that plugin left it at 0."""


class Frame(NamedTuple):
    """A complete record: its offset, and the fields of its header."""

    offset: int
    length: int
    data_version: int
    kind: int

    @property
    def payload(self) -> int:
        """Offset of the payload."""
        return self.offset + _RECORD.size

    @property
    def end(self) -> int:
        """Offset after the record."""
        return self.offset + _RECORD.size + self.length

    @property
    def size(self) -> int:
        """Bytes of the record, including its header."""
        return _RECORD.size + self.length


class LegacyFile:
    """A file of the older plugin, opened for reading. `size` is that at opening: the plugin may still append to it."""

    def __init__(self, path: Path) -> None:
        """Raises NotABackup, LegacyDamaged when the header is incomplete, or Unreachable."""
        self.path = path
        try:
            self._file = BufferedReader(FileIO(path, opener=_without_waiting), _READ_AHEAD)
            status = os.fstat(self._file.fileno())
        except OSError as error:  # a directory, too
            raise Unreachable(
                f"{path} cannot be read: {error.strerror}; nothing was changed. Check the path"
                + (is_it_mounted(path) if isinstance(error, FileNotFoundError) else "")
            ) from error
        self.size, self.mtime = status.st_size, int(status.st_mtime)
        try:
            self.header = self._header(stat.S_ISREG(status.st_mode))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "LegacyFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Calling it again does nothing."""
        self._file.close()

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on; fewer only at the end of the file. Raises Unreachable."""
        try:
            self._file.seek(offset)
            return self._file.read(min(length, max(self.size - offset, 0)))
        except OSError as error:
            raise Unreachable(
                f"{self.path} cannot be read at byte {offset}: {error.strerror}; nothing was changed. If its disk is "
                "failing, first copy what can still be read to another disk (ddrescue), and work with the copy"
            ) from error

    def is_written(self) -> bool:
        """Whether somebody has written to the file, or replaced it, since it was opened."""
        try:
            now, then = self.path.stat(), os.fstat(self._file.fileno())
        except OSError:
            return True
        return (now.st_dev, now.st_ino, now.st_size) != (then.st_dev, then.st_ino, self.size)

    def begun(self, offset: int) -> Frame | None:
        """The record header (nine bytes) at `offset`, whether its record is complete or not; None at the file's end."""
        head = self.read(offset, _RECORD.size)
        return Frame(offset, *_RECORD.unpack(head)) if len(head) == _RECORD.size else None

    def frame(self, offset: int) -> Frame | None:
        """The record at `offset`; None when there is no complete one."""
        frame = self.begun(offset)
        if frame is None or frame.end > self.size:
            return None
        if frame.kind == CHANGE:
            return frame if frame.length <= MAX_CHANGE else None
        # The older plugin's compaction left an empty snapshot for a node that had never started.
        whole = frame.kind == SNAPSHOT and (not frame.length or self.read(frame.payload, len(MAGIC)) == MAGIC)
        return frame if whole else None

    def _header(self, regular: bool) -> Header:
        data = self.read(0, HEADER_SIZE) if regular else b""
        if not _looks_older(data):
            raise NotABackup(
                f"{self.path} is not a backup file of the older plugin (it begins differently); nothing was changed. "
                "Check the path: it is in the old backup.lock, after file://"
            )
        if len(data) < HEADER_SIZE:
            raise LegacyDamaged("it ends within its header", self.path, len(data), None)
        _, data_version, end, _, _, records = _HEADER.unpack_from(data)
        return Header(data_version, end, records)


def is_legacy_backup(path: Path) -> bool:
    """Whether `path` is a file that begins like one of the older plugin's. Reads 36 bytes; never raises."""
    try:
        descriptor = _without_waiting(path)
    except (OSError, ValueError):
        return False
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and _looks_older(os.read(descriptor, _HEADER.size))
    except OSError:
        return False
    finally:
        os.close(descriptor)


def legacy_path(text: str) -> Path:
    """The file named by `text`: a path, or a URL as in the older plugin's backup.lock. Raises BackupError."""
    if text.startswith("socket:"):
        raise BackupError(
            f"{text} is a server of the older plugin; nothing was changed. On the server's machine, use the file that "
            "it writes: the file:// URL that `backup-cli server` was started with"
        )
    if "://" not in text:
        return expanded(Path(text))
    path = _local_file(text)
    if path is None:
        raise BackupError(
            f"{text} cannot be a backup of the older plugin, which is always a file; nothing was changed. Give its "
            "path, or its URL from the old backup.lock: file:///path/to/file.bkp"
        )
    return path


def legacy_backup_at(url: str) -> Path | None:
    """The file that `url` names, if it is a backup of the older plugin; otherwise None. Raises BadURL."""
    path = _local_file(url)
    return path if path is not None and is_legacy_backup(path) else None


def _local_file(url: str) -> Path | None:
    place = parse_url(url)
    return place.directory if place.scheme == "file" else None


def _without_waiting(path: Path | str, _: int = 0) -> int:
    """Open for reading without blocking: opening a FIFO would otherwise wait until somebody writes to it."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


def _looks_older(data: bytes) -> bool:
    if len(data) < _HEADER.size:
        return data[:4] == _FILE_VERSION
    _, _, end, _, previous_end, _ = _HEADER.unpack_from(data)
    return data[:4] == _FILE_VERSION and max(end, previous_end) < _NO_FILE_IS_LARGER
