"""`backup-cli init`: creates a backup for a node: empty before its first start, else a snapshot of its database."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from backends import backup_at
from backends.base import SnapshotSource
from backends.errors import BackupError
from backends.holder import COMMAND
from backends.log.backup import Backup
from backends.node.directory import (
    DEFAULT_DIRECTORY,
    NETWORKS,
    database_path,
    looks_like_a_nodes,
)
from backends.node.hand_over import hand_over
from backends.node.pairing import Found
from backends.node.present import inspect_database
from backends.node.running import refuse_if_running
from backends.node.writer_lock import WriterLock
from backends.sqlite.copy import nothing, watched
from backends.sqlite.source import DatabaseState, inspect
from backends.system.interrupts import ignored
from backup_cli import as_owner
from backup_cli.consent.newest import demand_newest, discard_newer
from backup_cli.consent.schema import tell_unknown_schema
from backup_cli.console import progress, say, show_whole, size, warn
from backup_cli.copying import copied
from backup_cli.drill.report import CALLS_PER_PAYMENT
from backup_cli.dry_run import dry_run_option, held, tell_steps
from backup_cli.for_programs import hand_out_result, json_option
from backup_cli.options import (
    copy_place,
    lightning_dir,
    lock_steps,
    removed_on_failure,
    set_old_lock_aside,
    url_argument,
)
from backup_cli.pairing_text import in_words
from backup_cli.paths import plugin_path
from backup_cli.replica import refuse_other_database
from backup_cli.secret_text import warn_of_secret
from backup_cli.waiting import answered


@click.command(short_help="Create a backup of this node.")
@lightning_dir
@url_argument
@copy_place
@discard_newer
@dry_run_option
@json_option
def init(
    lightning_dir: Path, url: str, scratch: Path | None, consent: tuple[str, ...], dry_run: bool, as_json: bool
) -> None:
    """Create a backup at URL, e.g. file:///mnt/backup/lightning.bkp, with a snapshot of an existing database.

    Stop lightningd first. Afterwards put the important-plugin line that this prints into lightningd's config. Refused
    if the backup that the node has used until now holds a newer state than its database.
    """
    directory = _directory(lightning_dir)
    as_owner.refuse_anothers(scratch)
    backup = backup_at(url)
    refuse_if_running(directory)
    with held(WriterLock(directory, f"{COMMAND} init"), dry_run):
        refuse_other_database(directory, database_path(directory))
        answered(url, backup.check_new)
        database = database_path(directory)
        there = inspect_database(database)
        if there.found not in (Found.CORRUPT, Found.UNREADABLE):  # `_state` refuses these below
            demand_newest(directory, there, in_words(there, database), consent)
        if dry_run:
            tell_steps([_would_make(directory, url), *lock_steps(directory, backup.place.durable_url(url))], as_json)
            return
        with removed_on_failure(backup) as making:
            with _database(directory, scratch or directory) as source:
                position = backup.create(source)
            for line in backup.place.warnings(directory):
                warn(line)
            latency = _tell_place(backup)
            backup_id, lasting = backup.id(), backup.place.durable_url(url)
            with ignored():
                old = set_old_lock_aside(directory)
                hand_over(directory, lasting, backup_id, position)
                making.keep()
    if old is not None:
        say(f"This node's earlier backup.lock is kept as {old.name}; the backup that it names is no longer used.")
    holds = f"the database at version {position.data_version}" if source.pieces else "no database yet"
    say(f"The backup at {url} is ready and holds {holds}.")
    warn_of_secret(directory, source.node_id, "the database")
    if as_json:
        hand_out_result(
            {
                "url": lasting,
                "backup_id": backup_id,
                "node_id": source.node_id,
                "data_version": position.data_version,
                "lightning_dir": str(directory),
                "earlier_lock": None if old is None else str(old),
                "commit_seconds": latency,
                "important_plugin": plugin_path(),
            }
        )
        return
    say("Now add this line to lightningd's config file, then start the node:", "")
    show_whole(f"important-plugin={plugin_path()}")


def _directory(given: Path) -> Path:
    """The node's network directory. Only a directory named with --lightning-dir may be new, and have any name."""
    directory = as_owner.node_directory(given, new=given != DEFAULT_DIRECTORY)
    if not looks_like_a_nodes(directory):
        warn(
            f"nothing in {directory} shows that it is a node's. It is taken for the directory where lightningd will "
            f"work and keep its database; if that is to be {directory / NETWORKS[0]}, create that directory, and run "
            "this again with it and another URL"
        )
    return directory


SLOW_COMMIT = 0.020
"""Commit latency in seconds above which `init` says what it means for payments."""


def _tell_place(backup: Backup) -> float:
    """Say what the destination is, and how long a commit takes there. Returns the latter in seconds."""
    for line in backup.place.about():
        say(f"Found: {line}")
    latency = backup.commit_latency()
    say(f"A commit takes {latency * 1000:.1f} ms there.")
    if latency > SLOW_COMMIT:
        warn(
            f"a payment makes about {CALLS_PER_PAYMENT:.0f} commits, so it waits about "
            f"{latency * CALLS_PER_PAYMENT:.1f} s for this destination. A faster one would be better; to measure more, "
            "run: backup-cli drill URL"
        )
    return latency


def _would_make(directory: Path, url: str) -> str:
    path = database_path(directory)
    state = _state(directory, writable=False)
    if state is None:
        return f"create an empty backup at {url}"
    holds = f"version {state.data_version or 0}, {size(path.stat().st_size)}"
    return f"create a backup at {url}, with a snapshot of {path} ({holds})"


@contextmanager
def _database(directory: Path, scratch: Path) -> Iterator[SnapshotSource]:
    """What the new backup begins with: a copy of the node's database, or nothing."""
    if _state(directory, writable=True) is None:
        yield nothing()
        return
    path = database_path(directory)
    with copied(path, scratch) as source, progress(f"Writing the snapshot of version {source.data_version}") as show:
        yield watched(source, show)


def _state(directory: Path, *, writable: bool) -> DatabaseState | None:
    """The state of the node's database; None when there is none yet. Raises BackupError if it is not lightningd's."""
    path = database_path(directory)
    if path.is_symlink() and not path.exists():
        raise BackupError(
            f"{path} is a link to {path.readlink()}, and nothing is there: is the disk that holds the database "
            "mounted? Nothing was created; mount it, then try again"
        )
    if not path.exists() or path.stat().st_size == 0:
        say(f"There is no database in {directory} yet: the backup begins empty, with the node's first start.")
        if (directory / "hsm_secret").exists():
            warn(
                "hsm_secret is there, so this node may have run before. If a backup of it exists, do not start it "
                "empty, or it loses its channels: bring its database back first, with backup-cli restore"
            )
        return None
    state = inspect(path, writable=writable)
    if not state.is_lightningd:
        raise BackupError(
            f"{path} is not a lightningd database (its tables are missing). Nothing was created; check --lightning-dir"
        )
    tell_unknown_schema(state.unknown_objects)
    return state
