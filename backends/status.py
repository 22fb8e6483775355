"""What there is to know about a backup: the same from the running plugin and from `backup-cli status`."""

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from backends.log.known_damage import KnownDamage
from backends.storage.base import Space

SPACE_WANTED = 256 << 20
"""Bytes that should be free at least: a compaction needs room for another snapshot while the log grows on."""


class TroubleKind(Enum):
    """What a trouble is about; the value is what programs know it by, whatever its sentence becomes."""

    KNOWN_DAMAGE = "known_damage"
    """Once found by a compaction or `verify`, and noted in the backup."""
    DAMAGE = "damage"
    """Found just now, in the files."""
    TORN_END = "torn_end"
    END_UNVERIFIED = "end_unverified"
    WRITE_FAILED = "write_failed"
    """The running writer has given up."""
    COMPACTION_FAILED = "compaction_failed"
    SPACE_LOW = "space_low"
    LAST_RUN_FAILED = "last_run_failed"
    NOT_WRITABLE = "not_writable"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is not well, as a fact for programs and a sentence for people."""

    kind: TroubleKind
    sentence: str


@dataclass(frozen=True, slots=True)
class Status:
    """Sizes in bytes, times in seconds since 1970."""

    url: str
    backup_id: str
    node_id: str | None
    data_version: int
    last_change: int
    records: int  # since the snapshot
    generation: int
    generation_begun: int
    generation_reason: str
    last_compaction: int | None
    snapshot_bytes: int
    segment_bytes: int
    free_bytes: int
    total_bytes: int
    damaged: bool
    troubles: tuple[Trouble, ...]
    """None when all is well."""
    known_damage: KnownDamage | None = None
    """What an earlier reader has proved; then it is damaged, whatever its checksums say."""

    @property
    def health(self) -> str:
        """One word for a monitor."""
        return "damaged" if self.damaged else "degraded" if self.troubles else "ok"

    def as_json(self) -> dict[str, Any]:
        """For programs. `troubles` are sentences for people, `trouble_kinds` what each of them is about."""
        told = {
            "troubles": [trouble.sentence for trouble in self.troubles],
            "trouble_kinds": [trouble.kind.value for trouble in self.troubles],
        }
        return {"health": self.health, **asdict(self), **told}


def low_space(space: Space, stored: int) -> str | None:
    """A sentence when the destination will be full before long: long before it is."""
    wanted = max(SPACE_WANTED, 2 * stored)
    if space.free >= wanted:
        return None
    return (
        f"only {space.free >> 20} MiB are free at the destination, and {wanted >> 20} MiB should be: when it is full, "
        "the node stops. Make room soon"
    )
