"""Whether the last change in a backup is so old that this may not be the newest copy of it. The one place for the rule.

A node that runs changes its database with every block that it hears of, some 144 a day, however idle it is. So a backup
whose last change is older than a day belongs to a node that has not run since, or is not the newest copy of it: another
disk, an old copy of the directory, a snapshot of a NAS. Nothing in the backup itself tells which.
"""

import time

from backends.base import LastWriter
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.times import UNKNOWN_TIME
from backup_cli.console import age

DAY = 86400.0

UNENDED = DAY
"""Seconds since the last change of a session that was not ended: a node that lives has changed something by then."""

ENDED = 2 * DAY
"""Of one that was: a node may well be off for a while on purpose."""


def doubt(last_change: int, writer: LastWriter | None, *, before_restore: bool = False) -> str | None:
    """A sentence about a backup whose last change is old; None when there is nothing to say.

    Before a restore a day is old, however the session ended: it matters most then. An unknown time, and one in the
    future, say nothing.
    """
    since = time.time() - last_change
    ended = writer is not None and writer.closed
    if last_change <= UNKNOWN_TIME or since < (ENDED if ended and not before_restore else UNENDED):
        return None
    if writer is None:
        return (
            f"no node has written to this backup since it was made, {age(since)} ago. A node that runs changes its "
            "database with every block: so either it has been off since, or it runs without the plugin (backup-cli "
            "check-config tells), or with another backup"
        )
    state = "was stopped then" if ended else "last wrote to it; it never ended its session"
    return (
        f"the last change is {age(since)} old. A node that runs changes its database with every block: so either the "
        f"node has been off since it {state}, or this is not the newest copy of its backup (an older disk, a copy, a "
        "snapshot)"
    )


LOOK_FOR_A_NEWER = (
    "If the node ran after that, look for the newer backup first (the backup.lock of the node names its place): "
    "a node that starts from an older state can lose every channel"
)


def doubt_of(backup: Backup, last_change: int, *, before_restore: bool = False) -> str | None:
    """The same, of a backup that is read now; of its writer, only what can be read counts."""
    try:
        writer = backup.last_writer()
    except BackupError:
        return None  # gone this moment: said elsewhere
    return doubt(last_change, writer, before_restore=before_restore)
