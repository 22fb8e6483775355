"""What everybody can see of a backup's encryption: under which key it is, and its key slots."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from backends import backup_at, keyring
from backends.errors import BackupError, Damaged, NotEncrypted
from backends.log.backup import Backup
from backends.log.format.keys import KeysDocument
from backends.log.key_slots import read_keys, slots_in_words
from backends.log.reader.opening import read_manifest
from backends.members.survey import WITHIN, ask_all
from backends.members.urls import split_trailing
from backends.storage.base import Storage
from backends.storage.unreachable import reaching
from backup_cli.options import existing_backup, find_backup
from backup_cli.waiting import answered

Where = Backup | str | Sequence[str]
"""A backup, its URL, or the URLs of its members."""


@dataclass(frozen=True, slots=True)
class Encrypted:
    """An encrypted backup, or one member of it, as everybody can see it."""

    url: str
    storage: Storage
    backup_id: bytes
    key_id: str

    @property
    def is_open(self) -> bool:
        """Whether this process knows the key."""
        return keyring.find(self.key_id) is not None


def encryption_at(where: Where) -> Encrypted | None:
    """What everybody can see of the encryption of the backup at these URLs; None if it is not encrypted or cannot be
    read. Raises like `look_for_encryption`."""
    members, _ = look_for_encryption(where)
    return members[0] if members else None


def look_for_encryption(where: Where) -> tuple[list[Encrypted], Backup | None]:
    """The members that are encrypted, and one that is not. Of several, those that cannot be read are left out.

    Raises NotEncrypted, and what keeps the only one from being read.
    """
    found: list[Encrypted | Backup | None]
    if isinstance(where, Backup):
        found = [_quietly(where)]
    elif isinstance(where, str) or len(where) == 1:
        found = [_alone(split_trailing(where if isinstance(where, str) else where[0])[0])]
    else:
        urls = [split_trailing(url)[0] for url in where]
        answers, failures = ask_all({url: partial(_encryption_at, url) for url in urls}, WITHIN)
        for error in failures.values():
            if isinstance(error, NotEncrypted):
                raise error
        found = list(answers.values())
    members = [each for each in found if isinstance(each, Encrypted)]
    plain = [each for each in found if isinstance(each, Backup)]
    return members, plain[0] if plain else None


def _alone(url: str) -> Encrypted | Backup | None:
    """The same for one URL. If it cannot be read, that is raised and not asked again: it may have taken minutes."""
    try:
        named, backup = existing_backup(url)
    except Damaged:  # the manifest; what the key slots say may still be good
        named, backup = url, backup_at(url)
    return _quietly(backup, named)


def _quietly(backup: Backup, url: str | None = None) -> Encrypted | Backup | None:
    name = url or backup.describe()
    try:
        return answered(url, lambda: _encryption(name, backup)) if url else _encryption(name, backup)
    except NotEncrypted:
        raise
    except (BackupError, OSError):
        return None


def _encryption_at(url: str) -> Encrypted | Backup:
    named, backup = find_backup(url)
    return _encryption(named, backup)


def _encryption(url: str, backup: Backup) -> Encrypted | Backup:
    """What the backup says of its encryption; the backup itself if it is not encrypted. Raises BackupError."""
    with reaching(backup.storage):
        try:
            manifest = read_manifest(backup.storage)
        except Damaged:
            document = read_keys(backup.storage)
            return Encrypted(url, backup.storage, document.backup_id, document.key_id)
    if manifest.key is None:
        return backup
    return Encrypted(url, backup.storage, manifest.backup_id, manifest.key)


def best_slots(members: Sequence[Encrypted]) -> KeysDocument:
    """The key slots of a backup, from a member where none is damaged, if there is one.

    Raises BackupError if they can be read at no member; see `read_keys`.
    """
    best: KeysDocument | None = None
    failure: BackupError | None = None
    for member in members:
        try:
            document = answered(member.url, partial(read_keys, member.storage))
        except BackupError as error:
            failure = failure or error
            continue
        if best is None or len(document.lost) < len(best.lost):
            best = document
        if not best.lost:
            break
    if best is None:
        assert failure is not None
        raise failure
    return best


@dataclass(frozen=True, slots=True)
class SeenSlots:
    """The key slots of an encrypted backup, for people and programs."""

    key_id: str
    document: KeysDocument | None
    failure: str | None = None
    """Why the slots cannot be read, as a sentence."""

    def in_words(self) -> str:
        """The key and its slots, for a row of a table."""
        if self.document is None:
            return f"with the key {self.key_id}; its slots cannot be read: {self.failure}"
        return f"with the key {self.key_id}; {'; '.join(slots_in_words(self.document)) or 'it has NO key slot'}"

    def as_json(self) -> dict[str, Any]:
        """For programs: each slot, and which of them are damaged."""
        if self.document is None:
            return {"slots": None, "slots_failure": self.failure}
        created = {slot.number: slot.created for slot in self.document.slots}
        return {
            "slots": [
                {"number": number, "kind": kind, "created": created.get(number), "damaged": number not in created}
                for number, kind in self.document.names
            ]
        }


def seen_slots(members: Sequence[Encrypted]) -> SeenSlots:
    """The key slots of this backup. Raises nothing: they only inform."""
    try:
        return SeenSlots(members[0].key_id, best_slots(members))
    except BackupError as error:
        return SeenSlots(members[0].key_id, None, str(error))
