"""`backup-cli init`: a new backup for a node, before its first start or of what it holds already."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from backends import backend_for
from backends.base import Backend, SnapshotSource
from backends.database.source import inspect
from backends.database.taking import nothing, taken
from backends.errors import BackupError
from backends.interrupts import ignored
from backends.node.directory import (
    DEFAULT_DIRECTORY,
    NETWORKS,
    database_path,
    looks_like_a_nodes,
)
from backends.node.handover import hand_over
from backends.node.pairing import Found
from backends.node.present import look_at_database
from backends.node.running import refuse_if_running
from backends.node.writer_lock import WriterLock
from backup_cli import as_owner
from backup_cli.console import progress, say, show_line, warn
from backup_cli.newest import demand_newest, discard_newer
from backup_cli.options import (
    ELSEWHERE,
    copy_place,
    lightning_dir,
    removed_on_failure,
    set_old_lock_aside,
    url_argument,
)
from backup_cli.pairing_words import in_words
from backup_cli.rehearsal import CALLS_PER_PAYMENT
from backup_cli.replica import refuse_other_database
from backup_cli.schema_consent import tell_unknown_schema
from backup_cli.secret_words import warn_of_secret
from backup_cli.waiting import answered


@click.command(short_help="Create a backup of this node.")
@lightning_dir
@url_argument
@copy_place
@discard_newer
def init(lightning_dir: Path, url: str, scratch: Path | None, consent: tuple[str, ...]) -> None:
    """Create a backup at URL, e.g. file:///mnt/backup/lightning.bkp, with a snapshot of an existing database.

    Stop lightningd first. Afterwards put the important-plugin line that this prints into lightningd's config. Refused
    when the backup that the node has had so far holds a newer state than its database.
    """
    directory = _directory(lightning_dir)
    as_owner.refuse_anothers(scratch)
    backend = backend_for(url)
    refuse_if_running(directory)
    with WriterLock(directory, "backup-cli init"):
        refuse_other_database(directory, database_path(directory))
        answered(url, backend.check_new)
        database = database_path(directory)
        there = look_at_database(database)
        if there.found not in (Found.CORRUPT, Found.UNREADABLE):  # told below, and nothing is made
            demand_newest(directory, there, in_words(there, database), consent)
        with removed_on_failure(backend) as making:
            with _database(directory, scratch or directory) as source:
                standing = backend.create(source)
            for line in backend.warnings(directory):
                warn(line)
            _tell_place(backend)
            backup_id, lasting = backend.identify(), backend.lasting_url(url)
            with ignored():
                old = set_old_lock_aside(directory)
                hand_over(directory, lasting, backup_id, standing)
                making.keep()
    if old is not None:
        say(f"This node's earlier backup.lock is kept as {old.name}; the backup that it names is not used any more.")
    holds = f"the database at version {standing.data_version}" if source.pieces else "no database yet"
    say(f"The backup at {url} is ready and holds {holds}.")
    warn_of_secret(directory, source.node_id, "the database")
    say("Now add this line to lightningd's config file, then start the node:", "")
    show_line(f"important-plugin={plugin_path()}")


def _directory(given: Path) -> Path:
    """The node's; one that was named may be new and of any name, the default may not."""
    directory = as_owner.node_directory(given, new=given != DEFAULT_DIRECTORY)
    if not looks_like_a_nodes(directory):
        warn(
            f"nothing in {directory} shows that it is a node's. It is taken for the one that lightningd will work in, "
            f"beside its database; if that is to be {directory / NETWORKS[0]}, make that directory, and run this again "
            "with it and another URL"
        )
    return directory


SLOW_COMMIT = 0.020
"""Seconds above which a person should know what it means for payments."""


def _tell_place(backend: Backend) -> None:
    """What was found at the destination, and what a commit costs there."""
    for line in backend.found():
        say(f"Found: {line}")
    latency = backend.commit_latency()
    say(f"A commit takes {latency * 1000:.1f} ms there.")
    if latency > SLOW_COMMIT:
        warn(
            f"a payment makes about {CALLS_PER_PAYMENT:.0f} commits, so it waits about "
            f"{latency * CALLS_PER_PAYMENT:.1f} s for this destination. Better a faster one; `backup-cli drill URL` "
            "shows more"
        )


@contextmanager
def _database(directory: Path, scratch: Path) -> Iterator[SnapshotSource]:
    """What the new backup begins with."""
    path = database_path(directory)
    if path.is_symlink() and not path.exists():
        raise BackupError(
            f"{path} is a link to {path.readlink()}, and nothing is there: is the disk that holds the database "
            "mounted? Nothing was made; mount it, then try again"
        )
    if not path.exists() or path.stat().st_size == 0:
        say(f"There is no database in {directory} yet: the backup begins empty, with the node's first start.")
        if (directory / "hsm_secret").exists():
            warn(
                "hsm_secret is there, so this node may have lived before. If a backup of it exists, do not start it "
                "empty, or it loses its channels: bring its database back first, with backup-cli restore"
            )
        yield nothing()
        return
    state = inspect(path, writable=True)
    if not state.is_lightningd:
        raise BackupError(
            f"{path} is not a database of lightningd (its tables are missing). Nothing was made; check --lightning-dir"
        )
    tell_unknown_schema(state.unknown_objects)
    with (
        progress("Copying the database") as show,
        taken(path, scratch, writable=True, progress=show, instead=ELSEWHERE) as source,
    ):
        say(f"Writing the snapshot of version {source.data_version} …")
        yield source


def plugin_path() -> str:
    """The plugin's executable, installed beside this command."""
    beside = Path(sys.argv[0]).absolute().with_name("lightningd-backup")
    found = beside if beside.exists() else shutil.which("lightningd-backup")
    return str(found or "/path/to/lightningd-backup")
