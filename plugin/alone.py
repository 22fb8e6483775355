"""Having the node's directory alone before lightningd opens its database.

A plugin whose lightningd has died lives on for a moment: it may still be saving the last change. If a supervisor starts
the node again at once, the old plugin must not be the reason why the database stays behind its backup.
"""

import time
from contextlib import ExitStack
from pathlib import Path

from backends.errors import BackupError, InUse
from backends.node.running import used_by_another
from backends.node.writer_lock import WriterLock
from plugin.at_start import WhyLeft

ALONE_WITHIN = 10.0
"""Seconds after the start within which other processes must be gone; lightningd waits meanwhile."""

_PAUSE = 0.1
"""Seconds between two tries."""


def lock_in_time(directory: Path, held: ExitStack, until: float) -> WhyLeft | None:
    """Take the node's lock; `held` will release it. Returns why not, if another process keeps it too long.

    `until` is by the monotonic clock.
    """
    lock = WriterLock(directory, "lightningd-backup, looking at the database")
    while True:
        try:
            held.enter_context(lock)
        except InUse:
            if time.monotonic() > until:
                return WhyLeft.IN_USE
            time.sleep(_PAUSE)
        except BackupError:  # the first db_write is refused, and says why
            return WhyLeft.NO_LOCK
        else:
            return None


def why_not_alone(directory: Path, until: float) -> WhyLeft | None:
    """None as soon as no other process uses the directory or has the database open, IN_USE after `until`.

    `until` is by the monotonic clock.
    """
    while used_by_another(directory):
        if time.monotonic() > until:
            return WhyLeft.IN_USE
        time.sleep(_PAUSE)
    return None
