"""Telling the node's side about its backup."""

from pathlib import Path

from backends.base import Standing
from backends.node.directory import database_path
from backends.node.lockfile import Settings, write_settings
from backends.node.session import forget_sessions
from backends.node.sync_point import Witness, fingerprint, remove_witness, write_witness
from backends.text import shell_line


def restore_command(url: str, directory: Path, *, replace: bool = False) -> str:
    """What brings the node in `directory` back, to be typed as it stands; `replace` where a database lies already."""
    return shell_line("backup-cli", "restore", "--resume", *(["--replace"] if replace else []), url, directory)


def hand_over(directory: Path, url: str, backup_id: str, standing: Standing | None) -> None:
    """The database in `directory` holds exactly what the backup does: say so, then name the backup in backup.lock.

    With None for `standing` it holds something else, and the next start settles that. backup.lock comes last: from then
    on the plugin goes on from there. Raises OSError.
    """
    if standing is None:
        remove_witness(directory)
    else:
        bear_witness(directory, backup_id, standing)
    forget_sessions(directory)
    write_settings(directory, Settings(url, backup_id))


def bear_witness(directory: Path, backup_id: str, standing: Standing) -> None:
    """Note what the database file looks like now that it is known to hold the backup's last change."""
    seen = fingerprint(database_path(directory))
    write_witness(
        directory,
        Witness(
            backup_id,
            standing.sequence,
            standing.data_version,
            standing.checksum,
            seen if seen is not None and seen.size > 0 else None,
            None,
            ended="",
        ),
    )
