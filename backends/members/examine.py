"""What a member is like that is to be caught up: whether it may be written to at all.

Nothing newer, and nothing of anybody else's, is ever overwritten. So a directory counts as this backup's only if what
is in it says so, and an empty one only if the right disk is mounted there.

Encrypted backups
-----------------
A member that was away while the backup was encrypted comes back with files that everybody can read. They do not count
as its state any more (`MembersDocument.decode`, `Manifest.decode`), because anybody can have written them. But they are
read here, to find out whether they may be overwritten: only if they are of this backup, of an epoch that this node
knows, and of one of its own sessions. Somebody who forges them gains nothing: at worst, that member is left alone.
At a member in sync, it is the other way round: whoever takes it over has the key, so what is not sealed there is no
other node's. That member has failed, and this node goes on without it.
"""

from contextlib import suppress
from enum import Enum, auto

from backends import keyring
from backends.errors import BackupError
from backends.log.format.attachments import ATTACHMENTS
from backends.log.format.documents import MANIFEST, SESSION, Manifest, Session
from backends.log.format.keys import KEYS
from backends.log.format.members import MEMBERS, Epoch, MembersDocument
from backends.log.format.records import segment_index, snapshot_generation
from backends.log.format.text_files import decode_document
from backends.log.reader.opening import read_session
from backends.members.where import mount_point
from backends.node.members_note import MembersNote
from backends.places.base import Place
from backends.storage.base import LOCK, TEMPORARY, Storage


class Obstacle(Enum):
    """Why a member is not caught up."""

    NOT_THERE = auto()
    """It cannot be reached, read or written."""
    NOT_MOUNTED = auto()
    """Its directory's disk is not mounted: what would be written there would land on another disk."""
    OTHER_BACKUP = auto()
    """There is another backup, or something else, in its place."""
    SOURCE_DAMAGED = auto()
    """The members in sync hold a damaged file, and this one may hold the last good copy of it."""
    OTHER_NODE = auto()
    """Another node, one that this one does not know of, has written to it."""


class Obstructed(Exception):
    """The member must not be written to now. `why` is a clause for people."""

    def __init__(self, obstacle: Obstacle, why: str) -> None:
        super().__init__(why)
        self.obstacle, self.why = obstacle, why


def examine(name: str, url: str, place: Place, note: MembersNote) -> bool:
    """Whether the member's directory exists. Raises Obstructed if it must not be written to now."""
    try:
        place.check_where()
        place.check_writable()
        _demand_mount(url, note.mounts.get(name))
        if not place.storage.exists():
            return False
        _demand_ours(place.storage, note)
    except OSError as error:
        raise Obstructed(Obstacle.NOT_THERE, error.strerror or str(error)) from error
    except BackupError as error:
        raise Obstructed(Obstacle.NOT_THERE, error.clause or str(error)) from error
    return True


def _demand_mount(url: str, noted: str | None) -> None:
    if noted is not None and mount_point(url) != noted:
        raise Obstructed(Obstacle.NOT_MOUNTED, f"nothing is mounted at {noted}")


def _demand_ours(storage: Storage, note: MembersNote) -> None:
    """Raise Obstructed unless the directory holds an earlier state of this backup, or nothing."""
    document, manifest, session = _members(storage), _manifest(storage), _session(storage)
    found = {document.backup_id if document else None, manifest.backup_id.hex() if manifest else None} - {None}
    if found - {note.backup_id}:
        raise Obstructed(Obstacle.OTHER_BACKUP, f"it holds another backup ({', '.join(sorted(filter(None, found)))})")
    foreign = [name for name in storage.names() if not _of_a_backup(name)]
    if not found and foreign:
        raise Obstructed(Obstacle.OTHER_BACKUP, f"its directory holds something else ({foreign[0]})")
    if is_foreign(document, session, note):
        raise Obstructed(Obstacle.OTHER_NODE, "another node has written to it")


def is_foreign(document: MembersDocument | None, session: Session | None, note: MembersNote) -> bool:
    """Whether a node that this one does not know of has written to the member.

    While another writer takes a member over, its session marker comes first and its document later.
    """
    if document is not None and not note.knows(document.epoch):
        return True
    at_present = document is None or document.epoch.number > note.adopted
    wrote = session is not None and session.session_id
    return bool(at_present and wrote and not note.began(wrote))


def seen_as_foreign(storage: Storage, note: MembersNote, *, in_sync: bool) -> bool:
    """`is_foreign` for a member as it is now. Raises OSError."""
    document, session = _members(storage), _session(storage)
    if document is not None and document.backup_id != note.backup_id:
        return False  # another backup was put in its place
    if in_sync and keyring.demanded(bytes.fromhex(note.backup_id)):
        document = document if document is not None and document.key is not None else None
        session = session if session is not None and session.key is not None else None
    return is_foreign(document, session, note)


def is_readable(storage: Storage) -> bool:
    """Whether everybody can read what this member says about the others. Raises OSError."""
    document = _members(storage)
    return document is not None and document.key is None


def epoch_in(storage: Storage) -> Epoch | None:
    """The epoch that this member says it is in, sealed or not; None if that cannot be read. Raises OSError."""
    document = _members(storage)
    return None if document is None else document.epoch


def _members(storage: Storage) -> MembersDocument | None:
    with suppress(FileNotFoundError, BackupError):
        return MembersDocument.as_found(storage.read_small(MEMBERS))
    return None


def _manifest(storage: Storage) -> Manifest | None:
    with suppress(FileNotFoundError, BackupError):
        return Manifest.from_fields(decode_document(MANIFEST, storage.read_small(MANIFEST)))
    return None


def _session(storage: Storage) -> Session | None:
    with suppress(BackupError):
        return read_session(storage)
    return None


_DOCUMENTS = frozenset({MANIFEST, SESSION, MEMBERS, LOCK, KEYS, "kept", "damage", *ATTACHMENTS})


def _of_a_backup(name: str) -> bool:
    stem = name.removesuffix(TEMPORARY).rpartition("-")[0] if name.endswith(TEMPORARY) else name
    known = segment_index(stem) is not None or snapshot_generation(stem) is not None
    return known or stem.startswith("torn-") or name.endswith(TEMPORARY) or name in _DOCUMENTS
