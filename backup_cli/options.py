"""Arguments that several commands share."""

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
from backup_cli.waiting import answered

A_PATH = click.Path(path_type=Path, readable=False)
"""Whether it can be read is found out as the user who is to read it: on a share, root itself often may not."""

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
    help="Where a copy of the whole database lies meanwhile.  [default: the node's directory]",
)

ELSEWHERE = "name a directory of yours on another disk, with --scratch DIR"
"""What to do where that copy finds no room."""

DRILL_PREFIX = "lightningd-backup-drill-"
"""How the name of what `backup-cli drill` makes at a destination begins."""

_SENSITIVE = (
    "Show a statement that fails in full. It may hold what must stay secret (runes, invoices, preimages): read what is "
    "printed before you share it."
)

_P = ParamSpec("_P")
_Result = TypeVar("_Result")


def show_statements(command: Callable[_P, _Result]) -> Callable[_P, _Result]:
    """For a command that may meet a statement that fails: shown by kind and table, unless somebody asks for more."""

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


_ASK = "the same with --show-statements prints that statement in full; it may hold secrets, so share it with nobody"


url_argument = click.argument("url", metavar="URL")


def _lift(context: click.Context, option: click.Parameter, given: bool) -> None:
    lift(given)


no_limits = click.option(
    "--no-limits",
    is_flag=True,
    expose_value=False,
    callback=_lift,
    help="You know this backup: it may take what memory, time and disk it wants.",
)


def existing_backup(url: str) -> tuple[str, Backup]:
    """The backup that the URL names, or the only one in the directory that it names, with its own URL."""
    return answered(url, lambda: _existing_backup(url))


def existing_backup_as_owner(url: str) -> tuple[str, Backup]:
    """The same for a command that is about nothing else: as the owner of that backup, if root has run it.

    In a directory of root's, the only backup may be another user's: root's `compact` left files there that the node
    could not read.
    """
    as_owner.backup(url)
    named, backup = existing_backup(url)
    if named == url or not as_owner.backup(named):
        return named, backup
    return existing_backup(named)  # opened once more: as this user now, and it was his to exchange until then


def _existing_backup(url: str) -> tuple[str, Backup]:
    if legacy_backup_at(url) is not None:
        raise NotABackup(
            f"{url} is a file of the older backup plugin. `backup-cli restore` reads it, and `backup-cli import` makes "
            "a backup of it; nothing else is done with such a file"
        )
    backup = backup_at(url)
    path = local_directory(url)
    if path is not None and _is_file(path):
        _refuse_unreadable(path)
        raise NotABackup(
            f"{path} is a file, and a backup is a directory. Nothing was changed; name the directory that "
            "holds the file called manifest, or the one above it. Should it be a file of the older backup plugin: name "
            "it with file://, and if that was done, its first bytes are damaged; try another copy of it"
        )
    try:
        backup.id()
    except ClosedToUser:
        raise  # it is there, so no other one is meant
    except Unreachable as error:
        raise _with_neighbours(error, url) from None
    except NotABackup as error:
        # Not what a drill made that is under way, or that was cut off by a power cut.
        inside = [name for name in backup.list_backups() if not name.startswith(DRILL_PREFIX)]
        closed = backup.closed()
        if not inside and closed:
            who = user_name(os.geteuid())
            raise closed_error(f"in {backup.describe()} is no backup that the user {who} may read", closed) from None
        if not inside:
            raise _with_neighbours(error, url) from None
        urls = [str(parse_url(url).below(name)) for name in inside]
        if len(urls) > 1 or closed:
            raise _several(url, urls, closed) from None
        return urls[0], backup_at(urls[0])
    return url, backup


def _several(url: str, urls: list[str], closed: list[Closed]) -> BackupError:
    """Which one is meant is for a person to say; of what is closed to this user, nobody knows whether it is one."""
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
    """The error, with the backups beside the place that the URL names, nearest names first: it may be mistyped."""
    place = parse_url(url)
    above = Destination(place.scheme, place.host, place.path.parent, place.options)
    names: list[str] = []
    with suppress(BackupError, OSError):
        names = [name for name in backup_at(str(above)).list_backups() if name != place.path.name]
    if not names:
        return error
    alike = difflib.get_close_matches(place.path.name, names, n=_NEIGHBOURS, cutoff=0.0)
    told = type(error)(f"{error}. Beside it {'is this backup' if len(names) == 1 else 'are these backups'}:")
    more = [f"and {len(names) - len(alike)} more"] if len(names) > len(alike) else []
    told.listed = (*(str(above.below(name)) for name in alike), *more)
    return told


_NEIGHBOURS = 5
"""How many names are shown of a place that has many."""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False  # the backup will say what is wrong there


def _refuse_unreadable(path: Path) -> None:
    """A file whose first bytes nobody could read must not be called damaged."""
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
            f"{path} is a file that cannot be read: {error.strerror}; nothing was changed. If it is one of the older "
            "backup plugin, run this as the user that lightningd runs as; if its disk is dying, copy what can still be "
            "read to another one first (ddrescue)"
        ) from None


def free_name(path: Path, infix: str) -> Path:
    """A name beside `path` for what is moved aside now: with the time in it, and not even the beginning of another.

    Within one second, or by a clock that was set back, one old file must not replace another.
    """
    now = time.strftime("%Y%m%d-%H%M%S")
    names = [other.name for other in path.parent.iterdir()]
    candidates = (f"{path.name}{infix}{now}{number}" for number in ("", *(f"-{n}" for n in range(2, len(names) + 3))))
    return path.with_name(next(name for name in candidates if not any(other.startswith(name) for other in names)))


def set_old_lock_aside(directory: Path) -> Path | None:
    """Keep an earlier backup.lock under another name; None when there was none."""
    lock = directory / LOCK_FILE
    try:
        data = read_small_file(lock)
    except FileNotFoundError:
        return None
    aside = free_name(lock, ".")
    create_file(aside, data)
    return aside


def lock_steps(directory: Path, url: str) -> list[str]:
    """What a dry run says of backup.lock, which `hand_over` would write."""
    lock = directory / LOCK_FILE
    aside = [f"keep the present {LOCK_FILE} as {LOCK_FILE}.TIME"] if lock.exists() else []
    return [*aside, f"write {lock}, which names {url}"]


class Making:
    """A new backup that a command makes for a node."""

    def __init__(self) -> None:
        self.kept = False

    def keep(self) -> None:
        """The node names it now, so it stays."""
        self.kept = True


@contextmanager
def removed_on_failure(backup: Backup) -> Iterator[Making]:
    """While a backup is made and the node told of it: one that stays without its node is in the next try's way."""
    making = Making()
    try:
        yield making
    except BaseException:
        if backup.created and not making.kept:
            with deferred(), suppress(BackupError):
                backup.remove()
        raise


def local_directory(url: str) -> Path | None:
    """Where a backup lies on a mounted filesystem, if the URL says that."""
    place = parse_url(url)
    return place.local_path if place.scheme in ("file", "nfs") and place.names_no_other_machine else None
