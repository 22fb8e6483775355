"""The directory of a backup on an SFTP server."""

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from typing import TypeVar

from backends.storage.base import TEMPORARY, ReadHandle, Space, Storage, WriteHandle
from backends.storage.local import plain_name
from backends.storage.sftp.address import Address
from backends.storage.sftp.hidden import is_open_name, is_trash_name
from backends.storage.sftp.names import Names
from backends.storage.sftp.new_names import NewNames
from backends.storage.sftp.packets import CREATE, EXCLUSIVE, READ, WRITE, Attributes, Failure, mode_only
from backends.storage.sftp.reading import SftpReadHandle
from backends.storage.sftp.session import LINK, RENAME, SYNC, Handle, Session
from backends.storage.sftp.shared import channels_to
from backends.storage.sftp.writing import SftpWriteHandle

_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600
_SEALED_MODE = 0o400

_NO_MODES = frozenset({errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP, errno.EREMOTEIO})
"""The errors with which servers without permissions refuse to change a mode."""

_Result = TypeVar("_Result")


class SftpStorage(Storage):
    """The directory that an address names.

    It uses two connections, one of them for commits only, so that a commit never waits for anything else. The second
    one is made when the first file is written.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._directory = f"{address.parent.rstrip('/')}/{address.name}"
        channels = channels_to(address)
        self._commits, self._rest = channels.commits, channels.rest
        self._new_names = NewNames(self._rest, self._directory)
        self._names = Names(self._rest, self._directory, self._new_names)
        self._tokens: dict[str, str] = {}

    def describe(self) -> str:
        return self._address.url

    def about(self) -> list[str]:
        def look(session: Session) -> list[str]:
            software = f", {session.software}" if session.software else ""
            trip = session.round_trip() * 1000
            synced = self._new_names.can_sync_directory(session)
            return [
                f"the SFTP server {self._address.shown}{software}, directory {self._address.parent}",
                f"it answers in {trip:.1f} ms; up to {session.largest_write >> 10} KiB in one packet",
                f"it has {', '.join(each for each in _USED if session.offers(each)) or 'no extensions'}",
                *([] if synced else [_NO_DIRECTORY_SYNC]),
                *([] if session.offers(LINK) else [NO_LINKS]),
            ]

        return self._do(look)

    def missing(self) -> list[str]:
        """The extensions without which nothing can be kept here safely, and that the server does not have."""
        return self._do(_missing)

    def makes_links(self) -> bool:
        """Whether the server has the extension for hard links."""
        return self._do(lambda session: session.offers(LINK))

    # The directory

    def exists(self) -> bool:
        try:
            return self._do(lambda session: session.followed(self._directory)).is_directory
        except FileNotFoundError:
            return False

    def make(self) -> None:
        def make(session: Session) -> None:
            _check_extensions(session)
            session.make_directory(self._directory, _DIRECTORY_MODE)

        def look(session: Session) -> None:
            """The directory did not exist before, so an empty one was made by this call."""
            with contextlib.suppress(FileNotFoundError):
                if session.entries(self._directory):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._address.name)
                return
            make(session)

        if self.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._address.name)
        try:
            self._do(make, look)
        except Failure:
            if self.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._address.name) from None
            raise
        self._new_names.sync_above(self._address.parent)

    def unmake(self) -> None:
        """Remove the directory and its files. Raises OSError, and keeps the directory, if anything else is in it."""

        def unmake(session: Session) -> None:
            for name, attributes in session.entries(self._directory):
                if is_trash_name(name):
                    self._names.remove_trash(session, name)
                elif attributes.is_file and (is_open_name(name) or not name.startswith(".")):
                    session.remove(self._at(name))
            session.remove_directory(self._directory)

        def finish(session: Session) -> None:
            with contextlib.suppress(FileNotFoundError):
                unmake(session)

        self._do(unmake, finish)
        self._names.forget()
        self._new_names.forget()

    def names(self) -> list[str]:
        entries = self._do(lambda session: session.entries(self._directory))
        return sorted(name for name, each in entries if each.is_file and not name.startswith("."))

    def sync_names(self) -> None:
        self._new_names.sync()

    def space(self) -> Space:
        return self._do(lambda session: session.space(self._directory))

    def directories_with(self, name: str) -> list[str]:
        plain_name(name)

        def look(session: Session) -> list[str]:
            entries = session.entries(self._directory)
            inside = [each for each, what in entries if what.is_directory and not each.startswith(".")]
            found = []
            for each in inside:
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    if session.attributes(self._at(f"{each}/{name}")).is_file:
                        found.append(each)
            return sorted(found)

        return self._do(look)

    # Files

    def open(self, name: str) -> ReadHandle:
        plain_name(name)
        with self._without_permission(name):
            return SftpReadHandle(self._rest, self._at(name), name)

    def create(self, name: str) -> WriteHandle:
        plain_name(name)
        with contextlib.suppress(FileNotFoundError):
            self.remove(name)
        path = self._at(name)
        handle = SftpWriteHandle(self._commits, self._rest, path, name)

        def create(session: Session) -> None:
            _check_extensions(session)
            handle.created(session, session.open(path, READ | WRITE | CREATE | EXCLUSIVE, _FILE_MODE))

        def look(session: Session) -> None:
            """No file had this name, and only the one writer creates files: so an empty one was made by this call."""
            try:
                create(session)
            except Failure:
                if session.attributes(path).size:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None
                handle.created(session, session.open(path, READ | WRITE))

        with self._without_permission(name):
            handle.explained(lambda: self._rest.do(create, look), 0)
        self._names.created(name, handle)
        return handle

    def temporary(self, name: str) -> str:
        """The name is another one once a file was renamed from it: a renaming that comes late must find no file."""
        token = self._tokens.setdefault(name, secrets.token_hex(4))
        return f"{name}-{token}{TEMPORARY}"

    def rename(self, old: str, new: str) -> None:
        plain_name(old)
        plain_name(new)
        before = self._attributes(old)
        with contextlib.suppress(FileNotFoundError):
            self.seal(new)
        self._used(old)
        self._names.rename(old, new, before)

    def rename_new(self, old: str, new: str) -> None:
        plain_name(old)
        plain_name(new)
        self._attributes(old)
        self._used(old)
        self._names.rename_new(old, new)

    def _attributes(self, name: str) -> Attributes:
        return self._do(lambda session: session.attributes(self._at(name)))

    def _used(self, name: str) -> None:
        """Give out this temporary name no more."""
        for final, token in list(self._tokens.items()):
            if name == f"{final}-{token}{TEMPORARY}":
                del self._tokens[final]

    def remove(self, name: str) -> None:
        """Seal the file, so that a process that still writes to it notices, then remove its name."""
        self.seal(plain_name(name))
        if name.endswith(TEMPORARY):
            self._names.remove_once(name)
        else:
            self._names.remove(name)

    # Other writers

    def seal(self, name: str) -> bool:
        """Remove a file's write permission: from then on no writer acknowledges anything that it writes there.

        Not by the name, which might be another file's by the time that the request is carried out. Returns False if
        the server has no permissions. Raises FileNotFoundError if there is no such file.
        """
        plain_name(name)

        def seal(session: Session) -> bool:
            attributes = session.attributes(self._at(name))
            if not attributes.is_file:
                raise OSError(errno.EINVAL, "not a regular file", name)
            if attributes.sealed:
                return True
            handle: Handle | None = None
            try:
                handle = session.open(self._at(name), READ)
                return session.set(handle, mode_only(_SEALED_MODE), name).sealed
            except OSError as error:
                if error.errno in _NO_MODES:
                    return False
                raise
            finally:
                if handle is not None:
                    session.forget(handle)

        return self._do(seal)

    def stop_late_changes(self) -> None:
        self._names.stop_late_changes()

    # Calls

    def _at(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def _do(
        self, operation: Callable[[Session], _Result], again: Callable[[Session], _Result] | None = None
    ) -> _Result:
        with self._without_permission(self._address.name):
            return self._rest.do(operation, again)

    @contextlib.contextmanager
    def _without_permission(self, name: str) -> Iterator[None]:
        """Say whose permission is missing: that of the account on the server, not that of this machine's user."""
        try:
            yield
        except PermissionError as error:
            raise PermissionError(
                error.errno,
                f"the account on {self._address.shown} has no permission there ({error.filename or name})",
            ) from error


def _missing(session: Session) -> list[str]:
    return [each for each in (SYNC, RENAME) if not session.offers(each)]


def _check_extensions(session: Session) -> None:
    missing = _missing(session)
    if missing:
        raise OSError(errno.EPROTONOSUPPORT, f"the SFTP server lacks {' and '.join(missing)}: {WHAT_HELPS}")


WHAT_HELPS = (
    "without that, nothing written there is certain to be on its disk. OpenSSH has it since version 6.5 "
    "(`Subsystem sftp internal-sftp` in sshd_config), ProFTPD since 1.3.6"
)

NO_LINKS = (
    "it makes no hard links: after a connection that broke, the node stops and has to be started again, instead of "
    "going on by itself"
)

_NO_DIRECTORY_SYNC = (
    "it syncs no directories: a new name is made durable by syncing its file, which is enough on Linux's own "
    "filesystems (ext4, XFS, btrfs)"
)

_USED = (SYNC, RENAME, LINK, "statvfs@openssh.com", "limits@openssh.com")
