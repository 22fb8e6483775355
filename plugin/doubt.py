"""Whether the database still holds what the backup holds, although only their versions can be compared.

The same version with other content comes about so: a change was saved but not committed, then lightningd ran without
the plugin and committed another. SQLite's change counter cannot tell (both commits count one). So the plugin keeps, on
the node's side, a witness of the database file at a moment when it was known to hold exactly the backup's last change
(`plugin/sync_point.py` says how that is known): inode, size, time and header. A file that still looks so was not
touched. Any other is doubted, and doubt costs no more than a new snapshot.
"""

import contextlib
from dataclasses import replace
from pathlib import Path

from backends.base import Position
from backends.node.sync_point import Fingerprint, SavedEnd, SyncPoint, read_sync_point, write_sync_point


def why_doubted(directory: Path, seen: Fingerprint | None, backup_id: str, position: Position) -> str | None:
    """Why the database file, `seen` before lightningd opened it, may not hold what the backup holds; None: it does."""
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


def sync_point_of(
    backup_id: str,
    position: Position,
    seen: Fingerprint | None,
    failure: str | None = None,
    begins: SavedEnd | None = None,
) -> SyncPoint:
    """That the database held the backup's last change when its file looked so."""
    point = (position.sequence, position.data_version, position.checksum)
    return SyncPoint(backup_id, *point, seen, failure, begins=begins)


def record_end(directory: Path, backup_id: str, position: Position, session: str) -> None:
    """The session has ended, and no call will come any more: if the database held the last change, it still does.

    Otherwise lightningd has died before its last commit was seen. Then at least it is noted where the log ended: a
    change that comes after that is nobody's of this node, and must not be rolled forward into its database.
    """
    sync_point = read_sync_point(directory)
    if sync_point is None or sync_point.failure is not None or sync_point.backup_id != backup_id:
        return
    if _fits(sync_point, backup_id, position):
        over = replace(sync_point, ended=session)
    else:
        over = replace(
            sync_point, written=SavedEnd(session, position.sequence, position.data_version, position.checksum)
        )
    with contextlib.suppress(OSError):
        write_sync_point(directory, over)


def record_failure(directory: Path, backup_id: str, position: Position, failure: str) -> None:
    """Note that the backup failed, so that the next start begins a new generation whatever the versions say.

    What is known of the last change stays known: a second start from an old copy must be refused like the first one.
    """
    sync_point = read_sync_point(directory)
    seen = sync_point.fingerprint if sync_point is not None and _fits(sync_point, backup_id, position) else None
    with contextlib.suppress(OSError):
        # What failed may have been the publication of a new generation, which counts all the same.
        begins = sync_point.begins if sync_point is not None and sync_point.backup_id == backup_id else None
        write_sync_point(directory, sync_point_of(backup_id, position, seen, failure, begins))


def _fits(sync_point: SyncPoint, backup_id: str, position: Position) -> bool:
    """Whether it tells of this very change."""
    noted = (sync_point.backup_id, sync_point.sequence, sync_point.data_version, sync_point.checksum)
    return noted == (backup_id, position.sequence, position.data_version, position.checksum)
