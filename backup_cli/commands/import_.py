"""`backup-cli import`: makes a backup from a backup file of the older plugin."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from backends import backup_at
from backends.base import Position, SnapshotSource
from backends.confined.work import compare_databases, rebuild_legacy_file
from backends.errors import BackupError
from backends.holder import COMMAND
from backends.legacy import LegacyBackup, legacy_path
from backends.log.backup import Backup, StoreSlots
from backends.members.strangers import ENCRYPT_AT_ONCE, encrypt_later
from backends.node.directory import database_path
from backends.node.hand_over import hand_over
from backends.node.pairing import NodeDatabase
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
from backup_cli.encrypting import Encrypt, encrypt_option, new_slots, would_open
from backup_cli.for_programs import hand_out_result, json_option
from backup_cli.given_secret import refuse_anothers_secret
from backup_cli.new_key import PLAIN, NewKey, check_new_ciphertext, key_handed_over
from backup_cli.new_members import warn_of_strangers
from backup_cli.node_environment import destination_warnings
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
@encrypt_option
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
    encrypt: Encrypt | None,
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
        task = _Import(legacy, backup, url, scratch, accepted, encrypt)
        if directory is None:
            _import_alone(task, dry_run, as_json)
        else:
            refuse_if_running(directory)
            _import_for_node(task, directory, consent, dry_run, as_json)


def _warn_of_strangers(task: "_Import", remedy: str) -> None:
    warn_of_strangers([task.url], remedy, encrypted=task.encrypt is not None)


@dataclass(frozen=True, slots=True)
class _Import:
    """What is to be made of what."""

    legacy: LegacyBackup
    backup: Backup
    url: str
    scratch: Path | None
    accepted: bool
    encrypt: Encrypt | None


def _import_alone(task: _Import, dry_run: bool, as_json: bool) -> None:
    """Make the backup for no node in particular, so nothing but its key slots opens it if it is encrypted."""
    task.backup.check_new()
    if dry_run:
        _warn_of_strangers(task, ENCRYPT_AT_ONCE)
        with _read(task, None) as source:
            encrypting = [] if task.encrypt is None else would_open(None, task.encrypt, source.node_id)
            tell_steps([_would_make(task.url, source), *encrypting], as_json)
        return
    key = None if task.encrypt is None else NewKey(new_slots(None, task.encrypt))
    with removed_on_failure(task.backup) as making:
        position, made = _take_over(task, None, key)
        check_new_ciphertext([task.backup], key)
        with ignored():
            making.keep()
    _warn_of_strangers(task, "To have it encrypted, delete it, and repeat this with --encrypt")
    if key is not None:
        key.tell(None)
    if as_json:
        _hand_out(task, task.url, position, key)
        return
    show_line(made)
    say("To restore a node from it, run: backup-cli restore --resume URL DEST")


def _import_for_node(task: _Import, directory: Path, consent: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Make the backup for the node in `directory`, which goes on with it."""
    backup, url = task.backup, task.url
    with held(WriterLock(directory, f"{COMMAND} import"), dry_run):
        backup.check_new()
        database = database_path(directory)
        refuse_other_main(directory, database)
        _refuse_other_version(task.legacy, database)
        there = inspect_database(database)
        demand_newest(directory, there, in_words(there, database), consent)
        if dry_run:
            _warn_of_strangers(task, ENCRYPT_AT_ONCE)
            tell_steps(_would_make_for(task, directory, there), as_json)
            return
        key = None if task.encrypt is None else NewKey(new_slots(directory, task.encrypt, there.node_id, may_wait=True))
        with removed_on_failure(backup) as making:
            position, made = _take_over(task, database, key)
            attach_emergency(directory, backup.storage)
            check_new_ciphertext([backup], key)
            backup_id, lasting = backup.id(), backup.place.durable_url(url)
            with ignored():
                aside = set_old_lock_aside(directory)
                with key_handed_over(directory, backup_id, key):
                    hand_over(directory, lasting, backup_id, position)
                    making.keep()
    for line in destination_warnings(url, backup.place, directory):
        warn(line)
    _warn_of_strangers(task, encrypt_later(directory))
    if key is not None:
        key.tell(directory)
    if as_json:
        _hand_out(task, lasting, position, key)
        return
    show_line(made)
    _tell_node(aside)


def _would_make_for(task: _Import, directory: Path, there: NodeDatabase) -> list[str]:
    """The steps that a dry run lists. Raises BackupError."""
    with _read(task, database_path(directory)) as source:
        steps = [_would_make(task.url, source)]
    if task.encrypt is not None:
        steps += would_open(directory, task.encrypt, there.node_id, may_wait=True)
    steps += would_attach(directory)
    return steps + lock_steps(directory, task.backup.place.durable_url(task.url))


def _hand_out(task: _Import, url: str, position: Position, key: NewKey | None) -> None:
    document = {"url": url, "backup_id": task.backup.id(), "data_version": position.data_version}
    document |= {"older_path": str(task.legacy.path), "important_plugin": plugin_path()}
    hand_out_result({**document, **(PLAIN if key is None else key.as_json())})


def _take_over(task: _Import, database: Path | None, key: NewKey | None) -> tuple[Position, str]:
    """Create the backup. Returns its position, and a line that says what was made."""
    with _read(task, database) as source:
        if task.encrypt is not None and database is None:  # else it was compared with the node's database
            refuse_anothers_secret(task.encrypt.key.hsm_secret, source.node_id)
        position = _create(task.backup, source, None if key is None else key.stored_in(task.backup.storage))
    holds = f"the database at version {source.data_version}" if source.size else "no database yet"
    return position, f"The backup at {task.url} is ready and holds {holds}, imported from {task.legacy.path}"


@contextmanager
def _read(task: _Import, database: Path | None) -> Iterator[SnapshotSource]:
    """The database in the legacy file, rebuilt and checked, and compared with `database` if that is given."""
    legacy = task.legacy
    say(f"{legacy.path}: {size(legacy.stored_bytes())}, last written {moment(legacy.last_time)}. {BETTER_SOURCE}.")
    with scratch_directory(task.scratch or scratch_place()) as place:
        with progress("Reading the older backup") as show:
            rebuilt, remarks = rebuild_legacy_file(legacy.path, place / "legacy.sqlite3", show)
        for remark in remarks:
            warn(remark)
        if not rebuilt.state.empty and not rebuilt.state.is_lightningd:
            raise BackupError(
                f"{legacy.path} holds a database that is not lightningd's; nothing was created. Is it the right file?"
            )
        demand_known_schema(rebuilt.state.unknown_objects, task.accepted, str(legacy.path), "nothing was created")
        if database is not None:
            _refuse_other_content(place / "legacy.sqlite3", database, rebuilt)
        yield _source(place / "legacy.sqlite3", rebuilt)


def _would_make(url: str, source: SnapshotSource) -> str:
    holds = f"version {source.data_version}, {size(source.size)}" if source.size else "no database yet"
    return f"create a new backup at {url} from what the older file holds ({holds})"


def _create(backup: Backup, source: SnapshotSource, encrypt: StoreSlots | None) -> Position:
    if not source.size:
        return backup.create(source, encrypt)
    with progress(f"Writing the snapshot of version {source.data_version}") as show:
        return backup.create(watched(source, show), encrypt)


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
