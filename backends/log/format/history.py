"""The text file `history`: which generations are kept for their history, and for how long."""

from dataclasses import dataclass, replace
from typing import Any

from backends.change import VERSIONS
from backends.errors import Damaged
from backends.keep import MAX_BYTES, MAX_SECONDS, NOTHING, Keep
from backends.log.format.documents import Kept, Manifest, number_in, since_in
from backends.log.format.records import MAX_SEQUENCE
from backends.log.format.text_files import SEALED, decode_document, encode_document
from backends.times import UNKNOWN_TIME

HISTORY = "history"

MAX_ENTRIES = 1000
"""The most generations that are kept: the file must stay below 1 MiB."""

_LATEST = (1 << 32) - 1
"""The latest time."""

_SHARED = ("backup_id", "key", "node_id")
"""Fields of a manifest that are the same in all entries, or that no entry needs."""


@dataclass(frozen=True, slots=True)
class History:
    """What is kept, oldest first. `key` is the public name of the key of an encrypted backup."""

    backup_id: bytes
    key: str | None
    keep: Keep = NOTHING
    generations: tuple[Kept, ...] = ()
    clock: int = 0
    """The time by which they age, in seconds since 1970 (see `aged`); each `since` is by this clock. 0: not noted."""

    def aged(self, lived: int, now: int) -> "History":
        """The same after a writer was open for so many seconds (monotonic time); `now` is by the wall clock.

        This clock follows the wall clock, but goes no slower than time passes for the writer, and at most twice as
        fast. So a wall clock that jumps cannot make everything old at once: whatever it does, `keep=30d` keeps a
        generation until writers have been open for 15 days. Time without a writer is caught up at double speed.
        """
        if not self.generations:
            return replace(self, clock=min(max(now, 1), _LATEST))
        before = max(self.clock, *(each.since for each in self.generations))
        return replace(self, clock=min(before + min(max(now - before, lived), 2 * lived), _LATEST))

    @property
    def oldest(self) -> int:
        """When the oldest generation that is kept was begun, by the node's clock then; UNKNOWN_TIME if none is kept."""
        return self.generations[0].manifest.created if self.generations else UNKNOWN_TIME

    def left(self, kept: Kept) -> int:
        """For how many seconds this generation is still kept."""
        return max(kept.since + self.keep.seconds - self.clock, 0)

    def encode(self) -> bytes:
        """The bytes of the file. Raises KeyNeeded."""
        fields = {
            "backup_id": self.backup_id.hex(),
            "key": self.key,
            "keep_for": self.keep.seconds,
            "keep_bytes": self.keep.bytes,
            "clock": self.clock,
            "generations": [_entry(kept) for kept in self.generations],
        }
        return encode_document(HISTORY, fields, {}, self.key)

    @classmethod
    def decode(cls, data: bytes) -> "History":
        """The history in the bytes of its file. Raises Damaged, NotABackup or FromTheFuture."""
        fields = decode_document(HISTORY, data)
        entries = fields.get("generations")
        if not isinstance(entries, list) or len(entries) > MAX_ENTRIES:
            raise Damaged("an impossible list of generations", HISTORY, 0)
        shared = {name: fields.get(name) for name in (*_SHARED, SEALED) if name in fields}
        # Of the document itself: `Manifest.from_fields` checks these two together, whatever the entries say.
        own = Manifest.from_fields({**_NO_MANIFEST, **shared})
        keep = Keep(number_in(fields, "keep_for", MAX_SECONDS + 1), number_in(fields, "keep_bytes", MAX_BYTES + 1))
        clock = number_in(fields, "clock", _LATEST + 1) if "clock" in fields else 0
        return cls(own.backup_id, own.key, keep, tuple(_kept(entry, shared) for entry in entries), clock)


_NO_MANIFEST = {
    "sequence": 0, "data_version": 0, "checksum": 0, "foreign_keys": True, "generation": 0, "first_segment": 0,
    "reason": "",
}  # fmt: skip


def _entry(kept: Kept) -> dict[str, Any]:
    public = {name: value for name, value in kept.manifest.fields().items() if name not in _SHARED}
    return {
        **public,
        "last_segment": kept.last_segment,
        "last_sequence": kept.last_sequence,
        "end_version": kept.data_version,
        "since": kept.since,
    }


def _kept(entry: object, shared: dict[str, Any]) -> Kept:
    if not isinstance(entry, dict):
        raise Damaged("an impossible generation", HISTORY, 0)
    fields = {**entry, **shared}
    last = None if fields.get("last_sequence") is None else number_in(fields, "last_sequence", MAX_SEQUENCE)
    return Kept(
        Manifest.from_fields(fields),
        number_in(fields, "last_segment"),
        number_in(fields, "end_version", VERSIONS),
        since_in(fields),
        last,
    )
