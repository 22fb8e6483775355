"""Recording on the node's side which backup it has, and that its database matches it."""

from collections.abc import Sequence
from pathlib import Path

from backends.base import Position
from backends.node.directory import database_path
from backends.node.lockfile import Settings, write_settings
from backends.node.members_note import MembersNote, remove_members_note, write_members_note
from backends.node.memory import sync_point_of
from backends.node.session import forget_sessions
from backends.node.sync_point import fingerprint, remove_sync_point, write_sync_point
from backends.text import shell_line


def restore_command(url: str | Sequence[str], directory: Path, *, replace: bool = False) -> str:
    """The command that restores the node in `directory`, ready to type; `replace` if a database is already there.

    `url` is that of the backup, or those of all its members.
    """
    urls = [url] if isinstance(url, str) else url
    return shell_line("backup-cli", "restore", "--resume", *(["--replace"] if replace else []), *urls, directory)


def hand_over(
    directory: Path,
    url: str,
    backup_id: str,
    position: Position | None,
    several: tuple[Settings, MembersNote] | None = None,
) -> None:
    """Record that the database in `directory` holds exactly what the backup holds, then name the backup in backup.lock.

    `position` is where the backup ends. With None the database holds something else, and the next start resolves that.
    `several` is, for a backup with several members, what backup.lock says of them and what the node knows about them.
    backup.lock is written last: from then on the plugin continues that backup. Raises OSError or BackupError.
    """
    if position is None:
        remove_sync_point(directory)
    else:
        record_sync_point(directory, backup_id, position)
    forget_sessions(directory)
    # Until backup.lock is replaced, an earlier one counts. If it names several members, a node that has no note about
    # them starts only with every one that was in sync.
    if several is None:
        remove_members_note(directory)
        write_settings(directory, Settings(url, backup_id))
    else:
        settings, note = several
        write_members_note(directory, note)
        write_settings(directory, settings)


def record_sync_point(directory: Path, backup_id: str, position: Position) -> None:
    """Record how the database file looks now that it is known to hold the backup's last change. Raises OSError."""
    seen = fingerprint(database_path(directory))
    there = seen if seen is not None and seen.size > 0 else None
    write_sync_point(directory, sync_point_of(backup_id, position, there, ended=""))
