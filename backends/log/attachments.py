"""Small files of the node that travel with its backup: storing one, and reading it back.

A document is published as a whole, so a reader finds the old one or the new one. It belongs to no generation: a
compaction, a new snapshot and a new writer leave it alone.
"""

from backends.errors import Damaged, KeyNeeded
from backends.log.format.attachments import MAX_DOCUMENT, AttachedFile, Attachment
from backends.log.format.records import time_now
from backends.log.reader.opening import read_manifest
from backends.storage.base import Storage


def read_attachment(storage: Storage, which: Attachment) -> bytes | None:
    """The content of the node's file that is stored in this backup; None if none is.

    Raises Damaged, KeyNeeded, FromTheFuture or NotABackup; OSError from the storage.
    """
    attached = read_attached(storage, which)
    return None if attached is None else attached.content


def read_attached(storage: Storage, which: Attachment) -> AttachedFile | None:
    """The same with its size and time; its `content` is never None. Raises like `read_attachment`."""
    try:
        data = storage.read_small(which.value, MAX_DOCUMENT)
    except FileNotFoundError:
        return None
    attached = AttachedFile.decode(which, data)
    if not attached.sealed and read_manifest(storage).key is not None:
        raise Damaged("content that is not encrypted, in an encrypted backup,", which.value, 0)
    if attached.content is None:
        raise KeyNeeded(
            f"{which.value} is stored encrypted in {storage.describe()}, and its key is not here. Nothing was changed; "
            "give the key, the node's hsm_secret or the passphrase"
        )
    return attached


def publish_attachment(storage: Storage, which: Attachment, content: bytes) -> None:
    """Store this content of the node's file, in place of what was stored before; durable when this returns.

    Raises KeyNeeded, NotEncrypted for a secret in a backup that is not encrypted, BackupError for content that is empty
    or too large, or if the manifest cannot be used; OSError from the storage.
    """
    attached = AttachedFile(which, content, len(content), time_now())
    storage.publish(which.value, attached.encode(read_manifest(storage).key))
