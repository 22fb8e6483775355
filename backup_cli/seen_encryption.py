"""What everybody can see of a backup's encryption: under which key it is, and its key slots."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from queue import Empty, Queue
from typing import Any, NamedTuple

from backends import backup_at, keyring
from backends.errors import BackupError, Damaged, DamagedSlot, KeyNeeded, NotEncrypted
from backends.log.backup import Backup
from backends.log.format.keys import KeysDocument
from backends.log.key_slots import read_keys, slots_in_words
from backends.log.reader.opening import read_manifest
from backends.log.slots_health import KeysCommand, SlotsHealth, health_of, health_of_unreadable
from backends.members.survey import WITHIN
from backends.members.urls import split_trailing
from backends.storage.base import Storage
from backends.storage.unreachable import is_silence, reaching
from backends.text import shell_line
from backup_cli.options import existing_backup, find_backup
from backup_cli.waiting import answered, no_answer, note_silence, silence_of

Where = Backup | str | Sequence[str]
"""A backup, its URL, or the URLs of its members."""

OTHERS_WITHIN = 1.0
"""Seconds that the other members get once one has answered, for a command that waits for all of them afterwards anyway.
All say the same, unless a change is unfinished."""


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


class Look(NamedTuple):
    """What was seen of a backup, or of its members."""

    members: tuple[Encrypted, ...] = ()
    """Those that are encrypted."""
    plain: Backup | None = None
    """One that is not."""

    @property
    def is_closed(self) -> bool:
        """Whether the backup is encrypted, and this process does not know its key."""
        return bool(self.members) and not self.members[0].is_open


def look_for_encryption(where: "Where | Look", *, patient: bool = True) -> Look:
    """Look at the backup. Of several members, those that cannot be read are left out; unless `patient`, also those that
    answer much later than the first.

    Raises NotEncrypted, and what keeps the only one from being read.
    """
    if isinstance(where, Look):
        return where
    if isinstance(where, Backup):
        return _seen([_quietly(where)])
    urls = [split_trailing(url)[0] for url in ([where] if isinstance(where, str) else where)]
    return _seen([_alone(urls[0])] if len(urls) == 1 else _answers(urls, WITHIN if patient else OTHERS_WITHIN))


def _seen(found: Sequence[Encrypted | Backup | None]) -> Look:
    plain = [each for each in found if isinstance(each, Backup)]
    return Look(tuple(each for each in found if isinstance(each, Encrypted)), plain[0] if plain else None)


def _answers(urls: Sequence[str], others_within: float) -> list[Encrypted | Backup | None]:
    """What the members say. `others_within`: seconds that the others get once one has answered."""
    answers: Queue[tuple[str, Encrypted | Backup | BaseException]] = Queue()
    asked = {url for url in urls if silence_of(url) is None}
    for url in asked:
        threading.Thread(target=_answer, args=(url, answers), name="asking", daemon=True).start()
    found: list[Encrypted | Backup | None] = []
    until = time.monotonic() + WITHIN
    while asked:
        try:
            url, answer = answers.get(timeout=max(until - time.monotonic(), 0.0))
        except Empty:
            break
        asked.remove(url)
        if isinstance(answer, NotEncrypted):
            raise answer
        if isinstance(answer, BackupError) and is_silence(answer):
            note_silence(url, answer)
        if not isinstance(answer, BaseException):
            found.append(answer)
            until = min(until, time.monotonic() + others_within)
    for url in asked if not found else ():  # they had all of the time
        note_silence(url, no_answer(url, WITHIN))
    return found


def _answer(url: str, answers: "Queue[tuple[str, Encrypted | Backup | BaseException]]") -> None:
    try:
        named, backup = find_backup(url)
        answers.put((url, _encryption(named, backup)))
    except BaseException as error:  # the command itself meets it again, and says it
        answers.put((url, error))


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
    health: SlotsHealth | None = None
    """None if nobody can tell now."""

    def in_words(self) -> str:
        """The key and its slots, for a row of a table."""
        if self.document is None:
            why = f": {self.failure}" if self.health is None else ""  # otherwise it is a trouble, and told as one
            return f"with the key {self.key_id}; its slots cannot be read{why}"
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


def keys_command(*where: object) -> KeysCommand:
    """The command `backup-cli keys` for this backup (its URLs, or --lightning-dir DIR), with an option."""
    return lambda option: shell_line("backup-cli", "keys", option, *where)


def seen_slots(members: Sequence[Encrypted], command: KeysCommand) -> SeenSlots:
    """The key slots of this backup; `command` is what changes them. Raises nothing."""
    first = members[0]
    try:
        document = best_slots(members)
    except BackupError as error:
        lost = health_of_unreadable(error) if isinstance(error, KeyNeeded | DamagedSlot) else None
        return SeenSlots(first.key_id, None, str(error), lost)
    return SeenSlots(first.key_id, document, None, health_of(document, first.backup_id, first.key_id, command))
