"""One member as it is compared: its documents and the names of its files, read at one moment."""

from dataclasses import dataclass

from backends.errors import BackupError, FromTheFuture, KeyNeeded
from backends.log.format.members import MEMBERS, MembersDocument, PublicPart
from backends.log.reader.opening import read_members
from backends.members.shared_files import DOCUMENTS
from backends.members.validity import Fault, document_in
from backends.storage.base import Storage
from backends.text import printable


@dataclass(frozen=True, slots=True)
class Peer:
    """A member to be compared, and what it says; `document` is None if that cannot be read."""

    name: str
    storage: Storage
    document: MembersDocument | None
    hidden: PublicPart | None = None
    """What everybody can read of a document that is encrypted, if the key is not known."""


class Lost(Exception):
    """A member cannot be read any more."""

    def __init__(self, name: str, error: OSError) -> None:
        super().__init__(name)
        self.name, self.why = name, printable(error.strerror or str(error))


def names_at(peer: Peer) -> list[str]:
    """The names of all files of a member. Raises Lost."""
    try:
        return peer.storage.names()
    except OSError as error:
        raise Lost(peer.name, error) from error


def documents_at(peer: Peer) -> dict[str, bytes | Fault]:
    """The shared documents of a member, each with its bytes or with what is wrong with it. Raises Lost."""
    found: dict[str, bytes | Fault] = {}
    for name in DOCUMENTS:
        try:
            found[name] = document_in(peer.storage, name)
        except FileNotFoundError:
            continue
        except OSError as error:
            names_at(peer)
            found[name] = Fault(f"it cannot be read ({printable(error.strerror or str(error))})", 0)
    return found


def peer_at(name: str, storage: Storage) -> Peer:
    """A member with what it says now. Raises OSError if it cannot be read at all, FromTheFuture."""
    document = hidden = None
    try:
        document = read_members(storage)
    except FromTheFuture:
        raise
    except KeyNeeded:
        hidden = PublicPart.decode(storage.read_small(MEMBERS))
    except BackupError:
        pass
    if document is None:
        storage.names()  # raises if it is not only this file
    return Peer(name, storage, document, hidden)
