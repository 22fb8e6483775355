"""Files and directories of this machine that belong to another user and that this user may not read."""

import os
import stat
from pathlib import Path

from backends.storage.base import Closed
from backends.system.owners import way_to

_NOT_FOR_BACKUPS = ("lost+found",)


def closed_on_the_way(directory: Path) -> Closed | None:
    """The first directory on the path to `directory`, itself included, that this user may not enter. Raises OSError."""
    end = way_to(directory).end
    if end.uid == os.geteuid() or _may_read(end.path, directory=True):
        return None
    return Closed(str(end.path), end.uid, end.gid)


def closed_inside(directory: Path) -> list[Closed]:
    """The entries of a directory that this user may not read, without hidden names and links. Raises OSError."""
    found = []
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith(".") or entry.name in _NOT_FOR_BACKUPS:
                continue
            status = entry.stat(follow_symlinks=False)
            is_directory = stat.S_ISDIR(status.st_mode)
            if status.st_uid == os.geteuid() or not (is_directory or stat.S_ISREG(status.st_mode)):
                continue
            if not _may_read(Path(entry.path), directory=is_directory):
                found.append(Closed(entry.name, status.st_uid, status.st_gid))
    return found


def _may_read(path: Path, *, directory: bool) -> bool:
    return os.access(path, os.R_OK | os.X_OK if directory else os.R_OK, effective_ids=True)
