"""What a member holds at one moment, while a node may go on writing there."""

import errno
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from backends.errors import BackupError
from backends.log.format.attachments import ATTACHMENTS
from backends.log.format.documents import MANIFEST, Manifest
from backends.log.format.keys import KEYS
from backends.members.key_copies import read_keys_file
from backends.members.shared_files import DOCUMENTS, STORED, shared_names
from backends.members.validity import document_in
from backends.storage.base import Storage

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Moment:
    """What a member held at one moment: its documents, and the names of the shared files that they speak of."""

    documents: Mapping[str, bytes]
    names: Sequence[str]
    manifest: Manifest

    def without(self, left_alone: Collection[str]) -> "Moment":
        """The same, but for these files."""
        documents = {name: data for name, data in self.documents.items() if name not in left_alone}
        return replace(self, documents=documents, names=[name for name in self.names if name not in left_alone])


def moment_of(source: Storage) -> Moment:
    """What a member holds now.

    Raises OSError, and BackupError if the manifest is missing or damaged: then nothing may be copied from here.
    """
    for _ in range(_ATTEMPTS):
        documents = {name: data for name in DOCUMENTS if (data := _document_to_copy(source, name)) is not None}
        names = [name for name in shared_names(source.names()) if name not in STORED or name in documents]
        # Files are removed after a new manifest, so under the same manifest all that it needs was listed.
        if MANIFEST not in documents:
            raise FileNotFoundError(errno.ENOENT, "there is no manifest", MANIFEST)
        if source.read_small(MANIFEST) == documents[MANIFEST]:
            return Moment(documents, names, Manifest.decode(documents[MANIFEST]))
    raise OSError(errno.EAGAIN, f"{source.describe()} is changing faster than it can be copied")


def _document_to_copy(source: Storage, name: str) -> bytes | None:
    """The bytes of a document that the target is to get; None if there is none.

    A damaged copy of one of the node's files replaces nothing and stops nothing: the running node stores it again.
    Damaged key slots are better than none.
    """
    if name == KEYS:
        return read_keys_file(source)
    try:
        if name not in ATTACHMENTS:
            return source.read_small(name)
        found = document_in(source, name)
        return found if isinstance(found, bytes) else None
    except FileNotFoundError:
        return None
    except (OSError, BackupError):
        if name not in ATTACHMENTS:
            raise
        return None
