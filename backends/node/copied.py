"""Whether a node's directory may be a copy whose database has diverged from the backup.

The higher version is the newer state only as long as there is one history. A directory that was copied while its node
ran, and then ran without the plugin, has another history: its database may be ahead of the backup and still lack
changes that were acknowledged. So a directory that did not write last never replaces anything in the backup by itself,
unless the sync point beside its database shows that it was copied, or restored, after all of that had been written.
"""

from pathlib import Path

from backends.base import LastWriter, Position
from backends.node.session import known_sessions, were_here
from backends.node.sync_point import Fingerprint, SyncPoint, read_sync_point


def may_have_gone_its_own_way(
    directory: Path, backup_id: str, last: LastWriter | None, end: Position | None, seen: Fingerprint | None
) -> bool:
    """Whether nothing shows that this directory's database comes from the end of the backup.

    `last` is the backup's last writer, `end` is where the backup ends (None when damage hides that), and `seen` is the
    database file before anybody opened it. Raises nothing.
    """
    if last is None or were_here(directory, backup_id):
        return False
    note = read_sync_point(directory)
    if note is None or note.backup_id != backup_id:
        # A restore of the kept generation leaves neither a sync point nor a session.
        return not (last.closed and known_sessions(directory, backup_id) is None)
    if end is not None and (note.sequence, note.data_version, note.checksum) != (
        end.sequence,
        end.data_version,
        end.checksum,
    ):
        return True
    return not (last.closed or _is_the_end(note, seen))


def _is_the_end(note: SyncPoint, seen: Fingerprint | None) -> bool:
    """Whether nobody has written to the database since the sync point was recorded."""
    return note.failure is None and seen is not None and note.fingerprint == seen
