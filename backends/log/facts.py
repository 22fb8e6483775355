"""What a backup says about itself at one moment. Each file is read once: on a share every read costs a round trip."""

from collections.abc import Sequence

from backends.base import LastWriter, Position
from backends.errors import BackupError
from backends.log.format.documents import Manifest, Session
from backends.log.known_damage import KnownDamage, read_damage
from backends.log.reader.end import ScannedSegment, find_end
from backends.log.reader.opening import read_manifest, read_session_of
from backends.storage.base import Storage
from backends.storage.unreachable import reaching


class Facts:
    """The manifest and the session marker, read when this object is made, and the names of all files.

    Making it raises NotABackup, FromTheFuture, Damaged or Unreachable. What is asked for later is read once. That is
    not left to `cached_property`: before Python 3.12 it holds one lock for all objects, so a destination that hangs
    would also hang whoever asks another one.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._session: Session | None = None
        self._session_damage: BackupError | None = None
        self._names: Sequence[str] | None = None
        self._last: tuple[ScannedSegment, Position] | None = None
        self._known_damage: tuple[KnownDamage | None] | None = None
        with reaching(storage):
            self.manifest: Manifest = read_manifest(storage)
            try:
                self._session = read_session_of(self.manifest, storage)
            except BackupError as error:  # only some callers need it, so the error waits for `session`
                self._session_damage = error

    @property
    def names(self) -> Sequence[str]:
        """The names of all files. Listed when first asked for: who only asks whose backup it is needs no listing."""
        if self._names is None:
            with reaching(self._storage):
                self._names = self._storage.names()
        return self._names

    @property
    def backup_id(self) -> str:
        """The backup's random id in hex."""
        return self.manifest.backup_id.hex()

    @property
    def session(self) -> Session | None:
        """The session marker; None if there is none. Raises Damaged or another BackupError if it cannot be read."""
        if self._session_damage is not None:
            raise self._session_damage
        return self._session

    @property
    def node_id(self) -> str | None:
        """The public key (hex) of the node that this backup belongs to; None if not known yet."""
        return self.manifest.node_of(self._session)

    @property
    def last_writer(self) -> LastWriter | None:
        """Who wrote this backup last; None if no node has written yet or the session marker cannot be read."""
        return None if self._session is None else self._session.last_writer

    @property
    def end(self) -> Position:
        """Where the log ends. Raises Damaged."""
        return self.last[1]

    @property
    def last(self) -> tuple[ScannedSegment, Position]:
        """The segment in which the log ends, and where it ends. Raises Damaged."""
        if self._last is None:
            with reaching(self._storage):
                self._last = find_end(self._storage, self.manifest, self.session, self.names)
        return self._last

    @property
    def known_damage(self) -> KnownDamage | None:
        """Damage that an earlier reader found in the current generation; None if none is noted."""
        if self._known_damage is None:
            with reaching(self._storage):
                self._known_damage = (read_damage(self._storage, self.manifest.generation),)
        return self._known_damage[0]
