"""`backup.lock` names the node's backup. It is the only thing that the plugin knows before lightningd's first call.

The file says that every commit of this node belongs in that backup. `backup-cli init` writes it last, so that a node
cannot start with half a backup.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from backends.errors import BackupError, Damaged, FromTheFuture
from backends.log.format.members import MAX_MEMBERS, Member
from backends.node.files import read_small_file, replace_file

LOCK_FILE = "backup.lock"

_ONE, _SEVERAL = 1, 2
"""The versions of this file's format: for one destination, and for several, which the first release must refuse. The
older plugin's file has none: it holds `backend_url` and nothing else."""

DEFAULT_GRACE = 5.0
"""Seconds that a commit waits for a member before the member is put out of sync."""

MAX_GRACE = 600.0

_REMEDY = "stop the node and run: backup-cli init URL"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where this node's backup is, and which one it is.

    `backup_id` is None in a file of the older plugin, which holds only the URL.
    """

    url: str
    """The destination; of several members, the first."""
    backup_id: str | None
    members: tuple[Member, ...] = ()
    """All members of a backup that has several destinations, in the order in which they were named; else empty."""
    need: int = 1
    """How many members must be in sync for the node to go on."""
    grace: float = DEFAULT_GRACE

    @property
    def urls(self) -> tuple[str, ...]:
        """All URLs of the backup, as a command takes them."""
        return tuple(member.url for member in self.members) or (self.url,)

    def member(self, name: str) -> Member:
        """The member of that name, which must be one of them."""
        return next(member for member in self.members if member.name == name)


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
    document: dict[str, Any] = {"backend_url": settings.url, "backup_id": settings.backup_id, "version": _ONE}
    if settings.members:
        members = [each.fields() for each in settings.members]
        document |= {"version": _SEVERAL, "members": members, "need": settings.need, "grace": settings.grace}
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
    version = document.get("version", _ONE)
    if type(version) is not int or version < 1:
        _senseless(path, '"version" is not the version of a format')
    if version > _SEVERAL:
        raise FromTheFuture(
            f"{path} was written by a later release of lightningd-backup (its format is {version}, this release knows "
            f"{_SEVERAL}); nothing was changed: install that release again"
        )
    url, backup_id = document.get("backend_url"), document.get("backup_id")
    if not isinstance(url, str) or not url:
        _senseless(path, '"backend_url" is not the URL of a backup')
    if backup_id is not None and (not isinstance(backup_id, str) or not backup_id):
        _senseless(path, '"backup_id" is not the id of a backup')
    if version == _ONE:
        return Settings(url, backup_id)
    return _of_several(path, document, backup_id)


def _of_several(path: Path, document: dict[str, Any], backup_id: str | None) -> Settings:
    listed, need, grace = document.get("members"), document.get("need"), document.get("grace")
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_MEMBERS:
        _senseless(path, '"members" is not a list of destinations')
    try:
        members = tuple(map(Member.from_fields, listed))
    except Damaged as error:
        _senseless(path, error.what)
    if not all(member.name and member.url for member in members):
        _senseless(path, "a member has no name or no URL")
    if len({member.name for member in members}) != len(members) or backup_id is None:
        _senseless(path, "two members have one name, or the backup has none")
    waited_for = sum(not member.trailing for member in members)
    if not isinstance(need, int) or isinstance(need, bool) or not 1 <= need <= waited_for:
        _senseless(path, '"need" is not a number of members that are waited for')
    if not isinstance(grace, int | float) or isinstance(grace, bool) or not 0 < grace <= MAX_GRACE:
        _senseless(path, f'"grace" is not a number of seconds up to {MAX_GRACE:.0f}')
    return Settings(members[0].url, backup_id, members, need, float(grace))


def _senseless(path: Path, what: str) -> NoReturn:
    raise BackupError(
        f"{path} does not say where this node's backup is: {what}; the node's own files and the backup are "
        f"untouched: move that file aside, {_REMEDY} with a new URL, and keep the old backup"
    ) from None
