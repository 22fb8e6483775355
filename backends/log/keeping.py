"""A generation that was replaced because the database disagreed with it is kept for a while: people make mistakes.

Its files stay where they are, under their own names, which are never used again. The document `kept` is its manifest.
Compaction keeps nothing: what it replaces holds the same history.
"""

from contextlib import suppress

from backends.errors import BackupError
from backends.log.documents import KEPT, Kept, Manifest
from backends.log.format import is_part_of, segment_index, snapshot_name, time_now
from backends.storage.base import Storage

KEEP_FOR = 7 * 86400
"""Seconds."""


def keep_generation(storage: Storage, kept: Kept) -> None:
    """Note, durably, that the current generation is to be kept when the next one is published. Raises OSError."""
    storage.publish(KEPT, kept.encode())


def read_kept(storage: Storage, current: Manifest) -> Kept | None:
    """The generation that is kept beside the current one; None without one. Raises OSError.

    A note that cannot be read, or that is about no earlier generation of this backup, counts for nothing.
    """
    try:
        kept = Kept.decode(storage.read_small(KEPT))
    except (FileNotFoundError, BackupError):
        return None
    earlier = kept.manifest.generation < current.generation and kept.last_segment < current.first_segment
    return kept if kept.manifest.backup_id == current.backup_id and earlier else None


def still_kept(storage: Storage, current: Manifest) -> Kept | None:
    """The same for the writer, who removes a note whose time is over or that means nothing. Raises OSError.

    A note about the current generation is one: whoever wrote it died before the next one was published.
    """
    kept = read_kept(storage, current)
    if kept is not None and not is_over(kept):
        return kept
    with suppress(FileNotFoundError):
        storage.remove(KEPT)
    return None


def is_over(kept: Kept) -> bool:
    """Whether it has been kept for long enough."""
    return time_now() - kept.since > KEEP_FOR


def remove_kept(storage: Storage, kept: Kept) -> None:
    """Remove its files, and then the note. Raises OSError."""
    for name in storage.names():
        if is_kept(name, kept):
            storage.remove(name)
    storage.remove(KEPT)
    storage.sync_names()


def is_kept(name: str, kept: Kept | None) -> bool:
    """Whether this is a file of the kept generation."""
    if kept is None:
        return False
    index = segment_index(name)
    if index is not None:
        return kept.manifest.first_segment <= index <= kept.last_segment
    return is_part_of(name, snapshot_name(kept.manifest.generation))
