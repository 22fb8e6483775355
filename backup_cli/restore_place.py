"""Where a restored database goes: which file DEST means, and places that it must not go to."""

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

COMPANIONS = ("", "-journal", "-wal", "-shm")
"""A database and what SQLite keeps beside it: a stale journal would be rolled into the restored database."""


def target_of(dest: Path, *, as_directory: bool) -> Path:
    """The database file that DEST means; a missing directory with a network's name will be made."""
    missing = not dest.exists() and dest.name in NETWORKS and dest.parent.is_dir()
    if dest.is_dir() or missing:
        _refuse_above(dest)
        return dest.absolute() / DATABASE
    needed = dest if as_directory else dest.parent
    if not needed.is_dir():
        raise BackupError(f"{needed} does not exist, so nothing can be restored there; create it, or check DEST")
    return dest.absolute()


def _refuse_above(dest: Path) -> None:
    """lightningd looks for its database in the network directory, and begins an empty one where it finds none."""
    inside = [dest / name for name in NETWORKS if (dest / name).is_dir()]
    if (inside or (dest / CONFIG).exists()) and not looks_like_a_nodes(dest):
        choices = " or ".join(shell_word(directory) for directory in inside or [dest / NETWORKS[0]])
        raise BackupError(
            f"lightningd does not look for its database in {dest}, but in the directory named after its network; "
            f"nothing was restored. Repeat this with {choices} as DEST"
        )


def refuse_inside(directory: Path) -> None:
    """A database among a backup's own files would be taken for one of them."""
    try:
        backup_at(directory.as_uri()).id()
    except (Damaged, FromTheFuture):
        pass  # it is one all the same
    except (BackupError, OSError):
        return
    raise BackupError(f"{directory} is a backup itself, so nothing was restored there; choose another directory")


def refuse_unwritable(directory: Path) -> None:
    """As making a file there would; one that is missing is to be made. Raises OSError."""
    there = directory if directory.exists() else directory.parent
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


@contextmanager
def made(directory: Path) -> Iterator[None]:
    """The directory, made if it is missing, and then gone again when nothing could be restored to it."""
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
    """The file that the database is really in: a link to another disk stays, and leads to what is restored.

    Raises BackupError for a link to nothing, and for one that another user has put there: in a shared directory he
    could have root's own database moved aside.
    """
    if not target.is_symlink():
        return target
    owner = target.lstat().st_uid
    if owner not in (0, os.geteuid(), target.parent.stat().st_uid):
        raise BackupError(
            f"{target} is a link that belongs to the user {user_name(owner)}, so nothing was restored to where it "
            "leads; choose another DEST, or remove that link if it is none that you know"
        )
    file = target.resolve()
    if not file.exists():
        raise BackupError(
            f"{target} is a link to {target.readlink()}, and nothing is there: is that disk mounted? Nothing was "
            "restored. Mount it; or, if the database is to lie here from now on, remove the link first"
        )
    say(f"{target} is a link, and stays one: the database goes to {file}")
    return file


def existing_at(target: Path) -> list[Path]:
    """What lies where the database should go."""
    beside = [_beside(target, suffix) for suffix in COMPANIONS]
    return [path for path in beside if path.exists() or path.is_symlink()]


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


class Unfinished:
    """The new file that is worked in, alone in a private directory: SQLite opens it by `path`, again and again."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "restoring.sqlite3"
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def publish(self, target: Path) -> None:
        """Give the finished file its name, durably. OSError, and nothing has changed, if another one lies there now."""
        made = os.stat(self.path.name, dir_fd=self._directory, follow_symlinks=False)
        if not (stat.S_ISREG(made.st_mode) and made.st_nlink == 1 and os.path.samestat(made, self.path.lstat())):
            raise OSError(errno.ESTALE, "something was put in the place of the file being restored", str(self.path))
        os.rename(self.path.name, target, src_dir_fd=self._directory)
        sync_directory(target.parent)

    def close(self) -> None:
        """The file has its name, or is not wanted any more."""
        os.close(self._directory)


@contextmanager
def unfinished(target: Path) -> Iterator[Unfinished]:
    """A file to become `target`, beside it; gone afterwards, whatever happens."""
    with scratch_directory(target.parent) as directory, closing(Unfinished(directory)) as file:
        yield file


def move_aside(target: Path, existing: list[Path]) -> list[Path]:
    """The database goes first: a journal that is moved away from under it would leave it corrupt."""
    name = free_name(target, ".before-restore-")
    moved = []
    for path in existing:
        suffix = path.name.removeprefix(target.name)
        aside = _beside(name, suffix)
        path.rename(aside)
        sync_directory(target.parent)
        moved.append(aside)
    return moved
