"""A generation that was replaced because the database disagreed with it, and is kept for a while."""

from dataclasses import replace

from backends.errors import BackupError
from backends.log.format.documents import KEPT, Kept, Manifest
from backends.log.format.history import HISTORY, History
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
    kept, history = read_kept(storage, current), read_history(storage, current)
    numbers = {each.manifest.generation for each in history.generations}
    others = [] if kept is None or kept.manifest.generation in numbers else [kept]
    names = storage.names() if history.generations else []
    there = [each for each in history.generations if snapshot_name(each.manifest.generation) in names]
    return sorted([*others, *there], key=lambda each: each.manifest.generation)


def read_history(storage: Storage, current: Manifest) -> History:
    """Which generations are kept for their history. Raises OSError.

    It is ignored if it cannot be read or is not about this backup; and so are its generations if they are not earlier
    ones, or are from before the backup was encrypted.
    """
    try:
        stored = stored_history(storage)
    except BackupError:
        stored = None
    return history_in(stored, current)


def stored_history(storage: Storage) -> bytes | None:
    """The bytes of the list of these generations; None if there is none. Raises OSError."""
    try:
        return storage.read_small(HISTORY)
    except FileNotFoundError:
        return None


def history_in(stored: bytes | None, current: Manifest) -> History:
    """As `read_history`, from what `stored_history` has returned."""
    none = History(current.backup_id, current.key)
    if stored is None:
        return none
    try:
        history = History.decode(stored)
    except BackupError:
        return none
    if history.backup_id != current.backup_id:
        return none
    earlier = [each for each in history.generations if history.key == current.key and _is_earlier(each, current)]
    return replace(none, keep=history.keep, generations=tuple(earlier), clock=history.clock)


def _is_earlier(kept: Kept, current: Manifest) -> bool:
    """Whether this generation is an earlier one. Its last segment may be the first of the next one, too."""
    return kept.manifest.generation < current.generation and kept.last_segment <= current.first_segment


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
