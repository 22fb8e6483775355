"""What a backup says of itself at one moment, each thing read once: on a share every look costs a round trip."""

from collections.abc import Sequence
from functools import cached_property

from backends.base import LastWriter, Position
from backends.errors import BackupError
from backends.log.format.documents import Manifest, Session
from backends.log.known_damage import KnownDamage, read_damage
from backends.log.reader.end import Found, find_end
from backends.log.reader.opening import read_manifest, read_session
from backends.storage.base import Storage
from backends.storage.unreachable import reaching


class Facts:
    """The manifest, the session marker and the names of all files as they are when this is made.

    Raises NotABackup, FromTheFuture, Damaged or Unreachable.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._session: Session | None = None
        self._session_damage: BackupError | None = None
        with reaching(storage):
            self.manifest: Manifest = read_manifest(storage)
            try:
                self._session = read_session(storage)
            except BackupError as error:  # only some of those who ask need it
                self._session_damage = error
            self.names: Sequence[str] = storage.names()

    @property
    def backup_id(self) -> str:
        """The backup's random id in hex."""
        return self.manifest.backup_id.hex()

    @property
    def session(self) -> Session | None:
        """The session marker; None when there is none. Raises Damaged when it cannot be read."""
        if self._session_damage is not None:
            raise self._session_damage
        return self._session

    @property
    def node_id(self) -> str | None:
        """The public key (hex) of the node whose backup this is, once it was known."""
        return self.manifest.node_id or (self._session.node_id if self._session is not None else None)

    @property
    def last_writer(self) -> LastWriter | None:
        """Who wrote this backup last; None when nobody has yet, or nothing tells."""
        return None if self._session is None else self._session.last_writer

    @property
    def end(self) -> Position:
        """Where the log ends. Raises Damaged."""
        return self.last[1]

    @cached_property
    def last(self) -> tuple[Found, Position]:
        """The segment in which the log ends, and where it ends. Raises Damaged."""
        with reaching(self._storage):
            return find_end(self._storage, self.manifest, self.session, self.names)

    @cached_property
    def known_damage(self) -> KnownDamage | None:
        """What was once found to be wrong with the current generation."""
        with reaching(self._storage):
            return read_damage(self._storage, self.manifest.generation)
