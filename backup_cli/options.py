"""Arguments that several commands share."""

import difflib
import os
import pwd
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from backends import backend_for
from backends.base import Backend
from backends.confined.limits import lift
from backends.errors import BackupError, NotABackup, Unreachable
from backends.interrupts import deferred
from backends.node.directory import DATABASE, DEFAULT_DIRECTORY, NETWORKS, network_directory
from backends.node.lockfile import LOCK_FILE
from backends.older import older_backup_at
from backends.urls import Destination, parse_url
from backends.words import printable
from backup_cli.console import warn
from backup_cli.waiting import answered

lightning_dir = click.option(
    "--lightning-dir",
    type=click.Path(path_type=Path),
    default=DEFAULT_DIRECTORY,
    show_default="~/.lightning",
    help="The node's directory: the network directory (with lightningd.sqlite3 in it), or the one above it.",
)

REHEARSAL = "lightningd-backup-drill-"
"""How the name of what `backup-cli drill` makes at a destination begins."""

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


def node_directory(given: Path) -> Path:
    """The network directory that the option means."""
    return network_directory(given.expanduser())


def existing_backup(url: str) -> tuple[str, Backend]:
    """The backup that the URL names, or the only one in the directory that it names, with its own URL."""
    return answered(url, lambda: _existing_backup(url))


def _existing_backup(url: str) -> tuple[str, Backend]:
    if older_backup_at(url) is not None:
        raise NotABackup(
            f"{url} is a file of the older backup plugin. `backup-cli restore` reads it, and `backup-cli import` makes "
            "a backup of it; nothing else is done with such a file"
        )
    backend = backend_for(url)
    path = local_directory(url)
    if path is not None and _is_file(path):
        _refuse_unreadable(path)
        raise NotABackup(
            f"{path} is a file, and a backup is a directory. Nothing was changed; name the directory that "
            "holds the file called manifest, or the one above it. Should it be a file of the older backup plugin: name "
            "it with file://, and if that was done, its first bytes are damaged; try another copy of it"
        )
    try:
        backend.identify()
    except Unreachable as error:
        raise Unreachable(f"{error}{neighbours(url)}") from error
    except NotABackup as error:
        # Not what a drill made that is under way, or that was cut off by a power cut.
        inside = [name for name in backend.inside() if not name.startswith(REHEARSAL)]
        if not inside:
            raise NotABackup(f"{error}{neighbours(url)}") from error
        urls = [str(parse_url(url).below(name)) for name in inside]
        if len(urls) > 1:
            listed = "\n  ".join(urls)
            raise BackupError(f"{url} holds {len(urls)} backups; say which one:\n  {listed}") from None
        return urls[0], backend_for(urls[0])
    return url, backend


def neighbours(url: str) -> str:
    """The backups that lie beside the place that a URL names, nearest names first: for a URL with a typing error.

    A sentence with a space before it; empty when there are none, or nobody can tell.
    """
    place = parse_url(url)
    above = Destination(place.scheme, place.host, place.path.parent, place.options)
    names: list[str] = []
    with suppress(BackupError, OSError):
        names = [name for name in backend_for(str(above)).inside() if name != place.path.name]
    if not names:
        return ""
    alike = difflib.get_close_matches(place.path.name, names, n=_NEIGHBOURS, cutoff=0.0)
    listed = "".join(f"\n  {printable(above.below(name), 1000)}" for name in alike)
    more = f"\n  ... and {len(names) - len(alike)} more" if len(names) > len(alike) else ""
    return f". Beside it, {'is this backup' if len(names) == 1 else 'are these backups'}:{listed}{more}"


_NEIGHBOURS = 5
"""How many names are shown of a place that has many."""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False  # the backend will say what is wrong there


def _refuse_unreadable(path: Path) -> None:
    """A file whose first bytes nobody could read must not be called damaged."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise Unreachable(
            f"{path} is a file that cannot be read: {error.strerror}; nothing was changed. If it is one of the older "
            "backup plugin, run this as the user that lightningd runs as, or give it to this user with chown; if its "
            "disk is dying, copy what can still be read to another one first (ddrescue)"
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
    if not lock.exists():
        return None
    aside = free_name(lock, ".")
    aside.write_bytes(lock.read_bytes())
    aside.chmod(0o600)
    return aside


class Making:
    """A new backup that a command makes for a node."""

    def __init__(self) -> None:
        self.kept = False

    def keep(self) -> None:
        """The node names it now, so it stays."""
        self.kept = True


@contextmanager
def removed_on_failure(backend: Backend) -> Iterator[Making]:
    """While a backup is made and the node told of it: one that stays without its node is in the next try's way."""
    making = Making()
    try:
        yield making
    except BaseException:
        if backend.created and not making.kept:
            with deferred(), suppress(BackupError):
                backend.remove()
        raise


def chown_needed(place: Path, *written: Path) -> str | None:
    """What root must type after making `written` for a node in `place`, another user's directory; else None.

    What root makes is for root alone, and lightningd would not start with it. It names what is root's there, too.
    """
    owner = place.stat().st_uid
    made = owner == 0 and place.name in NETWORKS  # a moment ago, perhaps
    if made:
        owner = place.parent.stat().st_uid
    if os.geteuid() != 0 or owner == 0:
        return None
    ours = [path for name in (DATABASE, "backup.") for path in place.glob(f"{name}*") if path.lstat().st_uid == 0]
    elsewhere = [path for path in written if path.parent != place or not made]
    paths = ([place] if made else sorted(ours)) + elsewhere
    return f"chown -R {user_name(owner)}: {shlex.join(dict.fromkeys(str(path) for path in paths))}"


def local_directory(url: str) -> Path | None:
    """Where a backup lies on a mounted filesystem, if the URL says that."""
    place = parse_url(url)
    return place.local_path if place.scheme in ("file", "nfs") and place.names_no_other_machine else None


def warn_of_root(place: Path, url: str) -> None:
    """After root has made or changed the backup of a node that runs as another user."""
    backup = local_directory(url)
    command = chown_needed(place, *([backup] if backup is not None else []))
    if command is not None:
        warn(
            "this was done as root, and the node's user could open neither its own files nor the backup. Before you "
            f"start lightningd: {command}" + ("" if backup is not None else ", and give it the backup, too")
        )


def user_name(uid: int) -> str:
    """The user's name, or the number of one without."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
