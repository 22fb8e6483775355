"""Open files of a mounted filesystem."""

import contextlib
import errno
import os

from backends.storage.base import WRITE_BIT, FileFenced, ReadHandle, WriteHandle

_ZEROS = 1 << 16
"""How many zero bytes are written at a time. On a slow disk, commits get in between."""


class _Descriptor:
    """An open file. A second `close` does nothing: by then the descriptor's number may be that of another open file."""

    def __init__(self, descriptor: int) -> None:
        self._number = descriptor

    @property
    def number(self) -> int:
        if self._number < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._number

    def close(self) -> None:
        descriptor, self._number = self._number, -1  # first: Linux closes it even when close fails
        if descriptor >= 0:
            os.close(descriptor)


class LocalReadHandle(_Descriptor, ReadHandle):
    survives_fork = True  # each read says where, so a shared position does not matter

    def size(self) -> int:
        return os.fstat(self.number).st_size

    def read(self, offset: int, length: int) -> bytes:
        data = os.pread(self.number, length, offset)
        # One call may return less than the file has (on Linux at most 2 GiB); only an empty result means the end.
        while len(data) < length:
            more = os.pread(self.number, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def drop_cached(self, offset: int, end: int) -> None:
        with contextlib.suppress(OSError):  # then the kernel decides
            os.posix_fadvise(self.number, offset, end - offset, os.POSIX_FADV_DONTNEED)


class LocalWriteHandle(_Descriptor, WriteHandle):
    """Two descriptors of one file, opened separately: the kernel reports a lost write to each of them."""

    def __init__(self, writing: int, extending: int, name: str) -> None:
        super().__init__(writing)
        self._extending = _Descriptor(extending)
        self._name = name
        self._shows_fence = _is_ours(writing)
        """Whether this filesystem reports a file's real write bit and link count; some mounts set their own modes."""
        self._writes_out: bool | None = None  # as long as nobody has asked

    def follow(self, name: str, directory: int) -> None:
        """Reopen the file under its new name, before the old one is removed. Raises FileFenced if it is another file.

        Otherwise the kernel's NFS client would keep a hidden name for the removed one as long as a descriptor that was
        opened by it is open.
        """
        if self._number < 0:
            return
        with contextlib.ExitStack() as undo:
            opened = []
            for _ in range(2):
                try:
                    descriptor = os.open(name, os.O_WRONLY | os.O_NOFOLLOW, dir_fd=directory)
                except (FileNotFoundError, PermissionError):  # removed, or sealed
                    raise FileFenced(name) from None
                undo.callback(os.close, descriptor)
                opened.append(descriptor)
                if not os.path.samestat(os.fstat(descriptor), os.fstat(self._number)):
                    raise FileFenced(name)
            undo.pop_all()
        self.close()
        self._number, self._extending = opened[0], _Descriptor(opened[1])

    def write(self, offset: int, data: bytes) -> None:
        _write_all(self.number, offset, data)

    def write_durably(self, offset: int, data: bytes) -> None:
        _write_all(self.number, offset, data)
        os.fdatasync(self.number)  # this syncs a changed size, too, but not the times
        if self.is_fenced():
            raise FileFenced(self._name)

    def is_fenced(self) -> bool:
        return self._shows_fence and not _is_ours(self.number)

    def extend(self, offset: int, length: int) -> None:
        # Real zeros, because fallocate marks blocks as unwritten, and each commit would have to change that mark.
        descriptor, end = self._extending.number, offset + length
        while offset < end:
            zeros = bytes(min(_ZEROS, end - offset))
            _write_all(descriptor, offset, zeros)
            offset += len(zeros)
            if offset < end:
                self._write_out(descriptor, offset - len(zeros), len(zeros))
        os.fdatasync(descriptor)

    def sync(self) -> None:
        os.fsync(self.number)

    def write_out(self, offset: int, length: int) -> bool:
        return self._write_out(self.number, offset, length)

    def _write_out(self, descriptor: int, offset: int, length: int) -> bool:
        from backends.system import write_out  # imports much, and most processes never need it

        if self._writes_out is None:
            self._writes_out = write_out.is_able(descriptor)
        self._writes_out = self._writes_out and write_out.write_out(descriptor, offset, length)
        return self._writes_out

    def truncate(self, size: int) -> None:
        os.ftruncate(self.number, size)

    def close(self) -> None:
        try:
            self._extending.close()
        finally:
            super().close()


def _is_ours(descriptor: int) -> bool:
    """Whether nobody has sealed the file, or removed or replaced its name. Takes about 1 us on a local disk."""
    status = os.fstat(descriptor)
    return bool(status.st_mode & WRITE_BIT and status.st_nlink)


def _write_all(descriptor: int, offset: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        if written == 0:
            raise OSError(errno.EIO, "the filesystem wrote nothing and gave no reason")
        rest, offset = rest[written:], offset + written
