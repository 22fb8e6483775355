"""A generation that was replaced because the database disagreed with it, and is kept for a while."""

from backends.errors import BackupError
from backends.log.format.documents import KEPT, Kept, Manifest
from backends.log.format.records import is_part_of, segment_index, snapshot_name, time_now
from backends.storage.base import Storage

KEEP_FOR = 7 * 86400
"""Seconds."""


def read_kept(storage: Storage, current: Manifest) -> Kept | None:
    """The generation that is kept in addition to the current one; None if there is none. Raises OSError.

    A note is ignored if it cannot be read, or if it is not about an earlier generation of this backup. So is one from
    before the backup was encrypted: nothing readable may stay behind.
    """
    try:
        kept = Kept.decode(storage.read_small(KEPT))
    except (FileNotFoundError, BackupError):
        return None
    earlier = kept.manifest.generation < current.generation and kept.last_segment < current.first_segment
    same = (kept.manifest.backup_id, kept.manifest.key) == (current.backup_id, current.key)
    return kept if same and earlier else None


def read_held(storage: Storage, current: Manifest) -> list[Kept]:
    """The generations that are kept in addition to the current one, oldest first. Raises OSError."""
    kept = read_kept(storage, current)
    return [] if kept is None else [kept]


def is_over(kept: Kept) -> bool:
    """Whether this generation has been kept for long enough (KEEP_FOR seconds)."""
    return time_now() - kept.since > KEEP_FOR


def is_kept(name: str, kept: Kept | None) -> bool:
    """Whether this is a file of the kept generation."""
    if kept is None:
        return False
    index = segment_index(name)
    if index is not None:
        return kept.manifest.first_segment <= index <= kept.last_segment
    return is_part_of(name, snapshot_name(kept.manifest.generation))
