"""Whether a backup's last change is so old that this may not be the newest copy of the backup: the only place with this
rule.

A running node changes its database with every block that it hears of, some 144 a day, however idle it is. So if a
backup's last change is more than a day old, either its node has not run since, or this is not the newest copy of the
backup: it is an older disk, an old copy of the directory, or a snapshot of a NAS. Nothing in the backup itself tells
which.
"""

import time

from backends.base import LastWriter
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.times import UNKNOWN_TIME
from backup_cli.console import age

DAY = 86400.0

UNENDED = DAY
"""Seconds after which the last change is old if its session was never ended: a live node changes something sooner."""

ENDED = 2 * DAY
"""Seconds after which the last change is old if its session was ended: a node may be off for a while on purpose."""


def doubt(last_change: int, writer: LastWriter | None, *, before_restore: bool = False) -> str | None:
    """A sentence for a backup whose last change is old; None when it is not old.

    Before a restore, when it matters most, a day is old whether or not the session was ended. An unknown time, and a
    time in the future, never count as old. `last_change` is in seconds since 1970.
    """
    since = time.time() - last_change
    ended = writer is not None and writer.closed
    if last_change <= UNKNOWN_TIME or since < (ENDED if ended and not before_restore else UNENDED):
        return None
    if writer is None:
        return (
            f"no node has written to this backup since it was made, {age(since)} ago. A running node changes its "
            "database with every block: so either the node has been off since, or it runs without the plugin (to find "
            "out, run: backup-cli check-config), or it uses another backup"
        )
    state = "was stopped then" if ended else "last wrote to it; it never ended its session"
    return (
        f"the last change is {age(since)} old. A running node changes its database with every block: so either the "
        f"node has been off since it {state}, or this is not the newest copy of its backup (an older disk, a copy, a "
        "snapshot)"
    )


LOOK_FOR_A_NEWER = (
    "If the node ran after that, look for the newer backup first (the node's backup.lock names its destination): "
    "a node that starts from an older state can lose every channel"
)


def doubt_of(backup: Backup, last_change: int, *, before_restore: bool = False) -> str | None:
    """`doubt` about a backup, whose last writer is read now; None if that cannot be read."""
    try:
        writer = backup.last_writer()
    except BackupError:
        return None  # the destination has just gone: reported elsewhere
    return doubt(last_change, writer, before_restore=before_restore)
