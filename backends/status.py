"""What there is to know about a backup: the same from the running plugin and from `backup-cli status`."""

from dataclasses import asdict, dataclass
from typing import Any

from backends.log.known_damage import KnownDamage
from backends.storage.base import Space

SPACE_WANTED = 256 << 20
"""Bytes that should be free at least: a compaction needs room for another snapshot while the log grows on."""


COMPACTION_FAILED = "the last compaction failed"
"""How the trouble begins that a failed compaction leaves."""

COMPACTION = "compaction"
"""The reason for a generation that a compaction made."""


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
    troubles: tuple[str, ...]
    """A sentence each; none when all is well."""
    known_damage: KnownDamage | None = None
    """What an earlier reader has proved; then it is damaged, whatever its checksums say."""

    @property
    def health(self) -> str:
        """One word for a monitor."""
        return "damaged" if self.damaged else "degraded" if self.troubles else "ok"

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"health": self.health, **asdict(self)}


def low_space(space: Space, stored: int) -> str | None:
    """A sentence when the destination will be full before long: long before it is."""
    wanted = max(SPACE_WANTED, 2 * stored)
    if space.free >= wanted:
        return None
    return (
        f"only {space.free >> 20} MiB are free at the destination, and {wanted >> 20} MiB should be: when it is full, "
        "the node stops. Make room soon"
    )
