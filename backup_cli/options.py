"""Options and arguments that several commands share, and how they find an existing backup or make a new one."""

import difflib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import click

from backends import backup_at
from backends.errors import BackupError, ClosedToUser, NotABackup, Unreachable, withheld_by
from backends.legacy import legacy_backup_at
from backends.log.backup import Backup
from backends.node.directory import DEFAULT_DIRECTORY
from backends.node.files import create_file, read_small_file
from backends.node.lockfile import LOCK_FILE
from backends.sqlite.limits import lift
from backends.storage.base import Closed
from backends.storage.unreachable import closed_error
from backends.system.interrupts import deferred
from backends.system.owners import user_name
from backends.text import counted, one_line, printable
from backends.urls import Destination, parse_url
from backup_cli import as_owner
from backup_cli.completing import offered_urls
from backup_cli.waiting import answered

A_PATH = click.Path(path_type=Path, readable=False)
"""A path that click does not check for readability: that is checked as the user who will read it. On a share, root
itself often may not."""

lightning_dir = click.option(
    "--lightning-dir",
    type=A_PATH,
    default=DEFAULT_DIRECTORY,
    show_default="~/.lightning",
    help="The node's directory: the network directory (with lightningd.sqlite3 in it), or the one above it.",
)

copy_place = click.option(
    "--scratch",
    type=click.Path(path_type=Path, exists=True, file_okay=False, readable=False),
    help="Where to keep a temporary copy of the whole database.  [default: the node's directory]",
)

ELSEWHERE = "name a directory of yours on another disk, with --scratch DIR"
"""What to do if there is no space for that copy."""

DRILL_PREFIX = "lightningd-backup-drill-"
"""The start of the name of each backup that `backup-cli drill` makes at a destination."""

_SENSITIVE = (
    "Show a statement that fails in full. It may hold secrets (runes, invoices, preimages): read the output before you "
    "share it."
)

_P = ParamSpec("_P")
_Result = TypeVar("_Result")


def show_statements(command: Callable[_P, _Result]) -> Callable[_P, _Result]:
    """Add the flag `--show-statements`: without it, a failing statement is shown by its kind and table only."""

    @click.option("--show-statements", "in_full", is_flag=True, help=_SENSITIVE)
    @wraps(command)
    def told(*arguments: Any, in_full: bool, **named: Any) -> _Result:
        try:
            return command(*arguments, **named)
        except BackupError as error:
            text = withheld_by(error)
            if text and in_full:
                error.listed = (*error.listed, f"in full, may be secret: {one_line(text)}")
            elif text:
                error.listed = (*error.listed, _ASK)
            raise

    return cast(Callable[_P, _Result], told)


_ASK = "add --show-statements to print that statement in full; it may hold secrets, so share it with nobody"


url_argument = click.argument("url", metavar="URL", shell_complete=offered_urls)

urls_argument = click.argument("urls", metavar="URL...", nargs=-1, required=True, shell_complete=offered_urls)


def _lift(context: click.Context, option: click.Parameter, given: bool) -> None:
    lift(given)


no_limits = click.option(
    "--no-limits",
    is_flag=True,
    expose_value=False,
    callback=_lift,
    help="Allow as much memory, time and disk space as the backup takes; only for a backup that you trust.",
)


def existing_backup(url: str) -> tuple[str, Backup]:
    """The backup that the URL names, or the only backup in the directory that it names, and that backup's own URL.

    Raises BackupError: NotABackup, Unreachable or ClosedToUser, or one that lists the backups to choose from.
    """
    return answered(url, lambda: find_backup(url))


def existing_backup_as_owner(url: str) -> tuple[str, Backup]:
    """`existing_backup` for a command that only concerns a backup: if root runs it, it goes on as the backup's owner.

    In a directory of root's, the only backup may be another user's: root's `compact` left files in one that the node
    could not read.
    """
    as_owner.backup(url)
    named, backup = existing_backup(url)
    if named == url or not as_owner.backup(named):
        return named, backup
    return existing_backup(named)  # opened again, as its owner: until now, he could have replaced it


def find_backup(url: str) -> tuple[str, Backup]:
    """`existing_backup` without a limit of time, and without a word: for a thread that may hang."""
    if legacy_backup_at(url) is not None:
        raise NotABackup(
            f"{url} is a file of the older backup plugin. `backup-cli restore` reads it, and `backup-cli import` makes "
            "a backup from it; no other command works with such a file"
        )
    backup = backup_at(url)
    path = local_directory(url)
    if path is not None and _is_file(path):
        _refuse_unreadable(path)
        raise NotABackup(
            f"{path} is a file, and a backup is a directory. Nothing was changed; name the directory that "
            "holds the file called manifest, or the one above it. If it is a file of the older backup plugin, name it "
            "with file://; if you did, its first bytes are damaged: try another copy of it"
        )
    try:
        backup.id()
    except ClosedToUser:
        raise  # it exists, so the URL means no other backup
    except Unreachable as error:
        raise _with_neighbours(error, url) from None
    except NotABackup as error:
        # Without backups of a drill that is still running, or that a power cut interrupted.
        inside = [name for name in backup.list_backups() if not name.startswith(DRILL_PREFIX)]
        closed = backup.closed()
        if not inside and closed:
            who = user_name(os.geteuid())
            raise closed_error(f"{backup.describe()} holds no backup that the user {who} may read", closed) from None
        if not inside:
            raise _with_neighbours(error, url) from None
        urls = [str(parse_url(url).below(name)) for name in inside]
        if len(urls) > 1 or closed:
            raise _several(url, urls, closed) from None
        return urls[0], backup_at(urls[0])
    return url, backup


def _several(url: str, urls: list[str], closed: list[Closed]) -> BackupError:
    """The error when the URL may mean several backups: a person must choose. Nobody can tell whether what is closed to
    this user is a backup."""
    count = counted(len(urls), "backup")
    if not closed:
        several = BackupError(f"{url} holds {count}; say which one:")
    else:
        several = BackupError(
            f"{url} holds {count} that the user {user_name(os.geteuid())} may read, and {len(closed)} more of other "
            "users, which may be newer; say which one is meant, and for one of theirs, run this as that user:"
        )
    theirs = [f"{printable(each.name)} (of the user {_name(each)})" for each in closed]
    several.listed = (*urls, *theirs)
    return several


def _name(closed: Closed) -> str:
    return "?" if closed.uid is None else user_name(closed.uid)


def _with_neighbours(error: BackupError, url: str) -> BackupError:
    """The error, with the backups next to the place that the URL names, in case it is mistyped; nearest names first."""
    place = parse_url(url)
    above = Destination(place.scheme, place.host, place.path.parent, place.options)
    names: list[str] = []
    with suppress(BackupError, OSError):
        names = [name for name in backup_at(str(above)).list_backups() if name != place.path.name]
    if not names:
        return error
    alike = difflib.get_close_matches(place.path.name, names, n=_NEIGHBOURS, cutoff=0.0)
    told = type(error)(f"{error}. Next to it {'is this backup' if len(names) == 1 else 'are these backups'}:")
    more = [f"and {len(names) - len(alike)} more"] if len(names) > len(alike) else []
    told.listed = (*(str(above.below(name)) for name in alike), *more)
    return told


_NEIGHBOURS = 5
"""At most this many neighbouring backups are listed."""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False  # opening the backup will show what is wrong there


def _refuse_unreadable(path: Path) -> None:
    """Raise BackupError if the file cannot be read: a file must not be called damaged when only reading it failed."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except PermissionError:
        status = path.stat()
        raise closed_error(
            f"{path} is a file that the user {user_name(os.geteuid())} may not read",
            [Closed(path.name, status.st_uid, status.st_gid)],
        ) from None
    except OSError as error:
        raise Unreachable(
            f"{path} is a file that cannot be read: {error.strerror}; nothing was changed. If the older backup plugin "
            "wrote it, run this as the user that lightningd runs as; if its disk is dying, first copy what can still "
            "be read to another disk (ddrescue)"
        ) from None


def free_name(path: Path, infix: str) -> Path:
    """A free name in the directory of `path` for a file to be moved aside: its name, `infix`, and the time.

    No other file's name begins with it. Files moved aside within one second, or after the clock was set back, must not
    replace each other.
    """
    now = time.strftime("%Y%m%d-%H%M%S")
    names = [other.name for other in path.parent.iterdir()]
    candidates = (f"{path.name}{infix}{now}{number}" for number in ("", *(f"-{n}" for n in range(2, len(names) + 3))))
    return path.with_name(next(name for name in candidates if not any(other.startswith(name) for other in names)))


def set_old_lock_aside(directory: Path) -> Path | None:
    """Copy an existing backup.lock to another name. Returns that path; None when there is no backup.lock."""
    lock = directory / LOCK_FILE
    try:
        data = read_small_file(lock)
    except FileNotFoundError:
        return None
    aside = free_name(lock, ".")
    create_file(aside, data)
    return aside


def lock_steps(directory: Path, url: str) -> list[str]:
    """The steps that a dry run lists for backup.lock, which `hand_over` would write."""
    lock = directory / LOCK_FILE
    aside = [f"keep the current {LOCK_FILE} as {LOCK_FILE}.TIME"] if lock.exists() else []
    return [*aside, f"write {lock}, which names {url}"]


class Making:
    """A new backup that a command makes for a node."""

    def __init__(self) -> None:
        self.kept = False

    def keep(self) -> None:
        """The node's backup.lock names the backup now, so it is not removed on a failure."""
        self.kept = True


@contextmanager
def removed_on_failure(backup: Backup, making: Making | None = None) -> Iterator[Making]:
    """Around creating a backup and writing the node's backup.lock: on a failure, the new backup is removed again.

    A backup that no node uses would be in the way of the next attempt. `making` is what another member of the same
    backup is made with: all of them are kept, or none is.
    """
    making = making or Making()
    try:
        yield making
    except BaseException:
        if backup.created and not making.kept:
            with deferred(), suppress(BackupError):
                backup.remove()
        raise


def local_directory(url: str) -> Path | None:
    """The path of a backup on a mounted filesystem; None if the URL does not name one."""
    return parse_url(url).directory
