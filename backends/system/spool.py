"""What a command has read from far away, kept in a file without a name, also for the child process that it starts.

A command reads a log several times: to see where it ends, to check it, and, in a child process, to execute it. What
never changes under its name need not come over the network each time. The file is on a disk, bounded, and gone with the
last process that has it open.
"""

import os
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from backends.system.scratch import scratch_place

MAX_BYTES = 256 << 20
"""Bytes of the file, after which nothing more is kept."""
MAX_PIECES = 100_000
"""Pieces of which this process knows where they are, which takes about 250 bytes of memory each."""

_HEAD = struct.Struct("<HI")
"""The lengths of a piece's name and of its content, which follow."""


class Spool:
    """Pieces of bytes by name. Its methods may be called from several threads, and never raise OSError."""

    def __init__(self, descriptor: int | None = None) -> None:
        """`descriptor` is that of another process's spool, which this one only reads."""
        self._descriptor, self._writable = descriptor, descriptor is None
        self._lock = threading.Lock()
        self._where: dict[bytes, int] | None = {} if descriptor is None else None
        self._end = 0

    def get(self, name: str) -> bytes | None:
        """A piece; None if it is not here."""
        with self._lock:
            if self._where is None:
                self._where = self._index()
            where = self._where.get(name.encode())
        if where is None or self._descriptor is None:
            return None
        size = where & 0xFFFFFFFF
        with suppress(OSError):
            data = os.pread(self._descriptor, size, where >> 32)
            if len(data) == size:
                return data
        return None

    def put(self, name: str, data: bytes, *, again: bool = False) -> bool:
        """Keep a piece, if there is room for it; `again`: also if there is an earlier one of this name.

        Returns whether a piece of this name is kept. A process that was given the spool keeps nothing.
        """
        key = name.encode()
        with self._lock:
            if not self._writable or self._where is None:
                return False
            if key in self._where and not again:
                return True
            entry = _HEAD.pack(len(key), len(data)) + key + data
            if self._end + len(entry) > MAX_BYTES or len(self._where) >= MAX_PIECES:
                return False
            try:
                if self._descriptor is None:
                    self._descriptor = _unnamed()
                whole = os.pwrite(self._descriptor, entry, self._end) == len(entry)
            except OSError:  # no room for it: then it is read again
                whole = False
            if not whole:
                self._writable = False
                return False
            self._end += len(entry)
            self._where[key] = _where(self._end - len(data), len(data))
            return True

    def for_child(self) -> int | None:
        """A descriptor through which a child can read what was kept until now, and write nothing; None if nothing was.

        The caller closes it.
        """
        with self._lock:
            if self._descriptor is None or not self._end:
                return None
            try:
                return os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return None

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            descriptor, self._descriptor, self._writable, self._where = self._descriptor, None, False, {}
        if descriptor is not None:
            os.close(descriptor)

    def _index(self) -> dict[bytes, int]:
        """Where the pieces are in a file that another process has written."""
        assert self._descriptor is not None
        found: dict[bytes, int] = {}
        with suppress(OSError), open(self._descriptor, "rb", closefd=False) as file:
            while len(head := file.read(_HEAD.size)) == _HEAD.size:
                name, size = _HEAD.unpack(head)
                key = file.read(name)
                found[key] = _where(file.tell(), size)
                file.seek(size, os.SEEK_CUR)
        return found


def _where(offset: int, size: int) -> int:
    """Where a piece is, in one number: it takes less memory than two."""
    return offset << 32 | size


def _unnamed() -> int:
    with tempfile.TemporaryFile(dir=scratch_place()) as file:
        return os.dup(file.fileno())


class _Process:
    spool: Spool | None = None


@contextmanager
def keeping() -> Iterator[None]:
    """Let this process keep what it reads from far away during the block: for a command."""
    before, _Process.spool = _Process.spool, Spool()
    try:
        yield
    finally:
        made, _Process.spool = _Process.spool, before
        if made is not None:
            made.close()


def take(descriptor: int | None) -> None:
    """Use what the process that started this one has kept."""
    _Process.spool = None if descriptor is None else Spool(descriptor)


def current() -> Spool | None:
    """What this process keeps; None if it keeps nothing."""
    return _Process.spool
