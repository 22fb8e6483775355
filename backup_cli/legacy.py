"""How `restore` reads a backup file of the older plugin, and how other commands refuse that plugin's backup.lock."""

from dataclasses import replace
from pathlib import Path

from backends.confined.work import rebuild_legacy_file
from backends.errors import BackupError
from backends.legacy import LegacyBackup, legacy_backup_at
from backends.node.lockfile import LOCK_FILE, Settings
from backends.sqlite.rebuild import Rebuilt
from backup_cli.console import progress, size, warn
from backup_cli.restore_text import tell_plan_of

CANNOT_RESUME = (
    "no node can go on with a backup of the older plugin, so --resume has no meaning; nothing was restored. Restore "
    "without it, then make a new backup with: backup-cli init"
)


def refuse_legacy_lock(directory: Path, settings: Settings) -> None:
    """Raise BackupError when the node's backup.lock still names the older plugin's file or server."""
    if settings.backup_id is not None:
        return  # the older plugin's backup.lock never names a backup id
    if settings.url.startswith("socket:") or legacy_backup_at(settings.url) is not None:
        raise BackupError(
            f"{directory / LOCK_FILE} was written by the older backup plugin and names {settings.url}, which this "
            "plugin cannot continue. Nothing was changed; stop the node and run: backup-cli init URL, with a new URL "
            "(docs/migrating.md)"
        )


def rebuild_from(file: Path, temporary: Path, target: Path, to_version: int | None = None) -> Rebuilt:
    """Show the plan, rebuild the database held by the legacy `file` in `temporary`, and warn of what was odd about it.

    `target` is the database's final path, for the plan. Raises BackupError; `temporary` is then worthless.
    """
    with LegacyBackup(file) as legacy:
        _tell_plan(legacy, target, to_version)
        with progress("Restoring") as show:
            rebuilt, remarks = rebuild_legacy_file(file, temporary, show, to_version=to_version)
        if to_version is None and rebuilt.data_version != legacy.named_version:
            warn(
                f"the file's header, which is written last, names version {legacy.named_version}; the complete changes "
                f"in the file reach version {rebuilt.data_version}, and all of them were restored"
            )
        for remark in remarks:
            warn(remark)
    if rebuilt.state.empty:
        raise BackupError(f"{file} holds no database yet: the node has never started with it. Nothing was restored")
    return replace(rebuilt, torn=None)  # that was among the remarks


def _tell_plan(legacy: LegacyBackup, target: Path, to_version: int | None) -> None:
    origin = f"{legacy.path} (a file of the older plugin, {size(legacy.stored_bytes())})"
    # The records carry no time, and a copied file carries the time of the copying.
    since = "in a file last written"
    tell_plan_of(origin, legacy.named_version, since, legacy.last_time, target, to_version)
