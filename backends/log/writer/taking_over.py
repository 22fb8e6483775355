"""Becoming the writer where there is little space: what is kept for its history is given up, the oldest first."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from backends.base import Report
from backends.log.format.documents import Manifest
from backends.log.format.history import HISTORY
from backends.log.writer.fence import WriterFence
from backends.log.writer.keeping import make_room, with_room
from backends.log.writer.options import SMALL_FILES
from backends.storage.base import Storage

_T = TypeVar("_T")


def marked(
    storage: Storage,
    manifest: Manifest,
    names: Sequence[str],
    report: Report,
    mark: Callable[[str | None], WriterFence],
) -> WriterFence:
    """Write this writer's marker with `mark`, which is given the name of the backup's key, even where not that much
    space is left. Raises OSError.

    This is not the writer yet, and may never be. Giving up history loses nothing that a writer would keep: one that
    runs there gives the same generations up by itself, long before the disk is that full.
    """
    if HISTORY in names:
        make_room(storage, manifest, SMALL_FILES, lambda: None, report)
    return with_room(storage, lambda: manifest, lambda: None, report, lambda: mark(manifest.key))


def recovered(
    storage: Storage,
    manifest: Manifest,
    fence: WriterFence,
    names: Sequence[str],
    report: Report,
    recover: Callable[[Sequence[str]], _T],
) -> tuple[Sequence[str], _T]:
    """The names of all files, as `recover` was last called with, and what that returned. Some of them are gone if
    history was given up for it. Raises OSError, Fenced, or what `recover` raises."""
    listed = [names]

    def work() -> tuple[Sequence[str], _T]:
        there = listed.pop() if listed else storage.names()
        return there, recover(there)

    return with_room(storage, lambda: manifest, fence.check, report, work)
