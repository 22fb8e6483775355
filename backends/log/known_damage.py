"""What has once proved that a backup cannot be restored, so that nobody has to find it a second time.

`status` and a start look at checksums only: a record may be unharmed and yet not be executable. Whoever finds that out
(a compaction, `verify`) leaves the document `damage` in the backup. It concerns one generation. Only a new snapshot of
the node's database ends it: a compaction takes the last records over as they are, and they may be the bad ones.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from backends.errors import BackupError, Damaged
from backends.log.format.documents import decode_document, encode_document
from backends.log.format.records import MAX_NUMBER, time_now
from backends.storage.base import Storage
from backends.storage.unreachable import reaching
from backends.times import believed, moment

DAMAGE = "damage"

_MAX_TEXT = 300
"""Characters of a field."""


@dataclass(frozen=True, slots=True)
class KnownDamage:
    """What was found about a generation, by whom, and when (seconds since 1970)."""

    found: int
    by: str  # "compaction", "verify"
    what: str  # one clause in ASCII; nothing of a statement stands in it
    generation: int

    def encode(self) -> bytes:
        """The bytes of the file."""
        return encode_document(asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> "KnownDamage":
        """Raises Damaged, NotABackup or FromTheFuture."""
        fields = decode_document(DAMAGE, data)
        return cls(
            believed(fields.get("found")), _text(fields, "by"), _text(fields, "what"), _number(fields, "generation")
        )

    def sentence(self) -> str:
        """What a person must know. What to type depends on who is asked."""
        when = moment(self.found, "%Y-%m-%d %H:%M")
        return f"this backup is known to be damaged, a restore from it may fail: {self.what} ({self.by}, {when})"


def found_now(by: str, what: str, generation: int) -> KnownDamage:
    """Something that was found this moment, fit to be stored and shown."""
    return KnownDamage(time_now(), by, _shown(what), generation)


class DamageNotes:
    """What is known against the current generation, whose number `generation` tells.

    What could not be written is remembered, for whoever asks the same process. Methods raise BackupError.
    """

    def __init__(self, storage: Storage, generation: Callable[[], int]) -> None:
        self._storage, self._generation = storage, generation
        self._last: KnownDamage | None = None  # as last read or noted, perhaps of a generation that is over

    def read(self) -> KnownDamage | None:
        """What was once found to be wrong, read anew."""
        with reaching(self._storage):
            generation = self._generation()
            known = read_damage(self._storage, generation)
            self._last = known or self._of(generation)
            return self._last

    def remembered(self) -> KnownDamage | None:
        """What was read or noted last, if it concerns the current generation; touches no damage note."""
        return self._of(self._generation())

    def note(self, damage: KnownDamage) -> bool:
        """Leave what was found for all who look at the backup. False: that generation is over."""
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
    """What is known against this generation; None: nothing. OSError from the storage.

    A document that cannot be read any more counts: somebody has found something.
    """
    try:
        known = KnownDamage.decode(storage.read_small(DAMAGE))
    except FileNotFoundError:
        return None
    except (BackupError, PermissionError) as error:  # root may have noted it
        why = error.what if isinstance(error, Damaged) else type(error).__name__
        what = f"something was found, and the file `{DAMAGE}` that says what cannot be read: {why}"
        return found_now("noticed", what, generation)
    return known if known.generation == generation else None


def write_damage(storage: Storage, damage: KnownDamage) -> None:
    """Durable when it returns. What was found first about a generation stays. OSError from the storage."""
    if read_damage(storage, damage.generation) is None:
        storage.publish(DAMAGE, damage.encode())


def remove_healed(storage: Storage, generation: int) -> None:
    """Remove what concerns a generation before this current one; a later one is another writer's. OSError."""
    with suppress(FileNotFoundError, PermissionError, BackupError):
        if KnownDamage.decode(storage.read_small(DAMAGE)).generation < generation:
            storage.remove(DAMAGE)


def remove_damage(storage: Storage) -> None:
    """For a writer whose new snapshot is published: nothing that was found before is true of it. OSError."""
    with suppress(FileNotFoundError):
        storage.remove(DAMAGE)


def _shown(text: str) -> str:
    """It goes to terminals and to the node's log, and may come from a stranger's disk."""
    return "".join(character if " " <= character <= "~" else "?" for character in text[:_MAX_TEXT])


def _number(fields: dict[str, Any], key: str) -> int:
    value = fields.get(key)
    if type(value) is not int or not 0 <= value < MAX_NUMBER:
        raise Damaged(f"its {key} is none that a writer leaves", DAMAGE, 0)
    return value


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise Damaged(f"its {key} is none that a writer leaves", DAMAGE, 0)
    return _shown(value)
