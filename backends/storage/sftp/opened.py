"""A file that is open on an SFTP server.

A handle of the server's ends with its connection. So a file is opened again after a reconnect, and by a path that can
only be this very file's: see `hidden.py`.
"""

import errno
import os
from collections.abc import Callable

from backends.storage.channel import Channel
from backends.storage.sftp.connection import Connection
from backends.storage.sftp.packets import Attributes
from backends.storage.sftp.session import Handle, Session


class Opened:
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


class OpenFile:
    """What reading and writing share: a file that can be used until `close`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.closed = False

    def _check_open(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self._name)


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
