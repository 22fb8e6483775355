"""Damage that was found once and is noted in the backup, so that nobody has to find it a second time.

`status` and a start look at checksums only, but a record can be intact and still not be executable. When a compaction
or `verify` finds such proof that the backup cannot be restored, it leaves the document `damage` in the backup. The note
concerns one generation. Only a new snapshot of the node's database heals the backup: a compaction keeps the last
records as they are, and the bad ones may be among them.

A note may also hold a doubt: the plugin could not show that the node's database held what the backup held when it
started, and goes on while a new snapshot of a large database is made.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from backends import keyring
from backends.errors import BackupError, Damaged
from backends.log.format.records import MAX_NUMBER, time_now
from backends.log.format.text_files import decode_document, encode_document, is_open
from backends.log.reader.opening import read_manifest
from backends.storage.base import Storage
from backends.storage.unreachable import reaching
from backends.times import believed, moment

DAMAGE = "damage"

SEEN = "seen"
"""The field for what was found by a reader that did not have the key of an encrypted backup."""

_MAX_TEXT = 300
"""The most characters in a field."""


_SEALED = "what was found is encrypted, and the key is not here"


@dataclass(frozen=True, slots=True)
class KnownDamage:
    """What was found in a generation, by what, and when (seconds since 1970)."""

    found: int
    by: str  # "compaction", "verify"
    what: str  # one clause in ASCII that contains nothing of any statement
    generation: int
    doubt: bool = False
    """Whether it is not proved that a restore fails, but that it gives the node's state is not proved, either."""

    def encode(self, key_id: str | None = None) -> bytes:
        """The bytes of the file. Under a key, what was found is sealed."""
        return encode_document(DAMAGE, self._public(), {"what": self.what}, key_id)

    def encode_without_key(self) -> bytes:
        """The bytes of the file, for whoever does not have the backup's key: everybody can read it.

        What was found has another name than what is sealed, so that a private field in the open is always a fault.
        """
        return encode_document(DAMAGE, {**self._public(), SEEN: self.what})

    def _public(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "what"}

    @classmethod
    def decode(cls, data: bytes) -> "KnownDamage":
        """The note in the bytes of its file. Raises Damaged, NotABackup or FromTheFuture."""
        fields = decode_document(DAMAGE, data)
        what = _text(fields, SEEN if SEEN in fields else "what") if is_open(fields) else _SEALED
        doubt = fields.get("doubt") is True
        return cls(believed(fields.get("found")), _text(fields, "by"), what, _number(fields, "generation"), doubt)

    def sentence(self) -> str:
        """What a person must know. It says no command: what to type depends on where it is shown."""
        when = moment(self.found, "%Y-%m-%d %H:%M")
        if self.doubt:
            return (
                "this backup may not hold all that the node has done until a new snapshot of its database is complete: "
                f"{self.what} ({self.by}, {when})"
            )
        return f"this backup is known to be damaged, and a restore from it may fail: {self.what} ({self.by}, {when})"

    def why_anew(self) -> str:
        """Why a new snapshot is to be made: of a doubt, the one that was begun for it was not completed."""
        return f"an earlier new snapshot was not completed: {self.what}" if self.doubt else self.sentence()


def found_now(by: str, what: str, generation: int, *, doubt: bool = False) -> KnownDamage:
    """A note of damage, or of a doubt, that was found just now; `what` is made safe to store and show."""
    return KnownDamage(time_now(), by, _shown(what), generation, doubt)


class DamageNotes:
    """The notes of damage in the current generation, whose number the function `generation` returns.

    A note that could not be written is remembered by this object. Methods raise BackupError.
    """

    def __init__(self, storage: Storage, generation: Callable[[], int]) -> None:
        self._storage, self._generation = storage, generation
        self._last: KnownDamage | None = None  # as last read or noted, perhaps about an earlier generation

    def read(self) -> KnownDamage | None:
        """The damage noted for the current generation, read from the backup now; None if there is none."""
        with reaching(self._storage):
            generation = self._generation()
            known = read_damage(self._storage, generation)
            self._last = known or self._of(generation)
            return self._last

    def remembered(self) -> KnownDamage | None:
        """What was read or noted last, if it concerns the current generation; does not read the note again."""
        return self._of(self._generation())

    def note(self, damage: KnownDamage) -> bool:
        """Write the note into the backup. Returns False if its generation is no longer the current one."""
        with reaching(self._storage):
            if damage.generation != self._generation():
                return False
            self._last = damage
            write_damage(self._storage, damage)
            return damage.generation == self._generation()

    def _of(self, generation: int) -> KnownDamage | None:
        last = self._last
        return last if last is not None and last.generation == generation else None


def read_damage(storage: Storage, generation: int) -> KnownDamage | None:
    """The damage noted for this generation; None if there is none. OSError from the storage.

    A note that cannot be read counts as damage: somebody found something.
    """
    try:
        known = KnownDamage.decode(storage.read_small(DAMAGE))
    except FileNotFoundError:
        return None
    except (BackupError, PermissionError) as error:  # a note written by root, perhaps
        why = error.what if isinstance(error, Damaged) else type(error).__name__
        what = f"something was found, but the file `{DAMAGE}`, which says what, cannot be read: {why}"
        return found_now("noticed", what, generation)
    return known if known.generation == generation else None


def write_damage(storage: Storage, damage: KnownDamage) -> None:
    """Write a note, durable when this returns. An earlier note on the same generation stays, be it a doubt: the new
    snapshot that it asks for is being made, and a node that is a few changes behind may still be brought forward.

    Raises OSError, or BackupError if the manifest cannot be read. Who does not have the key of an encrypted backup has
    seen nothing but checksums, and may leave a note that everybody can read.
    """
    if read_damage(storage, damage.generation) is None:
        key_id = read_manifest(storage).key
        known = key_id is None or keyring.find(key_id) is not None
        storage.publish(DAMAGE, damage.encode(key_id) if known else damage.encode_without_key())


def remove_healed(storage: Storage, generation: int) -> None:
    """Remove a note on a generation before this current one; a later one is another writer's. Raises OSError."""
    with suppress(FileNotFoundError, PermissionError, BackupError):
        if KnownDamage.decode(storage.read_small(DAMAGE)).generation < generation:
            storage.remove(DAMAGE)


def remove_damage(storage: Storage) -> None:
    """Remove the note after a new snapshot was published: earlier findings do not apply to it. Raises OSError."""
    with suppress(FileNotFoundError):
        storage.remove(DAMAGE)


def _shown(text: str) -> str:
    """The text, bounded and in printable ASCII: it is shown in terminals and logs, and the disk may be a stranger's."""
    return "".join(character if " " <= character <= "~" else "?" for character in text[:_MAX_TEXT])


def _number(fields: dict[str, Any], key: str) -> int:
    value = fields.get(key)
    if type(value) is not int or not 0 <= value < MAX_NUMBER:
        raise Damaged(f"an impossible value of {key}", DAMAGE, 0)
    return value


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise Damaged(f"an impossible value of {key}", DAMAGE, 0)
    return _shown(value)
