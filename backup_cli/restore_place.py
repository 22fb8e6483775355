"""Where a restored database goes: which file DEST means, which places are refused, and how the file gets there."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from backends import backup_at
from backends.errors import BackupError, Damaged, FromTheFuture
from backends.node.directory import CONFIG, DATABASE, NETWORKS, looks_like_a_nodes
from backends.node.files import sync_directory
from backends.system.interrupts import deferred
from backends.system.owners import user_name
from backends.system.scratch import scratch_directory
from backends.text import shell_word
from backup_cli.console import say
from backup_cli.options import free_name

MOUNT_FIRST = "if a disk or share belongs there, mount it first"
"""Of a directory that does not exist: made under a mount point, it would be hidden by the mount."""

COMPANIONS = ("", "-journal", "-wal", "-shm")
"""Suffixes of a database and of the files that SQLite keeps next to it: a stale journal would be rolled back into the
restored database."""


def target_of(dest: Path, *, as_directory: bool) -> Path:
    """The database file that DEST means; a missing directory with a network's name will be created.

    `as_directory`: DEST was written with a slash at the end. Raises BackupError when nothing can be restored there.
    """
    missing = not dest.exists() and dest.name in NETWORKS and dest.parent.is_dir()
    if dest.is_dir() or missing:
        _refuse_above(dest)
        return dest.absolute() / DATABASE
    needed = dest if as_directory else dest.parent
    if not needed.is_dir():
        raise BackupError(
            f"{needed} does not exist, so nothing can be restored there; create it, or check DEST; {MOUNT_FIRST}"
        )
    return dest.absolute()


def _refuse_above(dest: Path) -> None:
    """Refuse the directory above a network directory: lightningd looks for its database in the network directory, and
    creates an empty one if it finds none there."""
    inside = [dest / name for name in NETWORKS if (dest / name).is_dir()]
    if (inside or (dest / CONFIG).exists()) and not looks_like_a_nodes(dest):
        choices = " or ".join(shell_word(directory) for directory in inside or [dest / NETWORKS[0]])
        raise BackupError(
            f"lightningd does not look for its database in {dest}, but in the directory named after its network; "
            f"nothing was restored. Repeat this with {choices} as DEST"
        )


def refuse_inside(directory: Path) -> None:
    """Refuse a directory that is a backup: a database among a backup's files would be taken for one of them."""
    try:
        backup_at(directory.as_uri()).id()
    except (Damaged, FromTheFuture):
        pass  # it is still a backup
    except (BackupError, OSError):
        return
    raise BackupError(f"{directory} is itself a backup, so nothing was restored there; choose another directory")


def refuse_unwritable(directory: Path) -> None:
    """Raise the OSError that creating a file there would; for a missing directory, its parent is checked."""
    there = directory if directory.exists() else directory.parent
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


@contextmanager
def made(directory: Path) -> Iterator[None]:
    """Create the directory if it is missing; if nothing could be restored to it, remove it again."""
    if directory.exists():
        yield
        return
    ours = False
    try:
        with deferred():
            directory.mkdir(mode=0o700)
            ours = True
        sync_directory(directory.parent)
        yield
    except BaseException:
        if ours:
            with deferred(), suppress(OSError):
                directory.rmdir()
        raise


def file_behind(target: Path) -> Path:
    """The file that really holds the database: if `target` is a link, such as to another disk, it stays one.

    Raises BackupError for a dangling link, and for a link that another user has put there: in a shared directory he
    could otherwise have root's own database moved aside.
    """
    if not target.is_symlink():
        return target
    owner = target.lstat().st_uid
    if owner not in (0, os.geteuid(), target.parent.stat().st_uid):
        raise BackupError(
            f"{target} is a link that belongs to the user {user_name(owner)}, so nothing was restored to where it "
            "leads; choose another DEST, or remove that link if you do not know it"
        )
    file = target.resolve()
    if not file.exists():
        raise BackupError(
            f"{target} is a link to {target.readlink()}, and nothing is there: is that disk mounted? Nothing was "
            "restored. Mount it; or, if the database is to be here from now on, remove the link first"
        )
    say(f"{target} is a link, and stays one: the database goes to {file}")
    return file


def existing_at(target: Path) -> list[Path]:
    """The files where the database and its journals would go: those that exist."""
    beside = [_beside(target, suffix) for suffix in COMPANIONS]
    return [path for path in beside if path.exists() or path.is_symlink()]


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


class Unfinished:
    """The database while it is being restored: a file alone in a private directory, since SQLite opens it by its `path`
    more than once."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "restoring.sqlite3"
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def publish(self, target: Path) -> None:
        """Rename the finished file to `target`, durably. Raises OSError, and changes nothing, if somebody has replaced
        the file meanwhile."""
        made = os.stat(self.path.name, dir_fd=self._directory, follow_symlinks=False)
        if not (stat.S_ISREG(made.st_mode) and made.st_nlink == 1 and os.path.samestat(made, self.path.lstat())):
            raise OSError(errno.ESTALE, "something was put in the place of the file being restored", str(self.path))
        os.rename(self.path.name, target, src_dir_fd=self._directory)
        sync_directory(target.parent)

    def close(self) -> None:
        """Close the private directory: the file was published, or is not wanted any more."""
        os.close(self._directory)


@contextmanager
def unfinished(target: Path) -> Iterator[Unfinished]:
    """A file next to `target` that can be published as `target`; otherwise it is removed, whatever happens."""
    with scratch_directory(target.parent) as directory, closing(Unfinished(directory)) as file:
        yield file


def move_aside(target: Path, existing: list[Path]) -> list[Path]:
    """Rename the existing files to a common free name, and return the new paths. The database is the first: if its
    journal were moved away first, a crash would leave it corrupt."""
    name = free_name(target, ".before-restore-")
    moved = []
    for path in existing:
        suffix = path.name.removeprefix(target.name)
        aside = _beside(name, suffix)
        path.rename(aside)
        sync_directory(target.parent)
        moved.append(aside)
    return moved
