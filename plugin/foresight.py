"""What the next start will do, for the commands: so they cannot contradict the plugin."""

from pathlib import Path

from backends.base import Position
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.members.missing import missing_members
from backends.members.start import StartRefused, may_start
from backends.members.survey import Survey
from backends.node.directory import database_path
from backends.node.key_file import load_key
from backends.node.lockfile import Settings
from backends.node.members_note import read_members_note
from backends.node.sync_point import look
from backends.sqlite.as_found import as_found
from plugin.at_start import WhyLeft
from plugin.doubt import changed_ago, why_doubted
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
        load_key(directory)
        read = read_backup(directory, backup, None, found, last_found(directory, found, note=False))
    except (BackupError, OSError):
        return False
    return not isinstance(read.missing, WhyLeft)


def why_no_start(directory: Path, settings: Settings, backup: Backup, surveyed: Survey, *, behind: bool) -> str | None:
    """Why the next start of a node with several members is refused if only these are there; None if it is not.

    `surveyed` is what they say, `backup` the newest of them, and `behind` is whether the database is at an earlier
    version. Nothing in this process may have the database open.
    """
    try:
        load_key(directory)
        found, end = look(directory), backup.end()
        proven = found is not None and (
            why_doubted(directory, found, backup.id(), end) is None or (behind and brings_forward(directory, backup))
        )
        note, ago = read_members_note(directory), changed_ago(found, end)
        may_start(
            surveyed.seen,
            settings.members,
            settings.need,
            note,
            proven=proven,
            changed_ago=ago,
            missing=missing_members(surveyed.missing, surveyed.left),
        )
    except StartRefused as error:
        return str(error)
    except BackupError:
        return None  # what cannot be read is reported for what it is
    return None
