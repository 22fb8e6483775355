"""Reading files on an SFTP server."""

import errno
from collections.abc import Callable, Iterator
from typing import TypeVar

from backends.storage.base import ReadHandle
from backends.storage.channel import Channel
from backends.storage.sftp.opened import Opened, OpenFile, open_regular, size_of
from backends.storage.sftp.packets import READ
from backends.storage.sftp.session import Handle, Session

_BLOCK = 1 << 18
_AHEAD = 1 << 20
"""How many bytes are asked for at once by a reader who wants to have them all."""

_IDENTITY = 512
"""Bytes at the beginning of a file by which it is recognized: each begins with random numbers of its own."""

_Result = TypeVar("_Result")


class SftpReadHandle(OpenFile, ReadHandle):
    """A file that is open for reading.

    The server keeps a removed file readable, but only on this connection. After a reconnect the file of that name is
    opened, and used if it is the same one, by its beginning.
    """

    def __init__(self, channel: Channel[Session], path: str, name: str) -> None:
        super().__init__(name)
        self._channel, self._path = channel, path
        self._opened = Opened(channel)
        self._identity: bytes | None = None
        self._do(lambda session, handle: None)

    def size(self) -> int:
        self._check_open()
        return size_of(self._do(lambda session, handle: session.attributes_of(handle, self._name)), self._name)

    def read(self, offset: int, length: int) -> bytes:
        self._check_open()
        if length <= 0:
            return b""
        return self._do(lambda session, handle: session.read(handle, offset, length, self._name))

    def blocks(self, offset: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `offset` to `end`. More than a block is asked for at once: each request costs time."""
        while offset < end:
            some = self.read(offset, min(_AHEAD, end - offset))
            if not some:
                raise OSError(errno.EIO, f"the file ends at byte {offset}, but a moment ago it reached byte {end}")
            yield from (some[start : start + _BLOCK] for start in range(0, len(some), _BLOCK))
            offset += len(some)

    def close(self) -> None:
        self.closed = True
        self._opened.close()

    def _do(self, operation: Callable[[Session, Handle], _Result]) -> _Result:
        return self._channel.do(lambda session: operation(session, self._opened.use(session, self._open)))

    def _open(self, session: Session) -> Handle:
        handle = open_regular(session, self._path, self._name, READ)
        beginning = session.read(handle, 0, _IDENTITY, self._name)
        if self._identity is None:
            self._identity = beginning
        elif not beginning.startswith(self._identity):
            raise OSError(errno.ESTALE, "the connection broke, and meanwhile another file has this name", self._name)
        return handle
