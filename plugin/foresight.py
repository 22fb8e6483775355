"""What the next start will do, for the commands: so they cannot contradict the plugin."""

from pathlib import Path

from backends.base import Position
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.node.directory import database_path
from backends.node.sync_point import look
from backends.sqlite.as_found import as_found
from plugin.at_start import WhyLeft
from plugin.doubt import why_doubted
from plugin.last_found import last_found
from plugin.roll_forward import read_backup


def takes_snapshot(directory: Path, backup_id: str, end: Position, *, known_damage: bool) -> bool:
    """Whether the next start takes a new snapshot although the versions agree.

    That is so when the content of the database is in doubt, or the backup is known to be damaged.
    """
    return known_damage or why_doubted(directory, look(directory), backup_id, end) is not None


def brings_forward(directory: Path, backup: Backup) -> bool:
    """Whether the next start brings the database in this directory forward. False when something cannot be read.

    Changes nothing. Nothing in this process may have the database open.
    """
    found = as_found(database_path(directory))
    try:
        read = read_backup(directory, backup, None, found, last_found(directory, found, note=False))
    except (BackupError, OSError):
        return False
    return not isinstance(read.missing, WhyLeft)
