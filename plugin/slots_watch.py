"""Looking after the key slots of an encrypted backup while the node runs, so that their loss is not found on the day
when they are needed.

The maintenance thread reads the file `keys` now and then; no commit waits for that. What this process has seen of it
before is written again if it is lost or damaged, passphrases included: every slot holds the same key, so an earlier one
is as good as a new one. Without that memory the slot for `hsm_secret` can be made again, as at a start.

People change the file beside the running node, at one member after the other. So nothing is written before two looks in
a row have found the same, and what the key's holder has written last always counts, never the memory.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from backends import keyring
from backends.base import Report
from backends.errors import BackupError, Fenced
from backends.keyring import DataKey
from backends.log.format.keys import KeysDocument
from backends.log.key_slots import publish_keys, with_hsm_slot
from backends.log.slots_health import SlotsHealth, health_of
from backends.log.status import TroubleKind
from backends.log.writer.writer import Writer
from backends.members.epochs import clause
from backends.members.key_copies import rank
from backends.members.running import RunningMembers
from backends.node.hsm_secret import HSM_SECRET
from backends.storage.base import FileFenced, Storage
from plugin.key_slots import command, damaged_slots, derived_of, found_slots, holds_secret, is_due, still_to_do

LOOK_EVERY = 60.0
"""Seconds between two looks: as long as between two at the free space."""

LOOK_AT_COSTLY_EVERY = 3600.0
"""The same where each request costs money, or is one of few that the server allows."""

LOOK_AGAIN = 5.0
"""Seconds from a look that has found something wrong, or from a write that failed, to the next."""

_Seen = tuple[tuple[KeysDocument, ...], tuple[str, ...]]
"""The documents of the places that hold one of this key, and the names of the places that do not."""


class SlotsWatch:
    """Called by the maintenance thread only; `health` may be read by every thread."""

    def __init__(self, directory: Path, report: Report) -> None:
        self._directory, self._report = directory, report
        self.health: SlotsHealth | None = None
        """As of the last look; None if the backup is not encrypted, or before its slots were read."""
        self._next_look = 0.0
        self._known: KeysDocument | None = None
        """What the key's holder is known to have written."""
        self._wrong: _Seen | None = None
        """What the last look has found, if that is to be changed."""
        self._told: TroubleKind | None = None
        self._told_failure = False
        self._begun = False
        """Whether a look has come to an end. What the first one finds, the start has told."""

    def tick(self, writer: Writer, members: RunningMembers | None) -> None:
        """Look at the key slots if that is due. Raises nothing for a destination that fails."""
        now = time.monotonic()
        key = None if writer.manifest.key is None else keyring.find(writer.manifest.key)
        if key is None or now < self._next_look or writer.failure is not None:
            return
        self._next_look = now + (LOOK_AT_COSTLY_EVERY if writer.storage.costly else LOOK_EVERY)
        storages = {writer.storage.describe(): writer.storage} if members is None else dict(members.mirror.in_sync)
        try:
            if not self._look(writer, storages, key):
                self._next_look = now + LOOK_AGAIN
        except (Fenced, FileFenced):
            return  # the backup is another writer's now, and the next check of the fence says so
        except (OSError, BackupError) as error:
            self._next_look = now + LOOK_AGAIN
            if not self._told_failure:
                self._told_failure = True
                self._report("unusual", _could_not_be_written(error))

    def _look(self, writer: Writer, storages: Mapping[str, Storage], key: DataKey) -> bool:
        """Whether the next look may wait. Raises OSError or BackupError if the slots could not be written."""
        found, bad, _ = found_slots(storages, key)
        if not found and not bad:
            return True  # nobody has answered, which is told elsewhere
        best = max(found, key=rank, default=None)
        there = best or KeysDocument(key.backup_id, key.id, next=2)  # there has been a slot: the start has seen to that
        wanted = mended(best, self._known) or KeysDocument(key.backup_id, key.id)
        if not bad and all(_is_fine(document, wanted) for document in found):
            self._wrong = None
            self._ended(there, key)
            return True
        seen = tuple(found), tuple(bad)
        if self._wrong != seen:
            self._wrong = seen
            return False
        remembered, why = bool(wanted.slots), None
        if is_due(wanted) and not holds_secret(storages):
            try:
                wanted = with_hsm_slot(wanted, key, derived_of(self._directory))
            except BackupError as error:
                why = error
        if not wanted.slots:
            self._ended(there, key, why)
            return True
        try:
            writer.check_not_fenced()
            publish_keys(writer.storage, wanted)
        except (OSError, BackupError):
            self.health = self._health_of(there, key)
            raise
        self._wrong, self._told_failure = None, False
        self._report("unusual", _written(bad, whole=remembered))
        self._ended(replace(wanted, intact=True, authentic=True), key)
        return True

    def _health_of(self, document: KeysDocument, key: DataKey) -> SlotsHealth:
        return health_of(document, key.backup_id, key.id, partial(command, self._directory))

    def _ended(self, document: KeysDocument, key: DataKey, why: BackupError | None = None) -> None:
        """Note what the look has found, and tell it once. `why`: no slot could be made for hsm_secret."""
        if document.authentic:
            self._known = document
        self.health = self._health_of(document, key)
        trouble, told = self.health.trouble, self._told
        first, self._begun = not self._begun, True
        self._told = None if trouble is None else trouble.kind
        if trouble is None or trouble.kind is told or first:
            return
        if trouble.kind is TroubleKind.KEY_SLOT_DAMAGED:
            self._report(*damaged_slots(document))
        elif why is not None:
            self._report(*still_to_do(self._directory, why, first=False, opened=False))
        else:
            self._report("broken" if trouble.kind is TroubleKind.NO_KEY_SLOT else "unusual", trouble.sentence)


def mended(found: KeysDocument | None, known: KeysDocument | None) -> KeysDocument | None:
    """What the file should hold: `found` is what can be read of it, `known` what the key's holder has written before.

    A slot that was removed does not come back, unless the file that said so is damaged as well. What the holder has
    written stays, also if it seems to be older: somebody may have made new slots because the file was lost.
    """
    if found is None or known is None:
        return found or known
    if not found.authentic and (found.intact or found.next <= known.next):
        return known
    before = {slot.number: slot for slot in known.slots}
    again = tuple(before[name.number] for name in found.lost if name in known.names and name.number in before)
    slots = tuple(sorted((*found.slots, *again), key=lambda slot: slot.number))
    lost = tuple(name for name in found.lost if all(slot.number != name.number for slot in again))
    return replace(found, slots=slots, lost=lost)


def _is_fine(document: KeysDocument, wanted: KeysDocument) -> bool:
    """Whether this place can stay as it is. A file that somebody else has changed stays if nothing better is known."""
    return document == wanted and document.authentic >= wanted.authentic and (document.intact or bool(document.lost))


def _written(bad: list[str], *, whole: bool) -> str:
    where = f" at {' and '.join(bad)}" if bad else ""
    if whole:
        return (
            f"the file `keys`, which holds the key slots, was missing or damaged{where}, or somebody without the key "
            "has changed it. It was written again as this node had last seen it, passphrases included; changes were "
            "saved all the time. If you have removed a slot in the last hour, look whether it is still removed, with: "
            "backup-cli keys. Find out who or what has changed the destination"
        )
    return (
        f"the file `keys`, which holds the key slots, was missing or damaged{where}. It was written again with a slot "
        f"for {HSM_SECRET}; changes were saved all the time. Passphrases must be added again: backup-cli keys "
        "--add-passphrase"
    )


def _could_not_be_written(error: BaseException) -> str:
    return (
        f"the file `keys`, which holds the key slots, is missing or damaged, and could not be written again: "
        f"{clause(error)}. It is tried again; changes are saved as before. Until then, keep a copy of backup.key"
    )
