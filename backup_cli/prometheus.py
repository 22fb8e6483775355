"""A backup's status in the text format of Prometheus, for the textfile collector of node_exporter.

docs/monitoring.md says what each metric means; contrib/monitoring/ has the alert rules and the dashboard.
"""

from collections.abc import Mapping

from backends.errors import BackupError, Damaged
from backends.log.member_status import MemberState, MemberStatus
from backends.log.status import HIDDEN, Status, TroubleKind, is_space_low
from backends.text import one_line

PREFIX = "lightningd_backup_"

HELP = {
    "readable": "Whether the backup could be read when this was written.",
    "damaged": "Whether bytes that were once saved have changed or are missing, or a restore is known to fail.",
    "known_damage": "Whether a restore is known to fail, or a new snapshot is needed and not complete.",
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
    "history_generations": "How many earlier generations are kept for their history.",
    "history_bytes": "What is stored at the destination for the history alone.",
    "history_oldest_timestamp_seconds": "When the oldest generation that is kept for its history was begun.",
    "destination_free_bytes": "Free space at the destination.",
    "destination_size_bytes": "The size of the whole destination.",
    "checked_timestamp_seconds": "When this was written.",
    "encrypted": "Whether the backup is encrypted.",
    "key_slots": "How many key slots of an encrypted backup can be used: what opens it beside backup.key.",
    "key_slots_damaged": "How many key slots of an encrypted backup cannot be used any more.",
    "info": "Always 1; the labels say which backup of which node this is.",
}
"""All metrics, and what they mean. All are gauges, labelled with the backup's URL."""

HELP_OF_MEMBERS = {
    "members_in_sync": "How many members hold every acknowledged change.",
    "members_needed": "How many members must be in sync for the node to go on.",
    "members_waited_for": "How many members a commit waits for while they are in sync: all but those that trail.",
    "epoch": "The number of the newest epoch: it grows whenever a member goes out of sync or comes back.",
}
"""The further metrics of a backup with several destinations, each with one value."""

HELP_OF_A_MEMBER = {
    "member_readable": "Whether the member could be read when this was written.",
    "member_in_sync": "Whether the member holds every acknowledged change. Not for a member that trails.",
    "member_lag_changes": "How many changes the member lacks.",
    "member_lag_seconds": "How much older the member's last change is than the newest one.",
    "member_since_timestamp_seconds": "Since when the member has been out of sync.",
    "member_free_bytes": "Free space at the member.",
    "member_size_bytes": "The size of the whole member.",
    "member_latency_seconds": "How long one durable write takes at the member.",
}
"""The metrics of each member, with its name as a further label. What is not known is left out."""

HELP_OF_A_COPY = {
    "follow_in_step": "Whether the copy held all that the backup did, a moment before this was written.",
    "follow_failed": "Whether the backup is damaged, or holds a change that cannot be replayed.",
    "follow_in_step_timestamp_seconds": "When the copy last held all that the backup did.",
    "follow_lag_changes": "How many changes the copy is known to lack.",
    "follow_lag_seconds": "How long ago the copy last held all that the backup did, when this was written.",
    "follow_data_version": "The data version of the copy.",
    "follow_last_change_timestamp_seconds": "When the last change that the copy holds was saved in the backup.",
    "follow_checked_timestamp_seconds": "When all of the copy was last checked.",
    "follow_written_timestamp_seconds": "When this was written.",
}
"""The metrics of a copy that `backup-cli follow` keeps."""

_HELP = {**HELP, **HELP_OF_MEMBERS, **HELP_OF_A_MEMBER, **HELP_OF_A_COPY}


def metrics(seen: Status, now: float) -> str:
    """The whole text for a backup with this status; `now` is in seconds since 1970."""
    stored = seen.snapshot_bytes + seen.segment_bytes
    kinds = {trouble.kind for trouble in seen.troubles}
    figures: dict[str, float | None] = {
        "readable": 1,
        "damaged": int(seen.damaged),
        "known_damage": int(seen.known_damage is not None),
        "troubles": len(seen.troubles),
        "compaction_failed": int(TroubleKind.COMPACTION_FAILED in kinds),
        "space_low": int(TroubleKind.SPACE_LOW in kinds or _is_low(seen, stored)),
        "data_version": seen.data_version,
        "last_change_timestamp_seconds": seen.last_change,
        "last_compaction_timestamp_seconds": seen.last_compaction,
        "generation": seen.generation,
        "generation_begun_timestamp_seconds": seen.generation_begun,
        "records": seen.records,
        "snapshot_bytes": seen.snapshot_bytes,
        "segment_bytes": seen.segment_bytes,
        "history_generations": seen.history_generations,
        "history_bytes": seen.history_bytes,
        "history_oldest_timestamp_seconds": seen.history_oldest,
        "destination_free_bytes": seen.free_bytes,
        "destination_size_bytes": seen.total_bytes,
        "checked_timestamp_seconds": int(now),
        "encrypted": int(seen.encrypted),
        "key_slots": seen.key_slots,
        "key_slots_damaged": seen.key_slots_damaged,
    }
    labels = _labels(url=seen.url)
    text = "".join(_figure(name, labels, value) for name, value in figures.items() if value is not None)
    node_id = HIDDEN if seen.hidden else seen.node_id or ""
    text += _figure("info", _labels(url=seen.url, backup_id=seen.backup_id, node_id=node_id), 1)
    return text + (_of_members(seen) if seen.members else "")


def _is_low(seen: Status, stored: int) -> bool:
    return seen.free_bytes is not None and is_space_low(seen.free_bytes, stored)


def _of_members(seen: Status) -> str:
    """What a backup with several destinations adds."""
    waited_for = [member for member in seen.members if not member.trailing]
    figures: dict[str, float | None] = {
        "members_in_sync": sum(member.state is MemberState.IN_SYNC for member in waited_for),
        "members_needed": seen.need,
        "members_waited_for": len(waited_for),
        "epoch": seen.epoch,
    }
    labels = _labels(url=seen.url)
    text = "".join(_figure(name, labels, value) for name, value in figures.items() if value is not None)
    values = {member.name: _of_a_member(member) for member in seen.members}
    for name in HELP_OF_A_MEMBER:
        known = {
            _labels(url=seen.url, member=member): value
            for member, figures in values.items()
            if (value := figures[name]) is not None
        }
        if known:
            text += _group(name, known)
    return text


def _of_a_member(member: MemberStatus) -> dict[str, float | None]:
    return {
        "member_readable": int(member.state is not MemberState.UNREACHABLE),
        "member_in_sync": None if member.trailing else int(member.state is MemberState.IN_SYNC),
        "member_lag_changes": member.lag_changes,
        "member_lag_seconds": member.lag_seconds,
        "member_since_timestamp_seconds": None if member.state is MemberState.IN_SYNC else member.since,
        "member_free_bytes": member.free_bytes,
        "member_size_bytes": member.total_bytes,
        "member_latency_seconds": member.latency,
    }


def metrics_of_a_copy(url: str, figures: Mapping[str, float | None]) -> str:
    """The text for a copy that follows the backup at this URL; what is None is not known."""
    labels = _labels(url=url)
    return "".join(_figure(name, labels, value) for name, value in figures.items() if value is not None)


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
    return _group(name, {labels: value})


def _group(name: str, values: Mapping[str, float]) -> str:
    """One metric with its values by their labels: the format wants all lines of a metric together."""
    lines = "".join(f"{PREFIX}{name}{{{labels}}} {value}\n" for labels, value in values.items())
    return f"# HELP {PREFIX}{name} {_HELP[name]}\n# TYPE {PREFIX}{name} gauge\n{lines}"


def _labels(**labels: str) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    lines = (one_line(line).replace("\\", "\\\\").replace('"', '\\"') for line in value.split("\n"))
    return "\\n".join(lines)
