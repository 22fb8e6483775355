"""`backup.lock` names the node's backup. It is the only thing that the plugin knows before lightningd's first call.

The file says that every commit of this node belongs in that backup. `backup-cli init` writes it last, so that a node
cannot start with half a backup.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from backends.errors import BackupError, FromTheFuture
from backends.node.files import read_small_file, replace_file

LOCK_FILE = "backup.lock"

_VERSION = 1
"""The version of this file's format. The older plugin's file has none: it holds `backend_url` and nothing else."""

_REMEDY = "stop the node and run: backup-cli init URL"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where this node's backup is, and which one it is.

    `backup_id` is None in a file of the older plugin, which holds only the URL.
    """

    url: str
    backup_id: str | None


def read_settings(directory: Path) -> Settings:
    """What `backup.lock` in this network directory says.

    Raises BackupError when it is missing, unreadable or malformed, FromTheFuture when a later release wrote it.
    """
    path = directory / LOCK_FILE
    try:
        data = read_small_file(path)
    except FileNotFoundError:
        raise BackupError(
            f"there is no {path}, so this node has no backup yet; nothing was lost: {_REMEDY} "
            "(or, to use a backup that exists, run: backup-cli restore --resume URL DEST)"
        ) from None
    except PermissionError as error:
        raise BackupError(
            f"{path} cannot be read ({error.strerror}); nothing was changed: it does not belong to the user that "
            "lightningd runs as, and the user who put it there must give it to that one (as root, first check that it "
            "is not a link, and what is in it)"
        ) from None
    except OSError as error:
        _senseless(path, error.strerror or str(error))
    return _settings(path, data)


def write_settings(directory: Path, settings: Settings) -> None:
    """Write `backup.lock` (mode 0600) into this network directory, as a whole and durably, replacing an old one.

    Raises BackupError when it cannot be written.
    """
    path = directory / LOCK_FILE
    document = {"backend_url": settings.url, "backup_id": settings.backup_id, "version": _VERSION}
    try:
        replace_file(path, json.dumps(document, indent=2).encode() + b"\n", durably=True)
    except OSError as error:
        raise BackupError(
            f"{path} could not be written ({error.strerror}), so this node is not tied to its backup yet; the node's "
            "own files are untouched: put that right and repeat the command before you start the node"
        ) from error


def _settings(path: Path, data: bytes) -> Settings:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        _senseless(path, "it is not JSON")
    if not isinstance(document, dict):
        _senseless(path, "it is not a JSON object")
    version = document.get("version", _VERSION)
    if type(version) is not int or version < 1:
        _senseless(path, '"version" is not the version of a format')
    if version > _VERSION:
        raise FromTheFuture(
            f"{path} was written by a later release of lightningd-backup (its format is {version}, this release knows "
            f"{_VERSION}); nothing was changed: install that release again"
        )
    url, backup_id = document.get("backend_url"), document.get("backup_id")
    if not isinstance(url, str) or not url:
        _senseless(path, '"backend_url" is not the URL of a backup')
    if backup_id is not None and (not isinstance(backup_id, str) or not backup_id):
        _senseless(path, '"backup_id" is not the id of a backup')
    return Settings(url, backup_id)


def _senseless(path: Path, what: str) -> NoReturn:
    raise BackupError(
        f"{path} does not say where this node's backup is: {what}; the node's own files and the backup are "
        f"untouched: move that file aside, {_REMEDY} with a new URL, and keep the old backup"
    ) from None
