"""Open files on an SFTP server.

A handle of the server's ends with its connection. So a file is opened again after a reconnect, and by a path that can
only be this very file's: see `hidden.py`.
"""

import errno
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

from backends.storage.base import FileFenced, ReadHandle, WriteHandle
from backends.storage.channel import Channel, outcome_unknown
from backends.storage.pieces import check_interrupted
from backends.storage.sftp.connection import Connection
from backends.storage.sftp.packets import READ, WRITE, Attributes, Failure, size_only
from backends.storage.sftp.session import Handle, Session

_ZEROS = 1 << 18
"""How many zeros are sent at once. What is in doubt after a broken connection is at most that many."""

_BLOCK = 1 << 18
_AHEAD = 1 << 20
"""How many bytes are asked for at once by a reader who wants to have them all."""

_MAX_UNSYNCED = 8 << 20
"""Bytes that are kept in memory until they are durable."""

_IDENTITY = 512
"""Bytes at the beginning of a file by which it is recognized: each begins with random numbers of its own."""

_Result = TypeVar("_Result")


class _Opened:
    """A file that is open on the current connection of one channel."""

    def __init__(self, channel: Channel[Session]) -> None:
        self._channel = channel
        self._where: tuple[Connection, Handle] | None = None

    def use(self, session: Session, open_again: Callable[[Session], Handle]) -> Handle:
        """The server's handle; `open_again` is called if the connection that it belonged to is gone."""
        if self._where is None or self._where[0] is not session.connection:
            self._where = session.connection, open_again(session)
        return self._where[1]

    def set(self, session: Session, handle: Handle) -> None:
        self._where = session.connection, handle

    def close(self) -> None:
        """Close the file on the server, whenever something else is sent there. Raises nothing."""
        if self._where is None:
            return
        connection, handle = self._where
        self._where = None

        def forget(session: Session) -> None:
            if session.connection is connection:
                session.forget(handle)

        self._channel.before_next(forget)


class _File:
    """What reading and writing share: a file that can be used until `close`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.closed = False

    def _check_open(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self._name)


class SftpReadHandle(_File, ReadHandle):
    """A file that is open for reading.

    The server keeps a removed file readable, but only on this connection. After a reconnect the file of that name is
    opened, and used if it is the same one, by its beginning.
    """

    def __init__(self, channel: Channel[Session], path: str, name: str) -> None:
        super().__init__(name)
        self._channel, self._path = channel, path
        self._opened = _Opened(channel)
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


class SftpWriteHandle(_File, WriteHandle):
    """A file that is open for writing.

    What was sent on a connection that broke may be carried out at any later time: a frozen server process does so when
    it goes on. Sending the same bytes for the same place again is harmless. Everything else that such a request could
    destroy is refused: see `_settled`, `safe_to` and `_may_be_cut`.
    """

    def __init__(self, commits: Channel[Session], rest: Channel[Session], path: str, name: str) -> None:
        super().__init__(name)
        self.path: str | None = path
        """A path that is certain to be this file's; None if there is none. It is used after a reconnect."""
        self.when_closed: Callable[[], None] = _nothing
        self._commits, self._rest = commits, rest
        self._for_commits, self._for_rest = _Opened(commits), _Opened(rest)
        self._unsynced: list[tuple[Connection, int, bytes | None]] = []
        self._unsynced_bytes = 0
        self._settled = 0
        """Up to where the file may only be written again with the bytes that it has there."""
        self._may_be_cut = False
        """Whether a `truncate` or a failed commit is in doubt: then the file is not written to any more."""

    def created(self, session: Session, handle: Handle) -> None:
        """Take over the server's handle of the file that was just created."""
        self._for_rest.set(session, handle)

    # Writing that is not durable yet

    def write(self, offset: int, data: bytes) -> None:
        self._check_open()
        if not data:
            return
        self._check_reach(offset, offset + len(data))

        def write(session: Session) -> None:
            handle = self._on_rest(session)
            session.write(handle, offset, data, self._name)
            self._remember(session, offset, data)

        def again(session: Session) -> None:
            self._doubt(offset, data)
            write(session)

        self.explained(lambda: _do(self._rest, write, again, lambda: self._doubt(offset, data)), len(data))
        if self._unsynced_bytes > _MAX_UNSYNCED:
            self.sync()

    def _doubt(self, offset: int, data: bytes) -> None:
        """Note that this write may be carried out once more, late. Records are kept out of zeros that may come late."""
        if data.strip(b"\0"):
            self._settled = max(self._settled, offset + len(data))
        else:
            self.safe_to = offset if self.safe_to is None else min(self.safe_to, offset)

    def _remember(self, session: Session, offset: int, data: bytes | None) -> None:
        self._unsynced.append((session.connection, offset, data))
        self._unsynced_bytes += len(data or b"")

    def sync(self) -> None:
        """Make all durable. What was written on an earlier connection is written again: the server may have restarted
        since, and lost it."""
        self._check_open()

        def sync(session: Session) -> None:
            handle = self._on_rest(session)
            for at, (connection, offset, data) in enumerate(self._unsynced):
                if connection is session.connection:
                    continue
                if data is None:
                    session.set(handle, size_only(offset), self._name)
                else:
                    session.write(handle, offset, data, self._name)
                self._unsynced[at] = session.connection, offset, data
            session.sync(handle, self._name)

        self.explained(lambda: self._rest.do(sync), 0)
        self._unsynced, self._unsynced_bytes = [], 0

    def truncate(self, size: int) -> None:
        self._check_open()
        if self._may_be_cut or size < self._settled:
            raise self._lost("it cannot be shortened any more")

        def truncate(session: Session) -> None:
            session.set(self._on_rest(session), size_only(size), self._name)
            self._remember(session, size, None)

        def again(session: Session) -> None:
            self._may_be_cut = True
            truncate(session)

        _do(self._rest, truncate, again, self._give_up)

    # Durable writing

    def write_durably(self, offset: int, data: bytes) -> None:
        """Write `data` durably, in one round trip. Raises FileFenced.

        A writer that seals the file sees every write that the server carried out before. The answer to every later one
        says that the file is sealed. So whatever is acknowledged here is seen by that writer.
        """
        self._check_open()
        self._check_reach(offset, offset + len(data))

        def commit(session: Session) -> None:
            handle = self._for_commits.use(session, self._open)
            if session.commit(handle, offset, data, self._name).sealed:
                raise FileFenced(self._name)

        def settle(session: Session) -> None:
            """Write it again after checking what is there, even if all of it is: it may not be on the disk yet."""
            self._doubt(offset, data)
            handle = self._for_commits.use(session, self._open)
            check_interrupted(self._name, offset, data, session.read(handle, offset, len(data), self._name))
            commit(session)

        self.explained(lambda: _do(self._commits, commit, settle, self._give_up), len(data))

    def is_fenced(self) -> bool:
        self._check_open()
        try:
            return self._commits.do(
                lambda session: session.attributes_of(self._for_commits.use(session, self._open), self._name)
            ).sealed
        except FileFenced:
            return True

    def extend(self, offset: int, length: int) -> None:
        end = offset + length
        for start in range(offset, end, _ZEROS):
            self._write_zeros(start, min(_ZEROS, end - start))

    def _write_zeros(self, offset: int, count: int) -> None:
        self._check_open()
        self._check_reach(offset, offset + count)

        def zeros(session: Session) -> None:
            session.commit(self._on_rest(session), offset, bytes(count), self._name)

        def check_then_write(session: Session) -> None:
            """Write the zeros again, unless the first ones could still arrive late, and overwrite records."""
            if size_of(session.attributes_of(self._on_rest(session), self._name), self._name) < offset + count:
                self._doubt(offset, bytes(count))
                self._check_reach(offset, offset + count)
            zeros(session)

        self.explained(
            lambda: _do(self._rest, zeros, check_then_write, lambda: self._doubt(offset, bytes(count))), count
        )

    def _check_reach(self, offset: int, end: int) -> None:
        if self._may_be_cut:
            raise self._lost("it is not written to any more")
        if offset < self._settled:
            raise self._lost(f"nothing before byte {self._settled} may be written again")
        if self.safe_to is not None and end > self.safe_to:
            raise self._lost(f"nothing after byte {self.safe_to} may be written")

    def _lost(self, what: str) -> OSError:
        return OSError(
            errno.EIO,
            f"the connection dropped while this file was written, and what was sent may still come, so {what}",
            self._name,
        )

    # The file on the server

    @property
    def is_cut_off(self) -> bool:
        """Whether a connection to the file's server is down: asking it for anything may take the whole timeout."""
        return self._commits.is_down or self._rest.is_down

    def prepare(self) -> None:
        """Open the file on the connection for commits while its path is known, so that the first commit need not."""
        self._commits.do(lambda session: self._for_commits.use(session, self._open))

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for opened in (self._for_commits, self._for_rest):
            opened.close()
        self.when_closed()

    def _on_rest(self, session: Session) -> Handle:
        return self._for_rest.use(session, self._open)

    def _open(self, session: Session) -> Handle:
        """Open the file again. Raises FileFenced if another writer has sealed it, or removed its last name."""
        if self.path is None:
            raise OSError(
                errno.EIO,
                "the connection broke, and this server makes no hard links, so the file cannot be found again for "
                "certain",
                self._name,
            )
        try:
            if session.attributes(self.path).sealed:
                raise FileFenced(self._name)
            return session.open(self.path, READ | WRITE)
        except FileNotFoundError as error:
            raise FileFenced(self._name) from error

    def _give_up(self) -> None:
        """Write nothing more: what was sent could be carried out late, and destroy that."""
        self._may_be_cut = True

    def explained(self, operation: Callable[[], None], length: int) -> None:
        """Find out what "failure" means: on a full disk, that the disk is full."""
        try:
            operation()
        except Failure as error:
            raise self._refusal(error, length) from error

    def _refusal(self, error: Failure, length: int) -> OSError:
        directory = os.path.dirname(self.path or "") or "."  # noqa: PTH120
        try:
            free = self._rest.do(lambda session: session.space(directory)).free
        except OSError:
            return error
        if free < max(length, 1 << 16):
            return OSError(errno.ENOSPC, "the server's disk is full", self._name)
        return OSError(
            errno.EREMOTEIO,
            f"{error.strerror}. Its disk has space, so a quota of the account may be used up, or the disk fails",
            self._name,
        )


def _nothing() -> None:
    pass


def _do(
    channel: Channel[Session],
    operation: Callable[[Session], None],
    again: Callable[[Session], None],
    doubt: Callable[[], None],
) -> None:
    """Do what `Channel.do` does, and call `doubt` if it fails with what was sent before perhaps still to come.

    That is so after every error of `again`, whatever it is: without hard links, a file cannot even be opened again.
    """
    interrupted = False

    def once_more(session: Session) -> None:
        nonlocal interrupted
        interrupted = True
        again(session)

    try:
        channel.do(operation, once_more)
    except OSError as error:
        if interrupted or outcome_unknown(error):
            doubt()
        raise


def open_regular(session: Session, path: str, name: str, flags: int) -> Handle:
    """Open an existing file; no link is followed, and no pipe is waited for. Raises OSError."""
    if not session.attributes(path).is_file:
        raise OSError(errno.EINVAL, "not a regular file", name)
    return session.open(path, flags)


def size_of(attributes: Attributes, name: str) -> int:
    """The size in bytes. Raises OSError if the server does not tell it."""
    if attributes.size is None:
        raise OSError(errno.EPROTO, "the server does not tell the file's size", name)
    return attributes.size
