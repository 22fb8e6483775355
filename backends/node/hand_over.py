"""Telling the node's side about its backup."""

from pathlib import Path

from backends.base import Position
from backends.node.directory import database_path
from backends.node.lockfile import Settings, write_settings
from backends.node.session import forget_sessions
from backends.node.sync_point import SyncPoint, fingerprint, remove_sync_point, write_sync_point
from backends.text import shell_line


def restore_command(url: str, directory: Path, *, replace: bool = False) -> str:
    """What brings the node in `directory` back, to be typed as it stands; `replace` where a database lies already."""
    return shell_line("backup-cli", "restore", "--resume", *(["--replace"] if replace else []), url, directory)


def hand_over(directory: Path, url: str, backup_id: str, position: Position | None) -> None:
    """The database in `directory` holds exactly what the backup does: say so, then name the backup in backup.lock.

    With None for `position` it holds something else, and the next start settles that. backup.lock comes last: from then
    on the plugin goes on from there. Raises OSError.
    """
    if position is None:
        remove_sync_point(directory)
    else:
        record_sync_point(directory, backup_id, position)
    forget_sessions(directory)
    write_settings(directory, Settings(url, backup_id))


def record_sync_point(directory: Path, backup_id: str, position: Position) -> None:
    """Note what the database file looks like now that it is known to hold the backup's last change."""
    seen = fingerprint(database_path(directory))
    write_sync_point(
        directory,
        SyncPoint(
            backup_id,
            position.sequence,
            position.data_version,
            position.checksum,
            seen if seen is not None and seen.size > 0 else None,
            None,
            ended="",
        ),
    )
