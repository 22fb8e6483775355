"""What happens before the manifest is answered: while lightningd waits for it, it has not opened its database.

If the database file is exactly as the last session left it, nothing happens, and nothing more is imported.
"""

from pathlib import Path

from backends.errors import BackupError
from backends.node.directory import database_path
from backends.node.lockfile import Settings, read_settings
from backends.node.session import known_sessions
from backends.node.sync_point import Fingerprint, look, read_sync_point
from backends.text import unexpected
from plugin.at_start import Start, WhyLeft


def before_manifest(directory: Path) -> Start:
    """Bring the database forward if it is provably a few changes behind its backup. Never raises: a start must go on.

    Call it before the manifest is answered, and while nothing in this process has the database open.
    """
    seen = look(directory)
    try:
        settings = read_settings(directory)
    except BackupError:
        return Start(seen)  # the first call is refused, and says why
    if _left_cleanly(directory, settings, seen):
        return Start(seen)
    try:
        from plugin.roll_forward import catch_up

        return catch_up(directory, settings)
    except Exception as error:
        line = f"the database could not be compared with its backup: {unexpected(error)}"
        return Start(look(directory), WhyLeft.UNEXPECTED, [("unusual", line)])


def _left_cleanly(directory: Path, settings: Settings, seen: Fingerprint | None) -> bool:
    """Whether the last session ended cleanly, and nobody has touched the database since.

    Each session is recorded durably before its first change, so the end of an earlier session is never mistaken for it.
    """
    sync_point = read_sync_point(directory)
    if sync_point is None or sync_point.failure is not None or sync_point.ended is None:
        return False
    if settings.backup_id not in (None, sync_point.backup_id) or sync_point.fingerprint != seen:
        return False
    database = database_path(directory)
    if database.with_name(f"{database.name}-journal").exists():
        return False
    sessions = known_sessions(directory, sync_point.backup_id)
    return sync_point.ended == (sessions[-1] if sessions else "")
