"""`backup-cli restore`: from a backup back to a database, after a disaster."""

import glob
import os
import re
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NoReturn

import click
import psutil

from backends import backend_for
from backends.base import Backend, Standing
from backends.database.rebuild import Rebuilt, rebuild
from backends.database.settled import settled
from backends.database.source import inspect
from backends.errors import BackupError, Damaged, FromTheFuture
from backends.node.directory import CONFIG, DATABASE, NETWORKS, looks_like_a_nodes
from backends.node.files import sync_directory
from backends.node.handover import hand_over
from backends.node.lockfile import LOCK_FILE
from backends.node.running import refuse_if_running
from backends.node.writer_lock import WRITER_LOCK_FILE, WriterLock
from backends.older import older_backup_at
from backends.older.file import ahead
from backup_cli.console import progress, warn
from backup_cli.older import CANNOT_RESUME, rebuild_from
from backup_cli.options import chown_needed, existing_backup, free_name, set_old_lock_aside, url_argument
from backup_cli.restore_words import WHY_OLD_IS_DEADLY, tell_plan, tell_rules, tell_summary

COMPANIONS = ("", "-journal", "-wal", "-shm")
"""A database and what SQLite keeps beside it: a stale journal would be rolled into the restored database."""


@click.command()
@url_argument
@click.argument("dest", type=click.Path())
@click.option("--replace", is_flag=True, help="Move an existing database (and its journal) aside first.")
@click.option("--resume", is_flag=True, help="Write backup.lock, so that the node goes on with this same backup.")
@click.option("--to-version", type=click.IntRange(min=0), help="Stop at an old version: to look at, never for a node.")
@click.option("--not-for-a-node", is_flag=True, help="You know that no node may ever run from an old version.")
def restore(url: str, dest: str, replace: bool, resume: bool, to_version: int | None, not_for_a_node: bool) -> None:
    """Bring the database back from the backup at URL to DEST, a file or a directory.

    URL may also name a directory that holds exactly one backup, or a file of the older `backup` plugin. Nothing is
    overwritten.
    """
    _demand_consent(to_version, resume, not_for_a_node)
    older = older_backup_at(url)
    if older is not None and resume:
        raise BackupError(CANNOT_RESUME)
    url, backend = (url, None) if older is not None else existing_backup(url)
    target = _target(Path(dest).expanduser(), as_directory=dest.endswith(os.sep))
    if to_version is not None:
        target = target.with_name(f"{target.name}.version-{to_version}-NOT-FOR-A-NODE")
    _refuse_inside(target.parent)
    refuse_if_running(target.parent)
    existing = _existing(target)
    if existing and not replace:
        _refuse_to_overwrite(existing, target, url, backend)
    if resume and target.name != DATABASE:
        raise BackupError(f"--resume needs DEST to be a node's directory, so that the file is called {DATABASE}")
    if resume and not looks_like_a_nodes(target.parent):
        warn(
            f"nothing in {target.parent} shows that it is a node's. lightningd must work in this very directory; if it "
            f"will work in {target.parent / NETWORKS[0]}, restore to that one"
        )
    with _made(target.parent), _locked(target), _unfinished(target) as temporary:
        if backend is None:
            assert older is not None
            rebuilt = rebuild_from(older, temporary, target, to_version)
        else:
            tell_plan(backend.status(url), target, to_version)
            rebuilt, standing = _rebuild(backend, temporary, to_version)
        refuse_if_running(target.parent)  # a large restore takes minutes
        with _uninterrupted():
            aside = _move_aside(target, existing)
            temporary.rename(target)
            sync_directory(target.parent)
            if resume and backend is not None:
                set_old_lock_aside(target.parent)
                hand_over(target.parent, backend.lasting_url(url), backend.identify(), standing)
    tell_summary(target, rebuilt, aside, older is not None)
    if to_version is None:
        has_one = target.name == DATABASE and (target.parent / LOCK_FILE).exists()
        tell_rules(url, target, resume, older is not None, has_one, chown_needed(target.parent, target))
        if resume and backend is not None:
            _warn_if_closed(backend)
    else:
        warn(f"{target.name} is an old state. {WHY_OLD_IS_DEADLY}")


def _warn_if_closed(backend: Backend) -> None:
    with suppress(BackupError):  # gone this moment: all is restored, and check-config says more
        closed = backend.unwritable()
        if closed is not None:
            warn(f"the restored node could not go on with this backup, and would stop at its first commit: {closed}")


def _demand_consent(to_version: int | None, resume: bool, not_for_a_node: bool) -> None:
    if to_version is None and not_for_a_node:
        raise click.UsageError("--not-for-a-node belongs to --to-version; without that, what is restored is for a node")
    if to_version is not None and (resume or not not_for_a_node):
        raise BackupError(
            f"an old version is for looking at only. {WHY_OLD_IS_DEADLY}. To restore a node, leave --to-version out; "
            "if you only want to look, add --not-for-a-node (and no --resume). Nothing was restored"
        )


def _target(dest: Path, *, as_directory: bool) -> Path:
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
        choices = " or ".join(str(directory) for directory in inside or [dest / NETWORKS[0]])
        raise BackupError(
            f"lightningd does not look for its database in {dest}, but in the directory named after its network; "
            f"nothing was restored. Repeat this with {choices} as DEST"
        )


def _refuse_inside(directory: Path) -> None:
    """A database among a backup's own files would be taken for one of them."""
    try:
        backend_for(directory.as_uri()).identify()
    except (Damaged, FromTheFuture):
        pass  # it is one all the same
    except (BackupError, OSError):
        return
    raise BackupError(f"{directory} is a backup itself, so nothing was restored there; choose another directory")


@contextmanager
def _made(directory: Path) -> Iterator[None]:
    """The directory, made if it is missing, and then gone again when nothing could be restored to it."""
    if directory.exists():
        yield
        return
    directory.mkdir(mode=0o700)
    try:
        sync_directory(directory.parent)
        yield
    except BaseException:
        with suppress(OSError):
            (directory / WRITER_LOCK_FILE).unlink(missing_ok=True)
            directory.rmdir()
        raise


def _locked(target: Path) -> AbstractContextManager[object]:
    """Where a node lives, against its plugin; elsewhere there is nobody to be kept out."""
    return WriterLock(target.parent, "backup-cli restore") if target.name == DATABASE else nullcontext()


def _existing(target: Path) -> list[Path]:
    """What lies where the database should go."""
    beside = [_beside(target, suffix) for suffix in COMPANIONS]
    return [path for path in beside if path.exists() or path.is_symlink()]


def _refuse_to_overwrite(existing: list[Path], target: Path, url: str, backend: Backend | None) -> NoReturn:
    advice = "Look whether it is the newer state"
    with suppress(BackupError, OSError):  # one of the two cannot be read: then nobody can say
        advice = _newer(target, url, backend)
    names = ", ".join(str(path) for path in existing)
    raise BackupError(
        f"{names} is there already, and nothing was touched. {advice}; to restore all the same, with the old files "
        "moved aside, add --replace"
    )


def _newer(target: Path, url: str, backend: Backend | None) -> str:
    """Which of the two is the newer state. Raises BackupError or OSError when that cannot be told."""
    if backend is None:
        raise BackupError("an older plugin's file only shows its version when it is read whole")
    with settled(target) as file:
        there = inspect(file, writable=False).data_version
    saved = backend.status(url).data_version
    if there is None:
        raise BackupError("it keeps no version")
    distance = ahead(there, saved)
    if distance > 0:
        return f"It holds version {there}, the backup only {saved}: it is the newer state, and the one to go on with"
    which = "the same as" if distance == 0 else "older than"
    return f"It holds version {there}, {which} the backup's {saved}"


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """The last steps take no time; broken off between them, half of the files would have their new names."""
    try:
        before = {number: signal.signal(number, signal.SIG_IGN) for number in _STOPPING}
    except ValueError:  # not in the main thread, where no signal arrives
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


@contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """The temporary file that is worked in; gone afterwards, whatever happens. So is one of a killed restore."""
    name = f".{target.name}.restoring-"
    for left in target.parent.glob(f"{glob.escape(name)}*"):
        pid = left.name.removeprefix(name)
        if re.fullmatch("[0-9]{1,9}", pid) and not psutil.pid_exists(int(pid)):
            _remove(left)
    temporary = target.with_name(f"{name}{os.getpid()}")
    try:
        yield temporary
    finally:
        _remove(temporary)


def _remove(temporary: Path) -> None:
    for suffix in COMPANIONS:
        with suppress(FileNotFoundError):
            _beside(temporary, suffix).unlink()


def _rebuild(backend: Backend, temporary: Path, to_version: int | None) -> tuple[Rebuilt, Standing]:
    with progress("Restoring") as show, backend.read() as generation:
        if to_version is None:
            rebuilt = rebuild(generation, temporary, show)
        else:
            oldest = generation.manifest.base.data_version
            if to_version < oldest:
                raise BackupError(
                    f"the backup goes back to version {oldest}, not to {to_version}; nothing was restored"
                )
            rebuilt = rebuild(
                generation, temporary, show, take=lambda change: change.data_version <= to_version, enough=to_version
            )
            if rebuilt.data_version != to_version:
                raise BackupError(
                    f"the backup ends at version {rebuilt.data_version}, before {to_version}; nothing was restored"
                )
        last = generation.last
    if rebuilt.state.empty:
        raise BackupError("the backup holds no database yet: the node has never started with it. Nothing was restored")
    return rebuilt, Standing(rebuilt.data_version, last.sequence, last.checksum)


def _move_aside(target: Path, existing: list[Path]) -> list[Path]:
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
