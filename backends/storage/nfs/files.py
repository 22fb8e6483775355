"""Open files on an NFS server."""

import errno
import os

from backends.storage.base import FileFenced, ReadHandle, WriteHandle
from backends.storage.nfs.channel import Channel
from backends.storage.nfs.protocol import SECTOR, Attributes, Handle, Protocol
from backends.storage.nfs.xdr import Malformed

_ZEROS = 1 << 20
_BLOCK = 4096
"""Bytes of a disk's larger sectors, and of a filesystem's blocks."""

_MAY_BE_FENCED = frozenset({errno.EACCES, errno.EPERM, errno.ESTALE})
"""How a server refuses to write to a file that is sealed or gone. Most let a file's owner write in any case."""


class _File:
    """A handle, until it is closed."""

    def __init__(self, handle: Handle, name: str) -> None:
        self._handle: Handle | None = handle
        self._name = name

    @property
    def handle(self) -> Handle:
        """EBADF once it is closed."""
        if self._handle is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self._name)
        return self._handle

    def close(self) -> None:
        self._handle = None


class Reader(_File, ReadHandle):
    """A file for reading."""

    def __init__(self, channel: Channel, handle: Handle, name: str) -> None:
        super().__init__(handle, name)
        self._channel = channel

    def size(self) -> int:
        handle = self.handle
        return self._channel.do(lambda protocol: protocol.attributes(handle)).size

    def read(self, offset: int, length: int) -> bytes:
        handle = self.handle
        return self._channel.do(lambda protocol: _read(protocol, handle, offset, length))


class Writer(_File, WriteHandle):
    """A file being written. A server that restarts may lose what was not yet durable: then `sync` says so."""

    def __init__(self, commits: Channel, rest: Channel, handle: Handle, name: str) -> None:
        super().__init__(handle, name)
        self._commits, self._rest = commits, rest
        self._boots: set[bytes] = set()
        self._safe_to: int | None = None

    def write(self, offset: int, data: bytes) -> None:
        handle = self.handle
        boots, _ = self._rest.do(lambda protocol: _write(protocol, handle, offset, data, durably=False))
        self._boots |= boots

    def write_durably(self, offset: int, data: bytes) -> None:
        """One call to the server, if `data` is not larger than what it takes in one. Raises Fenced.

        Whoever seals the file sees every write that the server carried out before; the answer to any later one tells
        that it is sealed. So what is acknowledged here is seen there.
        """
        handle = self.handle
        self._check_reach(offset + len(data))
        try:
            self._commits.do(
                lambda protocol: self._commit(protocol, handle, offset, data),
                lambda protocol: self._settle(protocol, handle, offset, data),
            )
        except FileFenced:
            raise
        except OSError as error:
            if error.errno in _MAY_BE_FENCED and self._is_fenced(handle):
                raise FileFenced(self._name) from error
            raise

    def is_fenced(self) -> bool:
        return self._is_fenced(self.handle)

    def _commit(self, protocol: Protocol, handle: Handle, offset: int, data: bytes) -> None:
        _, after = _write(protocol, handle, offset, data, durably=True)
        if (after or protocol.attributes(handle)).sealed:
            raise FileFenced(self._name)

    def _is_fenced(self, handle: Handle) -> bool:
        """Whether the server refuses a write because another writer has taken the file."""
        try:
            return self._commits.do(lambda protocol: protocol.attributes(handle)).sealed
        except OSError as error:
            return error.errno == errno.ESTALE  # its last name is gone, and its handle with it

    def _settle(self, protocol: Protocol, handle: Handle, offset: int, data: bytes) -> None:
        """A write was cut off and may have been done, in part or not at all: look, and only then write it (again).

        Again even when all of it is there: what the server shows need not be on its disk yet.
        """
        there = _read(protocol, handle, offset, len(data)).ljust(len(data), b"\0")
        start = 0
        while start < len(data):
            end = start + SECTOR - (offset + start) % SECTOR  # the disk's own sectors: it may have got some of them
            found = there[start:end].rstrip(b"\0")  # and of one of them a part, if the server said that it took less
            if not data[start:end].startswith(found):
                raise OSError(
                    errno.EIO, f"something else than what was written lies in {self._name} at byte {offset + start}"
                )
            start = end
        self._commit(protocol, handle, offset, data)

    def extend(self, offset: int, length: int) -> None:
        end = offset + length
        while offset < end:
            count = min(_ZEROS, end - offset)
            self._lay(offset, count)
            offset += count

    def _lay(self, offset: int, count: int) -> None:
        handle = self.handle
        self._check_reach(offset + count)

        def lay(protocol: Protocol) -> None:
            _write(protocol, handle, offset, bytes(count), durably=True)

        def look(protocol: Protocol) -> None:
            """Zeros that are still on their way could arrive when records lie there, and must never cover them."""
            if not protocol.fences and protocol.attributes(handle).size < offset + count:
                self._safe_to = offset
                self._check_reach(offset + count)
            lay(protocol)

        self._rest.do(lay, look)

    def _check_reach(self, end: int) -> None:
        if self._safe_to is not None and end > self._safe_to:
            raise OSError(
                errno.EIO,
                "the connection dropped while room was made in the file, and over NFSv3 nobody knows what may still "
                "arrive there (version=4.1 would)",
                self._name,
            )

    def sync(self) -> None:
        handle = self.handle
        boots = self._boots | {self._rest.do(lambda protocol: protocol.commit(handle))}
        if len(boots) > 1:
            raise OSError(errno.EIO, "the server restarted in between and may have lost what was written")
        self._boots = set()

    def truncate(self, size: int) -> None:
        handle = self.handle
        self._rest.do(lambda protocol: protocol.resize(handle, size))


def _read(protocol: Protocol, handle: Handle, offset: int, length: int) -> bytes:
    protocol.know_limits(handle)
    parts: list[bytes] = []
    while length > 0:
        wanted = min(length, protocol.largest_read)
        data, end = protocol.read(handle, offset, wanted)
        if len(data) > wanted:
            raise Malformed(f"the server gives {len(data)} bytes where {wanted} were asked for")
        parts.append(data)
        offset, length = offset + len(data), length - len(data)
        if end or not data:
            break
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write(
    protocol: Protocol, handle: Handle, offset: int, data: bytes, *, durably: bool
) -> tuple[set[bytes], Attributes | None]:
    """All of the data, from the beginning on: what comes later was not written before.

    Returns the server's boots that took writes which are not durable yet, and what the file was like after the last.
    """
    protocol.know_limits(handle)
    rest, boots, after = memoryview(data), set(), None
    while rest:
        piece = _piece(offset, len(rest), protocol.largest_write)
        written = protocol.write(handle, offset, bytes(rest[:piece]), durably)
        if not 0 < written.count <= piece:
            raise OSError(errno.EIO, "the server writes nothing and gives no reason")
        after = written.after
        if not written.durable:
            boots.add(written.boot)
        rest, offset = rest[written.count :], offset + written.count
    if durably and boots:  # a server that did less than was asked
        boots.add(protocol.commit(handle))
        if len(boots) > 1:
            raise OSError(errno.EIO, "the server restarted in between and may have lost what was written")
        boots = set()
    return boots, after


def _piece(offset: int, length: int, most: int) -> int:
    """How many bytes go into one call: all, or up to where a disk's sector ends.

    So a node that dies between two calls leaves whole sectors of its record and zeros, as a disk does that loses its
    power: a reader takes that for torn, and anything cut within a sector for damage.
    """
    if length <= most:
        return length
    return most - (offset + most) % (_BLOCK if most >= 2 * _BLOCK else SECTOR)
