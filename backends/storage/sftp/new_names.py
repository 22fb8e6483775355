"""Making new names durable on an SFTP server, which may be unable to sync a directory, and may restart meanwhile."""

import contextlib
import errno

from backends.storage.channel import Channel, Disconnected
from backends.storage.sftp.connection import Connection
from backends.storage.sftp.packets import READ, Attributes
from backends.storage.sftp.session import Session, SyncFailed


class NewNames:
    """The names in `directory` that are not durable yet; `rest` is the connection for everything but commits."""

    def __init__(self, rest: Channel[Session], directory: str) -> None:
        self._rest, self._directory = rest, directory
        self._unsynced: dict[str, tuple[Connection, Attributes]] = {}
        """The new names since the last `sync`: on which connection they were given, and to what."""
        self._syncs_directory: bool | None = None

    def _at(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def note(self, session: Session, new: str) -> None:
        """A file has just got this name."""
        self._unsynced[new] = session.connection, session.attributes(self._at(new))

    def sync(self) -> None:
        """Make every change of a name until now durable."""

        def sync(session: Session) -> None:
            self._check_unchanged(session)
            if self.can_sync_directory(session):
                session.sync_directory(self._directory)
            else:
                session.followed(self._directory)
                for new in self._unsynced:
                    self._sync_file(session, new)
            self._unsynced.clear()

        self._rest.do(sync)

    def _check_unchanged(self, session: Session) -> None:
        """After a reconnect: the server may have restarted, and lost a new name that was not durable yet."""
        earlier = {new: was for new, (on, was) in self._unsynced.items() if on is not session.connection}
        now = session.attributes_or_none([self._at(new) for new in earlier]) if earlier else []
        for (new, before), after in zip(earlier.items(), now, strict=True):
            if after is None or (after.size, after.modified) != (before.size, before.modified):
                raise OSError(errno.EIO, "the connection broke, and the server has lost the file's new name", new)
            self._unsynced[new] = session.connection, before

    def _sync_file(self, session: Session, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # renamed or removed again meanwhile
            handle = session.open(self._at(name), READ)
            session.sync(handle, name)
            session.forget(handle)

    def can_sync_directory(self, session: Session) -> bool:
        """Whether the server syncs directories; found out once."""
        if self._syncs_directory is None:
            try:
                session.sync_directory(self._directory)
            except FileNotFoundError:
                return False
            except (Disconnected, SyncFailed):
                raise
            except OSError:
                self._syncs_directory = False
            else:
                self._syncs_directory = True
        return self._syncs_directory

    def sync_above(self, parent: str) -> None:
        """Make the backup's own name durable, where the server syncs directories."""

        def sync(session: Session) -> None:
            if self.can_sync_directory(session):
                session.sync_directory(parent)

        self._rest.do(sync)

    def forget(self) -> None:
        """The directory was removed, with everything in it."""
        self._unsynced, self._syncs_directory = {}, None
