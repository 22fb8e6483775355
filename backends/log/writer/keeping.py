"""Keeping a generation that was replaced because the database disagreed with it, for a while: people make mistakes.

Its files stay where they are, under their own names, which are never used again. The document `kept` is its manifest.
A compaction keeps nothing, because the generation that it replaces holds the same history.
"""

from contextlib import suppress

from backends.log.format.documents import KEPT, Kept, Manifest
from backends.log.reader.kept import is_kept, is_over, read_kept
from backends.storage.base import Storage


def keep_generation(storage: Storage, kept: Kept) -> None:
    """Note durably that the current generation is to be kept when the next one is published. Raises OSError."""
    storage.publish(KEPT, kept.encode())


def still_kept(storage: Storage, current: Manifest) -> Kept | None:
    """The kept generation, or None. For the writer: removes a note that is too old or invalid. Raises OSError.

    A note about the current generation is invalid: its writer died before the next generation was published.
    """
    kept = read_kept(storage, current)
    if kept is not None and not is_over(kept):
        return kept
    with suppress(FileNotFoundError):
        storage.remove(KEPT)
    return None


def remove_kept(storage: Storage, kept: Kept) -> None:
    """Remove the kept generation's files, then the note. Raises OSError."""
    for name in storage.names():
        if is_kept(name, kept):
            storage.remove(name)
    storage.remove(KEPT)
    storage.sync_names()
