"""Whether the database still holds what the backup holds, although only their versions can be compared.

This is how the same version can have other content: a change was saved but not committed, then lightningd ran without
the plugin and committed another. SQLite's change counter cannot tell (both commits count as one). So the plugin keeps,
on the node's side, a sync point: the inode, size, time and header of the database file at a moment when it was known to
hold exactly the backup's last change (`plugin/sync_point.py` says how that is known). A file that still looks the same
was not touched. Any other file is doubted, and doubt costs no more than a new snapshot.
"""

import contextlib
import time
from dataclasses import replace
from pathlib import Path

from backends.base import Position
from backends.node.memory import saved_end, sync_point_of
from backends.node.sync_point import Fingerprint, SyncPoint, read_sync_point, write_sync_point


def why_doubted(directory: Path, seen: Fingerprint | None, backup_id: str, position: Position) -> str | None:
    """Why the database file may not hold what the backup holds; None when it does.

    `seen` is the file before lightningd opened it.
    """
    sync_point = read_sync_point(directory)
    if sync_point is None or sync_point.backup_id != backup_id:
        return "nothing on this machine says what the database held when the backup was last written"
    if sync_point.failure is not None:
        return f"the last run ended with a failure ({sync_point.failure})"
    if not _fits(sync_point, backup_id, position):
        return "the node was not stopped cleanly, so its last change may not have been committed"
    if sync_point.fingerprint != seen:
        return "the database file was touched while this plugin did not run"
    return None


def changed_ago(seen: Fingerprint | None, position: Position) -> float | None:
    """How many seconds ago the node last changed its database, `seen` and saved up to `position`; None if unknown.

    The file's own time does not tell if the plugin has just brought the database forward: then the time of the last
    change counts. Negative if the clock was set back.
    """
    if seen is None:
        return None
    now = time.time()
    return max(now - seen.mtime_ns / 1e9, now - position.time)


def record_end(directory: Path, backup_id: str, position: Position, session: str) -> None:
    """The session has ended, and no more calls will come: if the database held the last change, it still does.

    Otherwise lightningd died before its last commit was seen. Then at least the end of the log is recorded: a change
    after that is not this node's, and must not be rolled forward into its database.
    """
    sync_point = read_sync_point(directory)
    if sync_point is None or sync_point.failure is not None or sync_point.backup_id != backup_id:
        return
    if _fits(sync_point, backup_id, position):
        over = replace(sync_point, ended=session)
    else:
        over = replace(sync_point, written=saved_end(position, session))
    with contextlib.suppress(OSError):
        write_sync_point(directory, over)


def record_failure(directory: Path, backup_id: str, position: Position, failure: str) -> None:
    """Record that the backup failed, so that the next start begins a new generation whatever the versions say.

    What is known about the last change is kept: a second start from an old copy must be refused like the first one.
    """
    sync_point = read_sync_point(directory)
    seen = sync_point.fingerprint if sync_point is not None and _fits(sync_point, backup_id, position) else None
    with contextlib.suppress(OSError):
        # What failed may be the publication of a new generation, which may have succeeded despite the error.
        begins = sync_point.begins if sync_point is not None and sync_point.backup_id == backup_id else None
        write_sync_point(directory, sync_point_of(backup_id, position, seen, failure, begins=begins))


def _fits(sync_point: SyncPoint, backup_id: str, position: Position) -> bool:
    """Whether the sync point is about this very change."""
    noted = (sync_point.backup_id, sync_point.sequence, sync_point.data_version, sync_point.checksum)
    return noted == (backup_id, position.sequence, position.data_version, position.checksum)
