"""Open files on an NFS server."""

import errno
import os

from backends.storage.base import ReadHandle, WriteHandle
from backends.storage.nfs.channel import Channel
from backends.storage.nfs.protocol import Handle, Protocol
from backends.storage.nfs.xdr import Malformed

_ZEROS = 1 << 20
_SECTOR = 512


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
        boots = self._rest.do(lambda protocol: _write(protocol, handle, offset, data, durably=False))
        self._boots |= boots

    def write_durably(self, offset: int, data: bytes) -> None:
        """One call to the server, if `data` is not larger than what it takes in one."""
        handle = self.handle
        self._check_reach(offset + len(data))
        self._commits.do(
            lambda protocol: _write(protocol, handle, offset, data, durably=True),
            lambda protocol: self._settle(protocol, handle, offset, data),
        )

    def _settle(self, protocol: Protocol, handle: Handle, offset: int, data: bytes) -> set[bytes]:
        """A write was cut off and may have been done, in part or not at all: look, and only then write it (again).

        Again even when all of it is there: what the server shows need not be on its disk yet.
        """
        there = _read(protocol, handle, offset, len(data)).ljust(len(data), b"\0")
        start = 0
        while start < len(data):
            end = start + _SECTOR - (offset + start) % _SECTOR  # the disk's own sectors: it may have got some of them
            found = there[start:end]
            if any(found) and found != data[start:end]:
                raise OSError(
                    errno.EIO, f"something else than what was written lies in {self._name} at byte {offset + start}"
                )
            start = end
        return _write(protocol, handle, offset, data, durably=True)

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


def _write(protocol: Protocol, handle: Handle, offset: int, data: bytes, *, durably: bool) -> set[bytes]:
    """All of the data; returns the server's boots that took writes which are not durable yet."""
    rest, boots = memoryview(data), set()
    while rest:
        written = protocol.write(handle, offset, bytes(rest[: protocol.largest_write]), durably)
        if not 0 < written.count <= len(rest):
            raise OSError(errno.EIO, "the server writes nothing and gives no reason")
        if not written.durable:
            boots.add(written.boot)
        rest, offset = rest[written.count :], offset + written.count
    if durably and boots:  # a server that did less than was asked
        boots.add(protocol.commit(handle))
        if len(boots) > 1:
            raise OSError(errno.EIO, "the server restarted in between and may have lost what was written")
        return set()
    return boots
