"""Copying one file to a member, under a temporary name until it is durable."""

from collections.abc import Callable, Iterable
from contextlib import closing, suppress

from backends.log.writer.pace import Pace
from backends.log.writer.paced import PacedFile
from backends.storage.base import Storage

Pause = Callable[[int], None]
"""Called with the bytes that were just copied; it may sleep. Called with 0 just before files get their names: that is
the last moment for a writer that was replaced to stop. It stops the copying by raising."""

SYNC_EVERY = 4 << 20
"""Bytes of a copy between two syncs: a commit to the same disk waits for all that is not synced yet."""

_BY = "-copy"
"""Part of the temporary name of a copy."""


def go_on(_: int) -> None:
    """The Pause of a caller that has none."""


def copy_file(source: Storage, target: Storage, name: str, pause: Pause = go_on, pace: Pace | None = None) -> None:
    """Copy a file under a temporary name, durably, and rename it; durable under its name after `sync_names`.

    With `pace`, the copy yields to the commits that are made at the target meanwhile.
    After a failure the temporary file is removed, and the target's own file is as it was. Raises OSError.
    """
    temporary = copy_aside(source, target, name, pause, pace)
    try:
        pause(0)
        target.rename(temporary, name)
    except BaseException:
        remove_if_possible(target, [temporary])
        raise


def copy_aside(source: Storage, target: Storage, name: str, pause: Pause, pace: Pace | None = None) -> str:
    """Copy a file durably under a temporary name, which is returned. Raises OSError; then nothing is left of it."""
    temporary = target.temporary(f"{name}{_BY}")
    try:
        with closing(source.open(name)) as original, closing(target.create(temporary)) as copy:
            paced = PacedFile(copy, SYNC_EVERY, pace, syncs_cost=target.costly)
            for block in original.blocks(0, original.size()):
                paced.write(block)
                pause(len(block))
            paced.sync()
    except BaseException:
        remove_if_possible(target, [temporary])
        raise
    return temporary


def remove_if_possible(target: Storage, names: Iterable[str]) -> None:
    """Remove what a failure has left unfinished; what cannot be removed now stays."""
    for name in names:
        with suppress(OSError):
            target.remove(name)
