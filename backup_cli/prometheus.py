"""A backup's status in the text format of Prometheus, for the textfile collector of node_exporter.

docs/monitoring.md says what each metric means; contrib/monitoring/ has the alert rules and the dashboard.
"""

from backends.errors import BackupError, Damaged
from backends.log.status import Status, TroubleKind, low_space
from backends.storage.base import Space
from backends.text import one_line

PREFIX = "lightningd_backup_"

HELP = {
    "readable": "Whether the backup could be read when this was written.",
    "damaged": "Whether bytes that were once saved have changed or are missing, or a restore is known to fail.",
    "known_damage": "Whether an earlier compaction or verify has proved that a restore would fail.",
    "troubles": "How many troubles `backup-cli status` reports.",
    "compaction_failed": "Whether the last compaction failed.",
    "space_low": "Whether the destination will be full soon.",
    "data_version": "The last data version that is saved.",
    "last_change_timestamp_seconds": "When the last change was saved.",
    "last_compaction_timestamp_seconds": "When the current generation was made, if a compaction made it.",
    "generation": "The number of the current generation.",
    "generation_begun_timestamp_seconds": "When the current generation was begun.",
    "records": "Changes since the snapshot.",
    "snapshot_bytes": "The size of the snapshot as stored at the destination.",
    "segment_bytes": "The size of the segments as stored at the destination.",
    "destination_free_bytes": "Free space at the destination.",
    "destination_size_bytes": "The size of the whole destination.",
    "checked_timestamp_seconds": "When this was written.",
    "info": "Always 1; the labels say which backup of which node this is.",
}
"""All metrics, and what they mean. All are gauges, labelled with the backup's URL."""


def metrics(seen: Status, now: float) -> str:
    """The whole text for a backup with this status; `now` is in seconds since 1970."""
    stored = seen.snapshot_bytes + seen.segment_bytes
    figures: dict[str, float | None] = {
        "readable": 1,
        "damaged": int(seen.damaged),
        "known_damage": int(seen.known_damage is not None),
        "troubles": len(seen.troubles),
        "compaction_failed": int(any(trouble.kind is TroubleKind.COMPACTION_FAILED for trouble in seen.troubles)),
        "space_low": int(low_space(Space(seen.free_bytes, seen.total_bytes), stored) is not None),
        "data_version": seen.data_version,
        "last_change_timestamp_seconds": seen.last_change,
        "last_compaction_timestamp_seconds": seen.last_compaction,
        "generation": seen.generation,
        "generation_begun_timestamp_seconds": seen.generation_begun,
        "records": seen.records,
        "snapshot_bytes": seen.snapshot_bytes,
        "segment_bytes": seen.segment_bytes,
        "destination_free_bytes": seen.free_bytes,
        "destination_size_bytes": seen.total_bytes,
        "checked_timestamp_seconds": int(now),
    }
    labels = _labels(url=seen.url)
    text = "".join(_figure(name, labels, value) for name, value in figures.items() if value is not None)
    return text + _figure("info", _labels(url=seen.url, backup_id=seen.backup_id, node_id=seen.node_id or ""), 1)


def unreadable(url: str, error: BackupError, now: float) -> str:
    """The text when there is no status: the backup is out of reach, or too damaged to have one."""
    labels = _labels(url=url)
    damaged = isinstance(error, Damaged)
    return (
        _figure("readable", labels, 0)
        + _figure("damaged", labels, int(damaged))
        + _figure("checked_timestamp_seconds", labels, int(now))
    )


def _figure(name: str, labels: str, value: float) -> str:
    return f"# HELP {PREFIX}{name} {HELP[name]}\n# TYPE {PREFIX}{name} gauge\n{PREFIX}{name}{{{labels}}} {value}\n"


def _labels(**labels: str) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    lines = (one_line(line).replace("\\", "\\\\").replace('"', '\\"') for line in value.split("\n"))
    return "\\n".join(lines)
