"""The directory of a backup on an NFS server.

A file that is removed or replaced loses its write permission first, so that a process that still writes to it notices.
It keeps a hidden name for a while, so that a process that reads it can finish (see `gone.py`).
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

from backends.storage.base import NO_LINKS, Closed, ReadHandle, Space, Storage, WriteHandle
from backends.storage.channel import Channel, Disconnected
from backends.storage.local import plain_name
from backends.storage.nfs.files import NfsReadHandle, NfsWriteHandle
from backends.storage.nfs.gone import HIDDEN, ROOM, hidden_bytes, hidden_name, room_for, to_forget
from backends.storage.nfs.protocol import Attributes, Handle, Kind, Protocol
from backends.storage.nfs.rpc import Refused
from backends.storage.nfs.server import Server

_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600

_SEALED_MODE = 0o400

_NO_MODES = frozenset({errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})
"""The errors with which servers without permissions refuse to change a mode."""

_ATTEMPTS = 5

_ANY_NAME = "manifest"

_Result = TypeVar("_Result")


class NfsStorage(Storage):
    """The directory `name` in the server's directory.

    It uses two connections, one of them for commits only, so that a commit never waits for anything else.
    """

    def __init__(self, server: Server, name: str) -> None:
        self._server, self._name = server, name
        self._commits = Channel(server.connect, server.commit_timeout)
        self._rest = Channel(server.connect, server.commit_timeout)
        self._handle: Handle | None = None
        self._hidden, self._hidden_limit = 0, ROOM  # bytes that removed files take, and may take

    def describe(self) -> str:
        host = f"[{self._server.host}]" if ":" in self._server.host else self._server.host
        return f"nfs://{host}/{'/'.join([*self._server.directory, self._name])}"

    def about(self) -> list[str]:
        version = self._rest.do(lambda protocol: protocol.describe())
        return [f"the NFS server {self._server.host}, {version}, directory /{'/'.join(self._server.directory)}"]

    # The directory

    def exists(self) -> bool:
        self._handle = None
        try:
            self._in_directory(lambda protocol, directory: None)
        except FileNotFoundError:
            return False
        return True

    def make(self) -> None:
        def make(protocol: Protocol) -> None:
            parent = protocol.root(self._server.directory)
            protocol.make_directory(parent, self._name, _DIRECTORY_MODE)

        def look(protocol: Protocol) -> None:
            """The directory did not exist before, so an empty one was made by this call."""
            parent = protocol.root(self._server.directory)
            with contextlib.suppress(FileExistsError):
                protocol.make_directory(parent, self._name, _DIRECTORY_MODE)
                return
            handle, _ = protocol.lookup(parent, self._name)
            if protocol.entries(handle):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._name)

        try:
            if self.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._name)
            self._rest.do(make, look)
        except PermissionError as error:
            raise Refused(errno.EACCES, f"the server does not permit it; {self._server.wants()}") from error

    def unmake(self) -> None:
        """Remove the directory and its files. Raises OSError, and keeps the directory, if anything else is in it."""

        def unmake(protocol: Protocol, directory: Handle) -> None:
            for name, attributes in protocol.entries(directory):
                if attributes.kind is Kind.FILE and (name.startswith(HIDDEN) or not name.startswith(".")):
                    protocol.remove(directory, name)
            protocol.remove_directory(protocol.root(self._server.directory), self._name)

        def finish(protocol: Protocol, directory: Handle) -> None:
            with contextlib.suppress(FileNotFoundError):
                unmake(protocol, directory)

        self._in_directory(unmake, finish)
        self._handle = None

    def names(self) -> list[str]:
        entries = self._in_directory(lambda protocol, directory: protocol.entries(directory))
        return sorted(name for name, each in entries if each.kind is Kind.FILE and not name.startswith("."))

    def sync_names(self) -> None:
        """Only check that the server answers: it made each change of a name durable before it answered that call."""
        self._in_directory(lambda protocol, directory: protocol.attributes(directory))

    def space(self) -> Space:
        return self._in_directory(lambda protocol, directory: protocol.space(directory))

    def directories_with(self, name: str) -> list[str]:
        plain_name(name)

        def look(protocol: Protocol, directory: Handle) -> list[str]:
            found = []
            for entry, what in protocol.entries(directory):
                if what.kind is not Kind.DIRECTORY or entry.startswith("."):
                    continue
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    _, attributes = protocol.lookup(protocol.lookup(directory, entry)[0], name)
                    if attributes.kind is Kind.FILE:
                        found.append(entry)
            return sorted(found)

        return self._in_directory(look)

    def closed(self) -> list[Closed]:
        def look(protocol: Protocol, directory: Handle) -> list[Closed]:
            try:
                entries = protocol.entries(directory)
            except PermissionError:
                return [_closed(self._name, protocol.attributes(directory))]
            return sorted(
                (_closed(name, what) for name, what in entries if _is_closed(protocol, directory, name, what)),
                key=lambda each: each.name,
            )

        return self._in_directory(look)

    # Files

    def open(self, name: str) -> ReadHandle:
        plain_name(name)

        def look(protocol: Protocol, directory: Handle) -> Handle:
            handle, attributes = protocol.lookup(directory, name)
            if attributes.kind is not Kind.FILE:
                raise OSError(errno.EINVAL, "not a regular file", name)
            return handle

        return NfsReadHandle(self._rest, self._in_directory(look), name)

    def create(self, name: str) -> WriteHandle:
        plain_name(name)
        self._remove_hidden()
        with contextlib.suppress(FileNotFoundError):
            self.remove(name)

        def create(protocol: Protocol, directory: Handle) -> Handle:
            return protocol.create(directory, name, _FILE_MODE)

        def look(protocol: Protocol, directory: Handle) -> Handle:
            """No file had this name, and only the one writer creates files: so an empty one was made by this call."""
            with contextlib.suppress(FileExistsError):
                return create(protocol, directory)
            handle, attributes = protocol.lookup(directory, name)
            if attributes.size:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
            return handle

        return NfsWriteHandle(self._commits, self._rest, self._in_directory(create, look), name)

    def rename(self, old: str, new: str) -> None:
        plain_name(old)
        plain_name(new)
        self._keep_for_readers(new)
        moved = self._in_directory(lambda protocol, directory: protocol.lookup(directory, old)[0])

        def look(protocol: Protocol, directory: Handle) -> None:
            """Rename, unless that has been done: the new name is then that of the moved file."""
            with contextlib.suppress(FileNotFoundError):
                if protocol.lookup(directory, new)[0] == moved:
                    return
            protocol.rename(directory, old, new)

        self._in_directory(lambda protocol, directory: protocol.rename(directory, old, new), look)
        self._remove_if_too_large()

    def rename_new(self, old: str, new: str) -> None:
        plain_name(old)
        plain_name(new)
        moved = self._in_directory(lambda protocol, directory: protocol.lookup(directory, old)[0])

        def link(protocol: Protocol, directory: Handle) -> None:
            try:
                protocol.link(moved, directory, new)
            except FileExistsError:
                if protocol.lookup(directory, new)[0] != moved:  # otherwise it was done, and only the answer was lost
                    raise

        def unlink(protocol: Protocol, directory: Handle) -> None:
            """Remove the old name only; the file is not sealed. Another writer may have removed that name already."""
            with contextlib.suppress(FileNotFoundError):
                protocol.remove(directory, old)

        try:
            self._in_directory(link)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            self._rename_unless_there(old, new)
        else:
            self._in_directory(unlink)

    def _rename_unless_there(self, old: str, new: str) -> None:
        """Do what `rename_new` does on a server without hard links: in two steps, not atomically."""
        with contextlib.suppress(FileNotFoundError):
            self._in_directory(lambda protocol, directory: protocol.lookup(directory, new))
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
        self.rename(old, new)

    def remove(self, name: str) -> None:
        hidden = hidden_name()
        size = self._in_directory(
            lambda protocol, directory: _seal_before_removal(protocol, directory, plain_name(name))[1]
        )

        def look(protocol: Protocol, directory: Handle) -> None:
            try:
                protocol.rename(directory, name, hidden)
            except FileNotFoundError:
                protocol.lookup(directory, hidden)

        self._in_directory(lambda protocol, directory: protocol.rename(directory, name, hidden), look)
        self._hidden += size
        self._remove_if_too_large()

    # Other writers

    def seal(self, name: str) -> bool:
        """Remove a file's write permission: from then on no writer acknowledges anything that it writes there.

        Returns False if the server has no permissions. Raises FileNotFoundError if there is no such file.
        """
        plain_name(name)

        def seal(protocol: Protocol, directory: Handle) -> bool:
            handle, attributes = protocol.lookup(directory, name)
            if attributes.kind is not Kind.FILE:
                raise OSError(errno.EINVAL, "not a regular file", name)
            protocol.set_mode(handle, _SEALED_MODE)
            return protocol.attributes(handle).sealed

        try:
            return self._in_directory(seal)
        except OSError as error:
            if error.errno not in _NO_MODES:
                raise
            return False

    def lock(self, what: str) -> None:
        """Take no lock: NFS is used without locks here, and `seal` keeps two writers apart."""

    # Removed files

    def _keep_for_readers(self, name: str) -> None:
        """Give a file that is about to be replaced a hidden second name. Does nothing on servers without hard links."""
        hidden = hidden_name()

        def keep(protocol: Protocol, directory: Handle) -> int:
            handle, size = _seal_before_removal(protocol, directory, name)
            protocol.link(handle, directory, hidden)
            return size

        with contextlib.suppress(OSError):  # no such file, or no links: at worst a reader must start again
            self._hidden += self._in_directory(keep)

    def _remove_if_too_large(self) -> None:
        if self._hidden > self._hidden_limit:
            self._remove_hidden()

    def _remove_hidden(self) -> None:
        """Delete the hidden files, of this and other processes, whose time is over or that take too much space."""

        def forget(protocol: Protocol, directory: Handle) -> None:
            entries = protocol.entries(directory)
            self._hidden, self._hidden_limit = hidden_bytes(entries), room_for(entries)
            for name, size in to_forget(entries):
                with _unless_refused():
                    protocol.remove(directory, name)
                self._hidden -= size

        self._in_directory(forget)

    # Calls

    def _in_directory(
        self,
        operation: Callable[[Protocol, Handle], _Result],
        again: Callable[[Protocol, Handle], _Result] | None = None,
    ) -> _Result:
        """Carry out an operation in the backup's directory, which is looked up again if its handle has expired.

        If the connection breaks during the operation, `again` is called instead of a second `operation` (see
        `Channel.do`).
        """
        for attempt in range(_ATTEMPTS):
            try:
                return self._rest.do(
                    lambda protocol: operation(protocol, self._directory(protocol)),
                    None if again is None else lambda protocol: again(protocol, self._directory(protocol)),
                )
            except OSError as error:
                if error.errno != errno.ESTALE or attempt == _ATTEMPTS - 1:
                    raise
                self._handle = None
                self._rest.forget()
        raise AssertionError

    def _directory(self, protocol: Protocol) -> Handle:
        if self._handle is None:
            handle, attributes = protocol.lookup(protocol.root(self._server.directory), self._name)
            if attributes.kind is not Kind.DIRECTORY:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self._name)
            self._handle = handle
        return self._handle


def _seal_before_removal(protocol: Protocol, directory: Handle, name: str) -> tuple[Handle, int]:
    """Seal a file that is about to lose its name, so that a process that still writes to it notices.

    Returns its handle and its size in bytes.
    """
    handle, attributes = protocol.lookup(directory, name)
    if attributes.kind is Kind.FILE and not attributes.sealed:
        with _unless_refused():
            protocol.set_mode(handle, _SEALED_MODE)
    return handle, attributes.size


@contextlib.contextmanager
def _unless_refused() -> Iterator[None]:
    """Ignore the server's refusal of what the block asks for, but not a broken connection."""
    try:
        yield
    except Disconnected:
        raise
    except OSError:
        pass


def _closed(name: str, what: Attributes) -> Closed:
    return Closed(name, what.uid, what.gid)


def _is_closed(protocol: Protocol, directory: Handle, name: str, what: Attributes) -> bool:
    """Whether the server denies this user access to the subdirectory `name`: only looking something up in it tells."""
    if what.kind is not Kind.DIRECTORY or name.startswith(".") or name == "lost+found":
        return False
    try:
        protocol.lookup(protocol.lookup(directory, name)[0], _ANY_NAME)
    except PermissionError:
        return True
    except FileNotFoundError:
        pass
    return False
