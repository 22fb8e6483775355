"""The key slots of an encrypted backup at all its members: which document counts, and putting another in its place.

The document is read again right before it is replaced, and replaced as a whole, also while the node runs: the plugin
writes it only if it is lost or damaged (plugin/slots_watch.py), and what a person has written last stays.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from backends.errors import BackupError, DamagedSlot, Unreachable
from backends.keyring import DataKey
from backends.log.format.keys import KeysDocument, nothing_readable
from backends.log.key_slots import publish_keys
from backends.members.key_copies import read_keys_file, replaces
from backends.members.survey import WITHIN, ask_all, why_not_seen
from backends.members.urls import split_trailing
from backends.storage.base import Storage
from backends.system.interrupts import ignored
from backends.text import printable
from backup_cli.console import warn
from backup_cli.options import existing_backup
from backup_cli.seen_encryption import Encrypted, look_for_encryption

_LATER = "It gets the key slots as they are now when the running node catches it up"


@dataclass(frozen=True, slots=True)
class SharedSlots:
    """The places of one encrypted backup. At least one can be read."""

    members: tuple[Encrypted, ...]
    away: tuple[str, ...]
    """The URLs of those that cannot be read now, or are not encrypted yet."""

    @classmethod
    def at(cls, urls: Sequence[str]) -> "SharedSlots":
        """Look at the backup with these URLs. Raises BackupError if it is not encrypted, or cannot be read."""
        members, plain = look_for_encryption(urls)
        if not members and plain is not None:
            raise BackupError(
                f"{plain.describe()} is not encrypted, so it has no key slots, and nothing was changed. To encrypt the "
                "backup of a node, stop the node and run: backup-cli resync --encrypt"
            )
        if not members:
            existing_backup(urls[0])
            raise Unreachable(
                f"none of {', '.join(urls)} can be read now; nothing was changed: bring one back, then repeat"
            )
        first = members[0]
        for other in members:
            if other.backup_id != first.backup_id:
                raise BackupError(
                    f"{first.url} and {other.url} are two different backups, and key slots are for one of them; "
                    "nothing was changed: name the members of one backup"
                )
        asked = [split_trailing(url)[0] for url in urls]
        found = {member.url for member in members}
        away = tuple(url for url in asked if url not in found) if len(asked) > 1 else ()
        return cls(tuple(members), away)

    @property
    def backup_id(self) -> bytes:
        """The backup's id."""
        return self.members[0].backup_id

    @property
    def storages(self) -> Mapping[str, Storage]:
        """The storages of the members that can be read, by URL."""
        return {member.url: member.storage for member in self.members}

    def read(self) -> KeysDocument:
        """The document that counts. Raises DamagedSlot if there is none, or none that can be read."""
        best: bytes | None = None
        for data in self.copies().values():
            if data is not None and replaces(data, best):
                best = data
        if best is None:
            raise nothing_readable()
        return KeysDocument.decode(best)

    def copies(self) -> dict[str, bytes | None]:
        """Each member's copy, by URL; None if it has none. A member that does not answer is left out."""
        questions = {url: partial(read_keys_file, storage) for url, storage in self.storages.items()}
        return ask_all(questions, WITHIN)[0]

    def as_it_counts(self, key: DataKey) -> KeysDocument:
        """The document to add a slot to: the one that counts, or an empty one if that cannot be used. The key is known.

        What cannot be used is warned of.
        """
        try:
            document = self.read()
        except DamagedSlot:
            warn(
                "the backup has no key slots that can be read, so new ones are made: what opened it before may not now"
            )
            return KeysDocument(key.backup_id, key.id)
        if (document.backup_id, document.key_id) != (key.backup_id, key.id):
            warn("the file `keys` of this backup is another backup's, or was changed, so new key slots are made")
            return KeysDocument(key.backup_id, key.id)
        return document

    def change(self, key: DataKey, change: Callable[[KeysDocument], KeysDocument]) -> KeysDocument:
        """Replace the document at every member, durably, by what `change` makes of it. Returns what is there now.

        Members that cannot be written are warned of. Raises BackupError if no member could be written, or as `change`.
        """
        document = change(self.as_it_counts(key))
        self.publish(document)
        return document

    def publish(self, document: KeysDocument) -> None:
        """Give every member this document, durably; see `change`."""
        questions = {url: partial(publish_keys, storage, document) for url, storage in self.storages.items()}
        with ignored():  # what one member has taken over cannot be undone, and the others must not be left behind
            done, failures = ask_all(questions, WITHIN)
        if not done:
            failure = next(iter(failures.values()))
            if isinstance(failure, BackupError):
                raise failure
            raise Unreachable(
                f"{self.members[0].url} has not answered, so nobody knows whether the key slots were changed; nothing "
                "else was. To see them, run: backup-cli keys"
            )
        for url, error in failures.items():
            warn(f"{printable(url)} could not be written: {why_not_seen(error, WITHIN)}. {_LATER}")
        self.warn_of(self.away)

    def warn_of(self, away: Collection[str]) -> None:
        """Say which members were not reached."""
        for url in away:
            warn(f"{printable(url)} could not be read, so nothing was changed there. {_LATER}")
