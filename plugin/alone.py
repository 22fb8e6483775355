"""Being alone with the node's directory before lightningd opens its database.

A plugin whose lightningd has died lives on for a moment: it may still be saving the last change. A supervisor that
starts the node again at once must not find the database behind, and left so, because of that.
"""

import time
from contextlib import ExitStack
from pathlib import Path

from backends.errors import BackupError, InUse
from backends.node.running import used_by_another
from backends.node.writer_lock import WriterLock
from plugin.at_start import WhyLeft

ALONE_WITHIN = 10.0
"""Seconds from the start on within which others must be gone; lightningd waits meanwhile."""

_PAUSE = 0.1
"""Seconds between two looks."""


def lock_in_time(directory: Path, held: ExitStack, until: float) -> WhyLeft | None:
    """Take the node's lock, and have `held` give it up. Why not, when another process keeps it for too long.

    `until` by the monotonic clock.
    """
    lock = WriterLock(directory, "lightningd-backup, looking at the database")
    while True:
        try:
            held.enter_context(lock)
        except InUse:
            if time.monotonic() > until:
                return WhyLeft.IN_USE
            time.sleep(_PAUSE)
        except BackupError:  # the first call says why
            return WhyLeft.NO_LOCK
        else:
            return None


def why_not_alone(directory: Path, until: float) -> WhyLeft | None:
    """None as soon as no other process uses the directory or has the database open."""
    while used_by_another(directory):
        if time.monotonic() > until:
            return WhyLeft.IN_USE
        time.sleep(_PAUSE)
    return None
