"""Open files on an NFS server."""

import errno
import os

from backends.storage.base import FileFenced, ReadHandle, WriteHandle
from backends.storage.channel import Channel, Malformed
from backends.storage.deadline import not_after
from backends.storage.nfs.protocol import Attributes, Handle, Protocol
from backends.storage.pieces import check_interrupted, piece

_ZEROS = 1 << 20
_MAY_BE_FENCED = frozenset({errno.EACCES, errno.EPERM, errno.ESTALE})
"""The errors with which a server refuses to write to a file that is sealed or gone. Most servers let a file's owner
write even if it is sealed."""


class _File:
    """A file's handle, which can be used until `close`."""

    def __init__(self, handle: Handle, name: str) -> None:
        self._handle: Handle | None = handle
        self._name = name

    @property
    def handle(self) -> Handle:
        """The handle. Raises OSError (EBADF) after `close`."""
        if self._handle is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self._name)
        return self._handle

    def close(self) -> None:
        self._handle = None


class NfsReadHandle(_File, ReadHandle):
    """A file that is open for reading."""

    def __init__(self, channel: Channel[Protocol], handle: Handle, name: str) -> None:
        super().__init__(handle, name)
        self._channel = channel

    def size(self) -> int:
        handle = self.handle
        return self._channel.do(lambda protocol: protocol.attributes(handle)).size

    def read(self, offset: int, length: int) -> bytes:
        handle = self.handle
        return self._channel.do(lambda protocol: _read(protocol, handle, offset, length))


class NfsWriteHandle(_File, WriteHandle):
    """A file that is open for writing. If the server restarts, what was not durable may be lost; `sync` then raises."""

    def __init__(self, commits: Channel[Protocol], rest: Channel[Protocol], handle: Handle, name: str) -> None:
        super().__init__(handle, name)
        self._commits, self._rest = commits, rest
        self._boots: set[bytes] = set()
        self._answer_until = float("inf")
        """After a failed commit: when (time.monotonic) it would have been given up. What follows it ends then, too."""

    def write(self, offset: int, data: bytes) -> None:
        handle = self.handle
        boots, _ = self._rest.do(lambda protocol: _write(protocol, handle, offset, data, durably=False))
        self._boots |= boots

    def write_durably(self, offset: int, data: bytes) -> None:
        """Write `data` durably, in one call if the server accepts that many bytes in one. Raises FileFenced.

        A writer that seals the file sees every write that the server carried out before. The answer to every later
        write says that the file is sealed. So whatever is acknowledged here is seen by that writer.
        """
        handle = self.handle
        self._check_reach(offset + len(data))
        until = self._commits.would_end()
        try:
            self._commits.do(
                lambda protocol: self._commit(protocol, handle, offset, data),
                lambda protocol: self._settle(protocol, handle, offset, data),
            )
        except FileFenced:
            raise
        except OSError as error:
            self._answer_until = until
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
        """Whether another writer has taken the file over, by its current attributes."""
        try:
            with not_after(self._answer_until):
                return self._commits.do(lambda protocol: protocol.attributes(handle)).sealed
        except OSError as error:
            return error.errno == errno.ESTALE  # its last name is gone, and its handle with it

    def _settle(self, protocol: Protocol, handle: Handle, offset: int, data: bytes) -> None:
        """Repeat a write that was cut off, after checking what is there: all of it, a part or nothing may be written.

        It is repeated even if all of it is there: what the server shows may not be on its disk yet.
        """
        check_interrupted(self._name, offset, data, _read(protocol, handle, offset, len(data)))
        self._commit(protocol, handle, offset, data)

    def extend(self, offset: int, length: int) -> None:
        end = offset + length
        for start in range(offset, end, _ZEROS):
            self._write_zeros(start, min(_ZEROS, end - start))

    def _write_zeros(self, offset: int, count: int) -> None:
        handle = self.handle
        self._check_reach(offset + count)

        may_come_late = False

        def zeros(protocol: Protocol) -> None:
            nonlocal may_come_late
            may_come_late = not protocol.fences
            _write(protocol, handle, offset, bytes(count), durably=True)

        def check_then_write(protocol: Protocol) -> None:
            """Write the zeros again, unless the first ones could still arrive late and overwrite records.

            They can where `protocol.fences` is False. `safe_to` then keeps records out of that part of the file.
            """
            if not protocol.fences and protocol.attributes(handle).size < offset + count:
                self.safe_to = offset
                self._check_reach(offset + count)
            zeros(protocol)

        try:
            self._rest.do(zeros, check_then_write)
        except TimeoutError:  # the first attempt took all the time, so nothing was checked
            if may_come_late:
                self.safe_to = offset
            raise

    def _check_reach(self, end: int) -> None:
        if self.safe_to is not None and end > self.safe_to:
            raise OSError(
                errno.EIO,
                "the connection dropped while the file was preallocated, and NFSv3 cannot tell what may still arrive "
                "there (version=4.1 can)",
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
        with not_after(self._answer_until):
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
    """Write all of the data in order: no part is sent before the part in front of it is written.

    Returns the `boot` values (see `Written`) of the writes that are not durable yet, and the file's attributes after
    the last write.
    """
    protocol.know_limits(handle)
    rest, boots, after = memoryview(data), set(), None
    while rest:
        length = piece(offset, len(rest), protocol.largest_write)
        written = protocol.write(handle, offset, bytes(rest[:length]), durably)
        if not 0 < written.count <= length:
            raise OSError(errno.EIO, "the server wrote nothing and gave no reason")
        after = written.after
        if not written.durable:
            boots.add(written.boot)
        rest, offset = rest[written.count :], offset + written.count
    if durably and boots:  # the server did less than was asked
        boots.add(protocol.commit(handle))
        if len(boots) > 1:
            raise OSError(errno.EIO, "the server restarted in between and may have lost what was written")
        boots = set()
    return boots, after
