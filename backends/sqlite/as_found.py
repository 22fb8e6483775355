"""A database as the next process to open it will see it, determined without changing a byte on disk.

After a crash there may be a hot journal beside the database, which the next process to open it rolls back. Here SQLite
itself does that, on files that are only read: what it writes, truncates and deletes stays in memory.
"""

import fcntl
import itertools
import os
import stat
import struct
from contextlib import ExitStack, closing
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

import apsw

from backends.change import DATABASE_HEADER
from backends.sqlite.connection import READ_WRITE, connect, names_super_journal, run
from backends.sqlite.error_text import NOT_TO_BE_READ
from backends.sqlite.source import DatabaseState, state_of
from backends.sqlite_header import in_wal_mode

MAX_JOURNAL = 64 << 20
"""Bytes. With a larger journal the database is not examined, because what is rolled back is kept in memory."""

_BLOCK = 4096
_FLOCK = "hhqqi0q"
"""C's `struct flock` on Linux: type, whence, start, length, pid."""

_LOCK_BYTES = (0x40000000, 512)
"""Offset of the bytes of a database file that SQLite locks, and their number."""

_number = itertools.count()


class Unclear(Enum):
    """Why the state of a database cannot be told."""

    WAL = auto()  # its last commits may be in the WAL and not in the header
    LOCKED = auto()  # another process is reading or writing it
    LARGE_JOURNAL = auto()  # above MAX_JOURNAL
    NO_DATABASE = auto()  # damaged, or not a database
    UNREADABLE = auto()  # because of the disk or the permissions


@dataclass(frozen=True, slots=True)
class AsFound:
    """The database that the next process to open the file will find."""

    state: DatabaseState
    header: bytes
    """The file's first DATABASE_HEADER bytes; fewer when it is empty or missing."""


def as_found(database: Path) -> AsFound | Unclear:
    """The database as the next process to open it will find it; a missing file counts as an empty one.

    This process must not have it open: closing a file releases all its locks. Nothing on disk makes this raise.
    """
    try:
        # SQLite, too, looks for the journal beside the real file.
        with closing(_ReadOnlyDisk(database.resolve())) as disk:
            return disk.unclear() or _look(disk)
    except (OSError, RuntimeError):  # RuntimeError: symbolic links form a loop
        return Unclear.UNREADABLE


def _look(disk: "_ReadOnlyDisk") -> AsFound | Unclear:
    try:
        with closing(connect(disk.database, READ_WRITE, disk.name)) as connection:
            run(connection, "SELECT count(*) FROM sqlite_schema")
            state = state_of(connection)
            return AsFound(state, disk.main.read(DATABASE_HEADER, 0))
    except (apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError):
        return Unclear.NO_DATABASE
    except (apsw.Error, OSError):
        return Unclear.UNREADABLE


class _ReadOnlyDisk(apsw.VFS):
    """A SQLite VFS with the database and its journal as they are on disk; changes stay in memory until `close`.

    Raises OSError when one of them exists and cannot be opened.
    """

    def __init__(self, database: Path) -> None:
        self.database = database
        self.name = f"lightningd-backup-{next(_number)}"
        self._journal = f"{database}-journal"
        self._files: dict[str, _File] = {}
        with ExitStack() as stack:
            stack.callback(self._close_files)
            self.main = self._files[str(database)] = _File(_opened(str(database)))
            journal = _opened(self._journal)
            if journal is not None:
                self._files[self._journal] = _File(journal)
            super().__init__(self.name, "")
            stack.pop_all()

    def unclear(self) -> Unclear | None:
        """The reason not to examine the files at all, if there is one."""
        if self.main.locked_by_another():
            return Unclear.LOCKED
        if names_super_journal(self.database):
            return Unclear.NO_DATABASE
        wal = self.database.with_name(f"{self.database.name}-wal")
        if in_wal_mode(self.main.read(DATABASE_HEADER, 0)) or (wal.exists() and wal.stat().st_size):
            return Unclear.WAL
        journal = self._files.get(self._journal)
        return Unclear.LARGE_JOURNAL if journal is not None and journal.xFileSize() > MAX_JOURNAL else None

    def close(self) -> None:
        """Unregister the VFS and close its files."""
        self.unregister()
        self._close_files()

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()

    # The methods that SQLite calls

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> "_File":  # type: ignore[override]  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        file = self._files.get(path or "")
        if file is None:
            raise apsw.CantOpenError(NOT_TO_BE_READ)
        flags[1] = flags[0]
        return file

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802
        return pathname in self._files or (pathname != self._journal and Path(pathname).exists())

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        file = self._files.pop(filename, None)
        if file is not None:
            file.close()


class _File:
    """One file of the VFS. All opens of it share this object, since a single connection uses the VFS."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._size = self._on_disk = 0 if descriptor is None else os.fstat(descriptor).st_size
        self._changed: dict[int, bytearray] = {}

    def close(self) -> None:
        """Close the file. Calling it again does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def locked_by_another(self) -> bool:
        """Whether another process holds one of SQLite's locks on the file; asking takes no lock."""
        if self._descriptor is None:
            return False
        question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, *_LOCK_BYTES, 0)
        try:
            answer = fcntl.fcntl(self._descriptor, fcntl.F_GETLK, question)
        except OSError:  # the filesystem has no locks
            return False
        kind: int = struct.unpack(_FLOCK, answer)[0]
        return kind != fcntl.F_UNLCK

    def read(self, amount: int, offset: int) -> bytes:
        """Up to `amount` bytes from `offset` on, fewer at the end of the file. Raises OSError."""
        end = min(offset + amount, self._size)
        if end <= offset:
            return b""
        if not self._changed and end <= self._on_disk:
            return self._from_disk(offset, end)
        first, last = offset // _BLOCK, (end - 1) // _BLOCK
        data = b"".join(self._changed.get(block) or self._block(block) for block in range(first, last + 1))
        return data[offset - first * _BLOCK : end - first * _BLOCK]

    def _block(self, block: int) -> bytes:
        """A whole block as it is on disk, padded with zeros."""
        return self._from_disk(block * _BLOCK, (block + 1) * _BLOCK).ljust(_BLOCK, b"\0")

    def _from_disk(self, start: int, end: int) -> bytes:
        end = min(end, self._on_disk)
        if self._descriptor is None or end <= start:
            return b""
        data = os.pread(self._descriptor, end - start, start)
        if len(data) < end - start:
            raise OSError("the file is being truncated")
        return data

    # The methods that SQLite calls

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        try:
            return self.read(amount, offset)
        except OSError as error:
            raise apsw.IOError(str(error)) from error

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        at = 0
        while at < len(data):
            block, start = divmod(offset + at, _BLOCK)
            length = min(_BLOCK - start, len(data) - at)
            kept = self._changed.get(block)
            if kept is None:
                kept = self._changed[block] = bytearray(self._block(block))
            kept[start : start + length] = data[at : at + length]
            at += length
        self._size = max(self._size, offset + len(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        for block in [block for block in self._changed if block * _BLOCK >= newsize]:
            del self._changed[block]
        if newsize % _BLOCK and (kept := self._changed.get(newsize // _BLOCK)) is not None:
            kept[newsize % _BLOCK :] = bytes(_BLOCK - newsize % _BLOCK)
        self._size, self._on_disk = newsize, min(self._on_disk, newsize)

    def xFileSize(self) -> int:  # noqa: N802
        return self._size

    def xSync(self, flags: int) -> None:  # noqa: N802
        pass

    def xClose(self) -> None:  # noqa: N802
        pass

    def xLock(self, level: int) -> None:  # noqa: N802
        pass

    def xUnlock(self, level: int) -> None:  # noqa: N802
        pass

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return 512

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        # As SQLite's own VFS reports. Without this flag, SQLite assumes larger sectors and ignores a journal shorter
        # than one.
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE


def _opened(path: str) -> int | None:
    """A read-only descriptor of a regular file; None when there is no such file. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return descriptor
