"""A file that is written through one descriptor only, and reopened when it is renamed: for FUSE filesystems.

Some of them keep a file's size and location per descriptor and by name, so that what is written through one descriptor
does not appear through another one or under the new name (fusefat does both). On the other hand, a failed sync is
reported only once per descriptor: so if preallocation received that error, the next commit must fail, too.
"""

import errno
import os
from collections.abc import Callable

from backends.storage.base import WriteHandle

_ZEROS = 1 << 20


class OneDescriptor(WriteHandle):
    """The existing file `name`, open for writing. `reopen` opens the file of a given name and returns a descriptor."""

    def __init__(self, reopen: Callable[[str], int], name: str) -> None:
        self._reopen = reopen
        self._descriptor = reopen(name)
        self._failed: OSError | None = None

    def renamed(self, rename: Callable[[], None], old: str, new: str) -> None:
        """Rename the file by calling `rename`, and reopen it under its new name; under its old one if that fails."""
        if self._descriptor < 0:
            rename()
            return
        self.sync()  # closing the descriptor would lose the errors of writes that are still in progress on it
        self.close()
        try:
            rename()
        except BaseException:
            self._descriptor = self._reopen(old)
            raise
        self._descriptor = self._reopen(new)

    def write(self, offset: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._number, rest, offset)
            if written == 0:
                raise OSError(errno.EIO, "the filesystem wrote nothing and gave no reason")
            rest, offset = rest[written:], offset + written

    def write_durably(self, offset: int, data: bytes) -> None:
        if self._failed is not None:
            raise self._failed
        self.write(offset, data)
        self._synced(os.fdatasync)

    def extend(self, offset: int, length: int) -> None:
        end = offset + length
        while offset < end:
            count = min(_ZEROS, end - offset)
            self.write(offset, bytes(count))
            offset += count
        self.sync()

    def sync(self) -> None:
        self._synced(os.fsync)

    def _synced(self, sync: Callable[[int], None]) -> None:
        try:
            sync(self._number)
        except OSError as error:
            self._failed = error
            raise

    def truncate(self, size: int) -> None:
        os.ftruncate(self._number, size)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def _number(self) -> int:
        if self._descriptor < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._descriptor
