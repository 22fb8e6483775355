"""`backup-cli resync`: a new snapshot of the present database into the existing backup."""

import secrets
from pathlib import Path

import click

from backends import backend_for
from backends.base import Backend, SnapshotSource
from backends.database.taking import taken
from backends.errors import BackupError, Damaged
from backends.node.directory import database_path
from backends.node.handover import bear_witness, restore_command
from backends.node.lockfile import Settings, read_settings
from backends.node.running import refuse_if_running
from backends.node.session import remember_sessions
from backends.node.writer_lock import WriterLock
from backup_cli.console import progress, say, warn
from backup_cli.older import refuse_older_lock
from backup_cli.options import lightning_dir, node_directory, warn_of_root
from backup_cli.waiting import answered


@click.command()
@lightning_dir
def resync(lightning_dir: Path) -> None:
    """Take a new snapshot of the node's present database into its backup. Stop lightningd first.

    For a backup that is damaged, was taken over by another machine, or does not agree with a database that you know to
    be the newest. The old generation is kept until the new one is whole.
    """
    directory = node_directory(lightning_dir)
    refuse_if_running(directory)
    settings = read_settings(directory)
    refuse_older_lock(directory, settings)
    database = database_path(directory)
    if not database.exists() or database.stat().st_size == 0:
        raise BackupError(
            f"there is no database at {database}, so nothing was changed; to get it back, run: "
            + restore_command(settings.url, directory)
        )
    backend = backend_for(settings.url)
    with WriterLock(directory, "backup-cli resync"):
        backup_id = _identify(backend, settings)
        session = secrets.token_hex(8)
        with (
            progress("Copying the database") as show,
            taken(database, directory, writable=True, progress=show) as source,
        ):
            _refuse_other_node(backend, source)
            last = backend.last_writer()
            remember_sessions(directory, backup_id, [session] if last is None else [last.session_id, session])
            try:
                backend.open(lambda level, line: warn(line), session)
            except Damaged as error:
                say(f"{error.what} in {error.file}: beginning anew from the database")
                backend.open_anew(session)
            before = backend.standing.data_version
            say(f"Writing the snapshot of version {source.data_version} (the backup was at {before}) …")
            backend.take_snapshot(source, "resync")
            standing = backend.standing
            backend.close()
        bear_witness(directory, backup_id, standing)
    warn_of_root(directory, settings.url)
    say(f"The backup at {settings.url} holds the database as it is now, version {standing.data_version}.")


class Nameless(BackupError):
    """The backup is so damaged that it does not say any more which one it is."""

    exit_code = 3


def _identify(backend: Backend, settings: Settings) -> str:
    """The backup's id; it must be the one that this node was tied to, or another node's backup would be lost."""
    try:
        found = answered(settings.url, backend.identify)
    except Damaged as error:
        raise Nameless(
            f"{error.what} in {error.file}: nothing in {backend.describe()} says any more which backup it is, so it "
            "cannot be gone on with. Nothing was changed; give that directory another name, keep it, and make a new "
            f"backup: backup-cli init {settings.url}"
        ) from error
    if settings.backup_id is not None and settings.backup_id != found:
        raise BackupError(
            f"backup.lock expects the backup {settings.backup_id}, and {settings.url} holds {found}: it belongs to "
            "another node, or was made anew. Nothing was changed; put the right one back, or make a new backup with: "
            "backup-cli init URL"
        )
    return found


def _refuse_other_node(backend: Backend, source: SnapshotSource) -> None:
    known = backend.node_id()
    if known is not None and source.node_id is not None and known != source.node_id:
        raise BackupError(
            f"the backup belongs to the node {known}, and the database to {source.node_id}; nothing was changed. Give "
            "this node a backup of its own: backup-cli init"
        )
