"""`resync --encrypt`: a backup that everybody can read becomes an encrypted one.

Killed at any step, this leaves one of three states, and each goes on:

1. Before backup.key is written (`pending`): nothing has changed.
2. Until the manifest of the new, encrypted generation is published: the backup is the plain one that it was. The node
   starts with it, and says that the change-over is to be repeated. Then the same key is used again.
3. Afterwards the backup is encrypted. The next start, or the command repeated, notes that in backup.key.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from backends import backup_at, keyring
from backends.errors import BackupError, KeyNeeded
from backends.keyring import DataKey
from backends.log.attachments import publish_attachment
from backends.log.backup import Backup
from backends.log.ciphertext import check_ciphertext
from backends.log.format.attachments import MAX_DOCUMENT, AttachedFile, Attachment
from backends.log.format.documents import Manifest
from backends.log.format.keys import KeysDocument
from backends.log.key_slots import publish_keys, read_keys
from backends.log.reader.opening import read_manifest
from backends.node.key_file import NodeKey, finish_pending, load_key, read_key, write_key
from backends.node.lockfile import Settings
from backends.storage.base import Storage
from backends.storage.unreachable import reaching
from backup_cli.console import say, warn
from backup_cli.encrypting import Encrypt, NewSlots, new_slots, would_open
from backup_cli.new_key import tell_key
from plugin.node_key import check_key


def load_key_to_resync(directory: Path, encrypt: Encrypt | None) -> NodeKey | None:
    """Make the node's key known, and return what backup.key holds.

    With `encrypt`, a plain backup is accepted although backup.key says that it is encrypted. Raises KeyNeeded or
    FromTheFuture, but with `encrypt` a file that cannot be read counts as none: it is kept aside.
    """
    if encrypt is None:
        load_key(directory)
        return read_key(directory)
    found = None
    with suppress(KeyNeeded):
        found = read_key(directory)
    if found is not None:
        keyring.add(found.key)
    return found


def demand_plain(directory: Path, settings: Settings, manifest: Manifest, found: NodeKey | None) -> None:
    """Raise BackupError if the backup is encrypted already, unless that is the change-over that was not finished."""
    if manifest.key is None or (found is not None and found.pending and found.key.id == manifest.key):
        return
    check_key(directory, settings, manifest)
    raise BackupError(
        f"the backup at {' and '.join(settings.urls)} is encrypted already (key {manifest.key}); nothing was "
        "changed. A resync without --encrypt keeps it so. For another key, make another one: backup-cli init --encrypt"
    )


@dataclass(slots=True)
class ChangeOver:
    """One run of it, for the node in `directory`."""

    directory: Path
    key: DataKey
    """The new key, or that of an earlier run."""
    is_known: bool
    """Whether backup.key holds it already."""
    slots: NewSlots
    document: KeysDocument
    """The key slots as they are to be."""
    storage: Storage | None = None
    """That of the opened backup."""

    @classmethod
    def planned(
        cls, directory: Path, backup: Backup, found: NodeKey | None, encrypt: Encrypt, node: str | None
    ) -> "ChangeOver":
        """Ask for what is to open the backup. Changes nothing. Raises BackupError."""
        backup_id = bytes.fromhex(backup.id())
        known = found is not None and found.key.backup_id == backup_id
        key = found.key if found is not None and known else DataKey.new(backup_id)
        keyring.add(key)  # not demanded: the backup may be read as it is
        document = _slots_there(backup, key)
        if document.slots and not encrypt.key.named:
            slots = NewSlots()  # what an earlier run has asked for
        else:
            slots = new_slots(directory, encrypt, node)
            document = slots.added_to(document, key)
        return cls(directory, key, known, slots, document)

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Around all that is written. The node's side has the key before the backup does. Raises BackupError."""
        if not self.is_known:
            write_key(self.directory, self.key, pending=True)
        try:
            yield
        except BaseException:
            if not self._is_done():
                warn(
                    "the backup is not encrypted yet: what was stored in the clear is still there, and counts. The "
                    "node may start with it; to encrypt it, repeat this command"
                )
            raise

    def publish_slots(self, storage: Storage) -> None:
        """Put the key slots into the backup, before anything is encrypted. Raises BackupError."""
        self.storage = storage
        publish_keys(storage, self.document)

    def seal_attachments(self, storage: Storage) -> None:
        """Encrypt those of the node's files that are still stored in the clear. The backup is encrypted by now."""
        for which in Attachment:
            try:
                with reaching(storage):
                    _seal(storage, which)
            except (BackupError, OSError) as error:
                warn(
                    f"{which.value} in the backup could not be encrypted: {error}. To try it again, repeat this command"
                )

    def _is_done(self) -> bool:
        """Whether the backup is encrypted now, as far as can be seen."""
        with suppress(BackupError, OSError):
            return self.storage is not None and read_manifest(self.storage).key == self.key.id
        return False

    def tell(self, left_out: Sequence[str]) -> None:
        """Say what has become of the backup, and what opens it. `left_out`: the members that were not changed."""
        tell_key(self.directory, self.slots, self.document)
        say(
            "What was stored in the clear is removed. A destination that keeps old versions of files (snapshots, a "
            "versioned bucket, a trash) may still have it: delete them there"
        )
        for name in left_out:
            warn(
                f"the member {name} is not in sync, and still holds the backup in the clear. It is encrypted once it "
                "is caught up, which the running node does by itself"
            )


def finish_change_over(directory: Path, key_id: str) -> None:
    """Note on the node's side that the backup is encrypted with this key, if that was pending. Raises BackupError."""
    found = read_key(directory)
    if found is not None and found.key.id == key_id:
        keyring.add(found.key, demanded=True)
        finish_pending(directory)


def check_changed_over(settings: Settings, left_out: Collection[str]) -> None:
    """Look at every file of the backup, at each member but those that were not changed. Raises NotCiphertext."""
    members = [member for member in settings.members if member.name not in left_out]
    for url in [member.url for member in members] if settings.members else [settings.url]:
        check_ciphertext(backup_at(url).storage)


def would_change_over(directory: Path, encrypt: Encrypt, node: str | None) -> list[str]:
    """The steps that a dry run lists for it. Raises BackupError."""
    return [
        *would_open(directory, encrypt, node),
        "remove what the backup holds now, which everybody can read, and what it keeps of earlier generations",
    ]


def _slots_there(backup: Backup, key: DataKey) -> KeysDocument:
    """The slots that an earlier run has published; none if they are not surely this key's own."""
    with suppress(BackupError):
        document = read_keys(backup.storage)
        if document.authentic and document.key_id == key.id:
            return document
    return KeysDocument(key.backup_id, key.id)


def _seal(storage: Storage, which: Attachment) -> None:
    try:
        data = storage.read_small(which.value, MAX_DOCUMENT)
    except FileNotFoundError:
        return
    attached = AttachedFile.decode(which, data)
    if not attached.sealed and attached.content is not None:
        publish_attachment(storage, which, attached.content)
