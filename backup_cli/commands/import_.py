"""`backup-cli import`: makes a backup from a backup file of the older plugin."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from backends import backup_at
from backends.base import Position, SnapshotSource
from backends.confined.work import compare_databases, rebuild_legacy_file
from backends.errors import BackupError
from backends.holder import COMMAND
from backends.legacy import LegacyBackup, legacy_path
from backends.log.backup import Backup
from backends.node.directory import database_path
from backends.node.hand_over import hand_over
from backends.node.present import inspect_database
from backends.node.running import refuse_if_running
from backends.node.writer_lock import WriterLock
from backends.sqlite.copy import file_pieces, nothing, watched
from backends.sqlite.rebuild import Rebuilt
from backends.sqlite.recovered_copy import recovered_copy
from backends.sqlite.source import inspect
from backends.system.interrupts import ignored
from backends.system.scratch import scratch_directory, scratch_place
from backup_cli import as_owner
from backup_cli.attaching import attach_emergency, would_attach
from backup_cli.consent.newest import demand_newest, discard_newer
from backup_cli.consent.schema import accept_schema, demand_known_schema
from backup_cli.console import moment, progress, say, show_line, show_whole, size, warn
from backup_cli.dry_run import dry_run_option, held, tell_steps
from backup_cli.for_programs import hand_out_result, json_option
from backup_cli.options import (
    A_PATH,
    lock_steps,
    no_limits,
    removed_on_failure,
    set_old_lock_aside,
    show_statements,
    url_argument,
)
from backup_cli.pairing_text import in_words
from backup_cli.paths import plugin_path
from backup_cli.replica import refuse_other_main

BETTER_SOURCE = (
    "If you still have the node's own database, it is the better source: stop the node and run backup-cli init URL"
)


@click.command("import", short_help="Make a new backup from a file of the older plugin.")
@click.argument("old", metavar="OLD")
@url_argument
@click.option(
    "--lightning-dir",
    type=A_PATH,
    help="Also let this node, which must be stopped, go on with the new backup, if its database has the same content.",
)
@accept_schema
@discard_newer
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, exists=True, file_okay=False, readable=False),
    help="Where to keep the database temporarily.  [default: TMPDIR, or /var/tmp]",
)
@dry_run_option
@json_option
@show_statements
@no_limits
def import_(
    old: str,
    url: str,
    lightning_dir: Path | None,
    accepted: bool,
    consent: tuple[str, ...],
    scratch: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a new backup at URL from OLD, a backup file of the `backup` plugin of lightningd/plugins.

    OLD is a path, or the file:// URL in that plugin's backup.lock. It is only read.
    """
    directory = None if lightning_dir is None else as_owner.node_directory(lightning_dir)
    backup = backup_at(url)
    if directory is None:
        as_owner.backup(url)
    as_owner.refuse_anothers(scratch)
    with LegacyBackup(legacy_path(old)) as legacy:
        if directory is None:
            backup.check_new()
            if dry_run:
                with _read(legacy, scratch, None, accepted) as source:
                    tell_steps([_would_make(url, source)], as_json)
                return
            with removed_on_failure(backup) as making:
                position, made = _take_over(legacy, backup, url, scratch, None, accepted)
                with ignored():
                    making.keep()
            if as_json:
                _hand_out(legacy, backup, url, position)
                return
            show_line(made)
            say("To restore a node from it, run: backup-cli restore --resume URL DEST")
        else:
            refuse_if_running(directory)
            with held(WriterLock(directory, f"{COMMAND} import"), dry_run):
                backup.check_new()
                database = database_path(directory)
                refuse_other_main(directory, database)
                _refuse_other_version(legacy, database)
                there = inspect_database(database)
                demand_newest(directory, there, in_words(there, database), consent)
                if dry_run:
                    with _read(legacy, scratch, database, accepted) as source:
                        steps = [_would_make(url, source), *would_attach(directory)]
                        steps += lock_steps(directory, backup.place.durable_url(url))
                        tell_steps(steps, as_json)
                    return
                with removed_on_failure(backup) as making:
                    position, made = _take_over(legacy, backup, url, scratch, database, accepted)
                    attach_emergency(directory, backup.storage)
                    backup_id, lasting = backup.id(), backup.place.durable_url(url)
                    with ignored():
                        aside = set_old_lock_aside(directory)
                        hand_over(directory, lasting, backup_id, position)
                        making.keep()
            for line in backup.place.warnings(directory):
                warn(line)
            if as_json:
                _hand_out(legacy, backup, lasting, position)
                return
            show_line(made)
            _tell_node(aside)


def _hand_out(legacy: LegacyBackup, backup: Backup, url: str, position: Position) -> None:
    document = {"url": url, "backup_id": backup.id(), "data_version": position.data_version}
    hand_out_result({**document, "older_path": str(legacy.path), "important_plugin": plugin_path()})


def _take_over(
    legacy: LegacyBackup,
    backup: Backup,
    url: str,
    scratch: Path | None,
    database: Path | None,
    accepted: bool,
) -> tuple[Position, str]:
    """Create the backup. Returns its position, and a line that says what was made."""
    with _read(legacy, scratch, database, accepted) as source:
        position = _create(backup, source)
    holds = f"the database at version {source.data_version}" if source.size else "no database yet"
    return position, f"The backup at {url} is ready and holds {holds}, imported from {legacy.path}"


@contextmanager
def _read(
    legacy: LegacyBackup, scratch: Path | None, database: Path | None, accepted: bool
) -> Iterator[SnapshotSource]:
    """The database in the legacy file, rebuilt and checked, and compared with `database` if that is given."""
    say(f"{legacy.path}: {size(legacy.stored_bytes())}, last written {moment(legacy.last_time)}. {BETTER_SOURCE}.")
    with scratch_directory(scratch or scratch_place()) as place:
        with progress("Reading the older backup") as show:
            rebuilt, remarks = rebuild_legacy_file(legacy.path, place / "legacy.sqlite3", show)
        for remark in remarks:
            warn(remark)
        if not rebuilt.state.empty and not rebuilt.state.is_lightningd:
            raise BackupError(
                f"{legacy.path} holds a database that is not lightningd's; nothing was created. Is it the right file?"
            )
        demand_known_schema(rebuilt.state.unknown_objects, accepted, str(legacy.path), "nothing was created")
        if database is not None:
            _refuse_other_content(place / "legacy.sqlite3", database, rebuilt)
        yield _source(place / "legacy.sqlite3", rebuilt)


def _would_make(url: str, source: SnapshotSource) -> str:
    holds = f"version {source.data_version}, {size(source.size)}" if source.size else "no database yet"
    return f"create a new backup at {url} from what the older file holds ({holds})"


def _create(backup: Backup, source: SnapshotSource) -> Position:
    if not source.size:
        return backup.create(source)
    with progress(f"Writing the snapshot of version {source.data_version}") as show:
        return backup.create(watched(source, show))


def _source(database: Path, rebuilt: Rebuilt) -> SnapshotSource:
    if rebuilt.state.empty:
        return nothing()
    return SnapshotSource(
        file_pieces(database),
        rebuilt.data_version,
        rebuilt.state.node_id,
        rebuilt.foreign_keys,
        size=database.stat().st_size,
    )


def _refuse_other_version(legacy: LegacyBackup, database: Path) -> None:
    """Refuse early if the versions differ: reading the whole file may take long, and the content is compared later."""
    there = database.exists() and database.stat().st_size > 0
    if not there and legacy.named_version:
        raise BackupError(
            f"there is no database at {database} that could go on with the new backup; nothing was created. Repeat "
            "this without --lightning-dir, then restore the database with: backup-cli restore --resume URL DEST"
        )
    if not there:
        return
    with recovered_copy(database) as file:
        version = inspect(file, writable=False).data_version or 0
    if version != legacy.named_version:
        raise BackupError(
            f"the node's database is at version {version}, and the older backup at {legacy.named_version}; nothing was "
            f"created. {_WHICH}"
        )


def _refuse_other_content(restored: Path, database: Path, rebuilt: Rebuilt) -> None:
    if rebuilt.state.empty and not (database.exists() and database.stat().st_size > 0):
        return
    found = compare_databases(restored, database, "the older backup", "the node's database").differences
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise BackupError(
            f"the node's database and the older backup differ: {found[0]}{more}; nothing was created. {_WHICH}"
        )


_WHICH = (
    "If the database is the one that the node last ran with, it is right: back it up with backup-cli init URL. If it "
    "is an old copy, never start it: keep it aside, and restore"
)


def _tell_node(aside: Path | None) -> None:
    if aside is not None:
        say(f"This node's earlier backup.lock is kept as {aside.name}.")
    say("The node's database has exactly the same content, and the node goes on with the new backup.")
    say("Replace the older plugin's line in lightningd's config file by this one, then start the node:", "")
    show_whole(f"important-plugin={plugin_path()}")
