"""`backup-cli resync`: takes a new snapshot of the node's current database into its existing backup."""

import secrets
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path

import click

from backends.change import ahead
from backends.errors import BackupError, Damaged
from backends.holder import COMMAND
from backends.keyring import init_command
from backends.log.backup import Backup
from backends.log.reader.kept import KEEP_FOR
from backends.log.writer.writer import Writer
from backends.members.start import Rule, StartRefused
from backends.node.bring_back import bring_back
from backends.node.directory import database_path
from backends.node.hand_over import record_sync_point, restore_command
from backends.node.lockfile import Settings, read_settings
from backends.node.memory import record_beginning
from backends.node.memory_text import BOTH_OLDER, what_is_wrong
from backends.node.pairing import Found, Identity, NodeDatabase, Pairing, Relation
from backends.node.present import end_of_backup, inspect_database, pair_at
from backends.node.running import refuse_if_running
from backends.node.session import remember_sessions
from backends.node.writer_lock import WriterLock
from backends.sqlite.copy import watched
from backends.sqlite.source import inspect
from backends.system.interrupts import ignored
from backends.text import counted, shell_line
from backup_cli import as_owner
from backup_cli.attaching import attach_emergency, would_attach
from backup_cli.change_over import (
    ChangeOver,
    check_changed_over,
    demand_plain,
    finish_change_over,
    load_key_to_resync,
    would_change_over,
)
from backup_cli.consent.newest import State, demand_consent, discard_newer
from backup_cli.consent.schema import tell_unknown_schema
from backup_cli.console import progress, say, size, warn
from backup_cli.copying import snapshot_source
from backup_cli.dry_run import dry_run_option, held, tell_steps
from backup_cli.encrypting import Encrypt, encrypt_option
from backup_cli.for_programs import hand_out_result, json_option
from backup_cli.legacy import refuse_legacy_lock
from backup_cli.options import copy_place, lightning_dir
from backup_cli.ownership import alone, take_over
from backup_cli.pairing_text import TWO_NODES, both, in_words, why_copied
from backup_cli.replica import refuse_other_main
from backup_cli.waiting import answered
from plugin.destination import Destination, destination_of
from plugin.node_key import check_key


@click.command(short_help="Take a new snapshot of the node's database into its backup.")
@lightning_dir
@copy_place
@discard_newer
@take_over
@encrypt_option
@dry_run_option
@json_option
def resync(
    lightning_dir: Path,
    scratch: Path | None,
    consent: tuple[str, ...],
    take_over: bool,
    encrypt: Encrypt | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take a new snapshot of the node's current database into its backup. Stop lightningd first.

    For a backup that is damaged, was taken over by another machine, or does not agree with a database that you know to
    be the newest. Refused if the backup holds a newer state. What it replaces is kept (backup-cli versions).

    With --encrypt, a backup that everybody can read becomes an encrypted one, and nothing that it held before is kept.
    """
    directory = as_owner.node_directory(lightning_dir)
    as_owner.refuse_anothers(scratch)
    refuse_if_running(directory)
    settings = read_settings(directory)
    refuse_legacy_lock(directory, settings)
    found = load_key_to_resync(directory, encrypt)
    destination = destination_of(directory, settings)
    backup = destination.backup
    with held(WriterLock(directory, f"{COMMAND} resync"), dry_run):
        refuse_other_main(directory, database_path(directory))
        database = _database(directory, settings, backup)
        backup_id = _identify(backup, settings)
        manifest = answered(settings.url, lambda: backup.look().manifest)
        if encrypt is None:
            check_key(directory, settings, manifest)
        else:
            demand_plain(directory, settings, manifest, found)
        with alone(settings.url, backup, "resync", take_over, dry_run):
            pairing = pair_at(directory, settings, end_of_backup(backup, settings.url), database)
            _refuse_to_lose(pairing, settings, directory, consent)
            if dry_run:
                tell_steps(_steps(directory, settings, pairing, encrypt), as_json)
                return
            change = None
            if encrypt is not None:
                change = ChangeOver.planned(directory, backup, found, encrypt, database.node_id)
            if pairing.identity is Identity.TAKEN_OVER:
                destination.adopt()
            try:
                destination.check_start(proven=False, changed_ago=None)
            except StartRefused as refused:
                if refused.rule is not Rule.TAKEN_OVER:
                    raise
                destination.adopt()  # what this node did itself, before its directory was set back
                destination.check_start(proven=False, changed_ago=None)
            _resync(directory, destination, backup_id, pairing, scratch or directory, change)
    left_out = _not_in_sync(destination, settings)
    if change is not None:
        check_changed_over(settings, left_out)
    key_id = manifest.key if change is None else change.key.id
    if as_json:
        version = pairing.database.version or 0
        document = {"url": settings.url, "backup_id": backup_id, "data_version": version}
        hand_out_result({**document, "encrypted": key_id is not None, "key_id": key_id})
    where = " and ".join(settings.urls)
    say(f"The backup at {where} holds the database as it is now, version {pairing.database.version or 0}.")
    if change is not None:
        change.tell(left_out)


def _not_in_sync(destination: Destination, settings: Settings) -> list[str]:
    """The members that the new snapshot did not reach."""
    if destination.members is None:
        return []
    reached = destination.members.mirror.in_sync
    return [member.name for member in settings.members if member.name not in reached]


def _database(directory: Path, settings: Settings, backup: Backup) -> NodeDatabase:
    path = database_path(directory)
    database = inspect_database(path)
    if database.found is Found.NOTHING:
        known, there = None, path.exists()
        with suppress(BackupError, OSError):
            known = backup.damage.read()
        back = f"to restore it, run: {restore_command(settings.urls, directory, replace=there)}"
        if known is not None:
            back = f"{known.sentence()}. {bring_back(known, settings.urls, directory, replace=there)}"
        raise BackupError(f"there is no database at {path}, so nothing was changed; {back}")
    if database.found is Found.CORRUPT:
        raise BackupError(
            f"{path} is corrupt, so no backup can be made of it; nothing was changed. Do not start the node, and "
            "keep that file and its disk; to see what is safe to do, run: backup-cli check-config"
        )
    if database.found is Found.UNREADABLE:
        raise BackupError(f"{database.why}. The backup was not changed")
    return database


def _refuse_to_lose(pairing: Pairing, settings: Settings, directory: Path, consent: tuple[str, ...]) -> None:
    """Refuse to replace what the backup holds, unless the database is surely as new or the user consents."""
    if pairing.identity is Identity.OTHER_NODE:
        raise BackupError(
            f"the backup belongs to the node {pairing.backup.node_id}, and the database to "
            f"{pairing.database.node_id}; nothing was changed. Give this node a backup of its own: "
            f"{init_command()}, with a new URL"
        )
    if pairing.database_surely_newest:
        return
    if pairing.both_older:
        wrong = what_is_wrong(pairing.memory, settings.url, pairing.backup.version)
        lost = State("the newest state that this node had acknowledged", pairing.memory.version)
        why = f"{wrong}; and {in_words(pairing.database, database_path(directory))}"
        demand_consent(why, lost, BOTH_OLDER, consent)
        return
    why = both(pairing, settings.url, database_path(directory))
    lost = State("the state in the backup", pairing.backup.version)
    if pairing.identity is Identity.TAKEN_OVER:
        writer = pairing.backup.writer
        why += f", which another node ({writer.host if writer else 'unknown'}) has written to since this one last did"
        advice = (
            f"If that one is in use, never start this one again: {TWO_NODES}. Of two nodes' states, the one with the "
            "higher version need not be the newer one"
        )
    elif pairing.copied and pairing.relation is not Relation.BEHIND:
        why += f"; {why_copied(pairing)}"
        advice = f"If that one is in use, never start this one: {TWO_NODES}"
    elif pairing.relation is Relation.NO_VERSION:
        lost = State(lost.what, None)
        why += ", so nobody can tell which of the two is newer"
        advice = "Find out which of them the node last ran with"
    else:
        why += ", which is newer: the database has lost changes, or is an old copy"
        back, known = restore_command(settings.urls, directory, replace=True), pairing.backup.known
        advice = f"Restore the newest state, which keeps this database aside: {back}"
        if known is not None:
            advice = bring_back(known, settings.urls, directory, replace=True)
        elif pairing.backup.damaged:
            advice = (
                "The backup is damaged, so no command can restore that state; docs/recovery.md says what can be tried"
            )
    demand_consent(why, lost, advice, consent)


def _resync(
    directory: Path,
    destination: Destination,
    backup_id: str,
    pairing: Pairing,
    scratch: Path,
    change: ChangeOver | None,
) -> None:
    session, last = secrets.token_hex(8), pairing.backup.writer
    tell_unknown_schema(inspect(database_path(directory), writable=True).unknown_objects)
    with (
        snapshot_source(database_path(directory), scratch, check_first=True) as source,
        ExitStack() as opened,
    ):
        if change is not None:
            opened.enter_context(change.begun())
        remember_sessions(directory, backup_id, [session] if last is None else [last.session_id, session])
        writer = opened.enter_context(closing(_open(destination, session)))
        before = writer.position.data_version
        if not pairing.backup.damaged and ahead(before, pairing.backup.version) > 0:
            raise BackupError(
                f"the backup has meanwhile grown to version {before}, so a node is writing to it; nothing in it was "
                "lost. Stop that node, then repeat this"
            )
        if change is not None:
            change.publish_slots(writer.storage)
        with progress(f"Writing the snapshot of version {source.data_version} (the backup was at {before})") as show:
            note = partial(record_beginning, directory, backup_id, writer.position)
            encrypt = None if change is None else change.key
            writer.take_snapshot(watched(source, show), "resync", note, encrypt=encrypt)
        attach_emergency(directory, writer.storage)
        if change is not None:
            change.seal_attachments(writer.storage)
        with ignored():
            position = writer.position
            writer.close()
    with ignored():
        record_sync_point(directory, backup_id, position)
        if writer.manifest.key is not None:
            finish_change_over(directory, writer.manifest.key)


def _steps(directory: Path, settings: Settings, pairing: Pairing, encrypt: Encrypt | None) -> list[str]:
    database = database_path(directory)
    tell_unknown_schema(inspect(database, writable=False).unknown_objects)
    steps = [
        f"write a new snapshot of {database} (version {pairing.database.version or 0}, "
        f"{size(database.stat().st_size)}) into the backup at {settings.url}"
    ]
    if encrypt is not None:
        steps += would_change_over(directory, encrypt, pairing.database.node_id)
    else:
        version = "" if pairing.backup.damaged else f" (version {pairing.backup.version})"
        steps.append(f"keep what it holds now{version} next to it for {counted(KEEP_FOR // 86400, 'day')}")
    return [*steps, *would_attach(directory)]


def _open(destination: Destination, session: str) -> Writer:
    try:
        return destination.open(lambda level, line: warn(line), session, None, catch_up=False)
    except Damaged as error:
        say(f"{error.what} in {error.file}: starting over from the database")
        return destination.open_anew(lambda level, line: warn(line), session)


class Nameless(BackupError):
    """The backup is so damaged that nothing in it says which backup it is."""

    exit_code = 3


def _identify(backup: Backup, settings: Settings) -> str:
    """The backup's id. Raises BackupError unless it is the one in backup.lock: another node's backup would be lost."""
    try:
        found = answered(settings.url, backup.id)
    except Damaged as error:
        raise Nameless(
            f"{error.what} in {error.file}: nothing in {backup.describe()} says which backup it is, so the node cannot "
            "go on with it. Nothing was changed; rename that directory, keep it, and create a new backup (which is "
            "refused if the database has lost changes): "
            f"{init_command()} {shell_line(settings.url)}"
        ) from error
    if settings.backup_id is not None and settings.backup_id != found:
        raise BackupError(
            f"backup.lock expects the backup {settings.backup_id}, and {settings.url} holds {found}: that one belongs "
            "to another node, or was recreated. Nothing was changed; put the right one back. If that is lost for good, "
            f"create a new backup at another URL: {init_command()} URL"
        )
    return found
