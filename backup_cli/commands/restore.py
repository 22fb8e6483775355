"""`backup-cli restore`: restores the database from a backup, after a disaster."""

import os
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import replace as replace_field
from pathlib import Path

import click

from backends.base import Position
from backends.confined.work import rebuild_backup
from backends.errors import BackupError, Unreachable, Unrestorable
from backends.holder import COMMAND
from backends.log.backup import Backup
from backends.members.urls import split_trailing
from backends.node.directory import DATABASE
from backends.node.key_file import KEY_FILE, write_key
from backends.node.lockfile import LOCK_FILE
from backends.node.pairing import BackupEnd
from backends.node.present import end_of_backup
from backends.node.running import refuse_if_running
from backends.node.writer_lock import WriterLock
from backends.sqlite.rebuild import Rebuilt
from backends.system.interrupts import ignored
from backends.system.scratch import scratch_directory, scratch_place
from backup_cli import as_owner
from backup_cli.consent.newest import discard_newer
from backup_cli.consent.restore import demand_no_newer
from backup_cli.consent.schema import accept_schema, demand_known_schema
from backup_cli.console import hand_out_path, progress, say, size, warn
from backup_cli.dry_run import dry_run_option, tell_steps
from backup_cli.for_programs import hand_out_result, json_option
from backup_cli.if_missing import (
    NothingYet,
    database_is_there,
    if_missing_option,
    named_in_lock,
    refuse_with_others,
    tell_empty,
    tell_there,
)
from backup_cli.key_options import KeyOptions, key_options
from backup_cli.legacy import rebuild_from
from backup_cli.old_age import LOOK_FOR_A_NEWER, doubt_of
from backup_cli.options import no_limits, set_old_lock_aside, show_statements, urls_argument
from backup_cli.ownership import RESUMING, Seen, look, refuse_living_writer, take_over, warn_of_writer, writing
from backup_cli.point_in_time import PointInTime, TimeParameter
from backup_cli.replica import warn_of_other_main
from backup_cli.restore_attached import PutBack, Stored, put_back, secret_is_stored, stored_in, would_put_back
from backup_cli.restore_members import without_option
from backup_cli.restore_order import Order, Wishes, order_of
from backup_cli.restore_past import Wanted
from backup_cli.restore_place import (
    Unfinished,
    existing_at,
    file_behind,
    made,
    move_aside,
    refuse_unwritable,
    target_of,
    unfinished,
)
from backup_cli.restore_text import (
    IF_THE_NODE_LIVES,
    WHY_OLD_IS_DEADLY,
    restored_document,
    tell_plan,
    tell_plan_of_kept,
    tell_rules,
    tell_summary,
)


@click.command(short_help="Restore the database from a backup.")
@urls_argument
@click.argument("dest", type=click.Path(readable=False))
@if_missing_option
@click.option("--replace", is_flag=True, help="Move an existing database (and its journal) aside first.")
@click.option(
    "--resume",
    is_flag=True,
    help="Write backup.lock (and, if it is encrypted, backup.key), so that the node goes on with this same backup.",
)
@click.option("--to-version", type=click.IntRange(min=0), help="Stop at an old version: to look at, never for a node.")
@click.option(
    "--to-time",
    type=TimeParameter(),
    help="The same, for the state at that time, such as '2026-11-26 14:30' or 2h (ago).",
)
@click.option("--kept", is_flag=True, help="Restore the generation that was last replaced (backup-cli versions).")
@click.option("--not-for-a-node", is_flag=True, help="You know that no node may ever run from an old version.")
@click.option("--check", is_flag=True, help="Check all of a large database again, also what its snapshot proves.")
@accept_schema
@discard_newer
@without_option
@key_options
@take_over
@dry_run_option
@json_option
@show_statements
@no_limits
def restore(
    urls: tuple[str, ...],
    dest: str,
    if_missing: bool,
    replace: bool,
    resume: bool,
    to_version: int | None,
    to_time: PointInTime | None,
    kept: bool,
    not_for_a_node: bool,
    check: bool,
    accepted: bool,
    consent: tuple[str, ...],
    without: tuple[str, ...],
    key: KeyOptions,
    take_over: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Restore the database from the backup at URL to DEST, a file or a directory.

    URL may also name a directory that holds exactly one backup, or a file of the older `backup` plugin. Of a backup
    with several members, one URL is enough: the others are looked for where they were, and the newest state counts.
    Nothing is overwritten, and nothing newer is replaced.

    An encrypted backup is opened with the hsm_secret or the backup.key that is in DEST or in ~/.lightning, with what
    the options name, or with a passphrase, which is asked for at a terminal.
    """
    wanted = Wanted(to_version, to_time, kept, resume, not_for_a_node)
    wanted.demand_consent()
    refuse_with_others(if_missing, replace=replace, wanted=wanted)
    place = as_owner.restore_place(Path(dest))
    target = target_of(place, as_directory=dest.endswith(os.sep))
    if if_missing and database_is_there(target, file_behind(target)):  # before a destination can make anybody wait
        tell_there(target, resume, dry_run, as_json)
        return
    wishes = Wishes(if_missing, replace, wanted, accepted, consent, take_over, dry_run, check)
    order = order_of(tuple(split_trailing(url)[0] for url in urls), target, without, key, wishes)
    target = order.target
    if dry_run:
        _tell_dry_run(order, as_json)
        return
    with made(target.parent), _locked(target), unfinished(order.file) as temporary:
        if _appeared(order):
            tell_there(target, resume, dry_run, as_json)
            return
        try:
            order, rebuilt, aside, files = _restore(order, temporary)
        except NothingYet:
            if not if_missing:
                raise
            tell_empty(target, order.url, _begin_empty(order), as_json)
            return
    tell_summary(target, rebuilt, aside, order.legacy is not None)
    if not as_json:
        hand_out_path(target)
    _tell_after(order, rebuilt, files)
    if as_json:
        document = restored_document(order.url, target, rebuilt, aside, files, resume=resume, old=order.old)
        hand_out_result(document if order.members is None else {**document, **order.members.as_json(order.url)})


def _tell_after(order: Order, rebuilt: Rebuilt, files: list[PutBack]) -> None:
    """Say what to know before a node is started from the restored database."""
    url, backup, target, resume = order.url, order.backup, order.target, order.resume
    if order.members is not None and resume:
        url = order.members.resumed_with(url)
    if order.old:
        warn(f"{target.name} is an old state. {WHY_OLD_IS_DEADLY}")
        return
    if target.name == DATABASE:
        warn_of_other_main(target.parent, target)
    tell_rules(
        url,
        target,
        _node_of(rebuilt, backup),
        files,
        resume,
        order.legacy is not None,
        secret_is_stored=backup is not None and secret_is_stored(order.url, backup),
    )
    if resume and backup is not None:
        _warn_if_closed(backup)


def _appeared(order: Order) -> bool:
    """Whether the node has got its database since this began, now that nobody else can restore to its directory.

    Without --if-missing, that is an error: two restores at once, or a node that was started meanwhile.
    """
    if order.wishes.if_missing:
        return database_is_there(order.target, order.file)
    if existing_at(order.file) != order.existing:
        raise BackupError(
            f"another process has changed what is at {order.file} since this began, such as another restore; nothing "
            "was touched. Look at what is there now, then repeat this if it is still needed"
        )
    return False


def _restore(order: Order, temporary: Unfinished) -> tuple[Order, Rebuilt, list[Path], list[PutBack]]:
    """Do the restore. Returns the order with the member that was restored from, what was rebuilt, the new paths of the
    files that were moved aside, and what became of the files beside the database."""
    target = order.target
    with ExitStack() as held:
        order, rebuilt, position = _rebuilt_from_any(order, temporary.path, held)
        stored = _stored_beside(order)
        with ignored():  # an interrupt between these steps would leave only some files with their new names
            # First: once the database is there, a restore that was cut off cannot simply be repeated.
            files = put_back(target.parent, stored)
            if order.resume and order.key is not None:
                write_key(target.parent, order.key)
            # No node starts on a backup without its database, but on the other hand nobody could tell that a database
            # without backup.lock was restored, and from which backup.
            first = order.resume and not (target.parent / LOCK_FILE).exists()
            if first:
                _resume(order, None)
            aside = move_aside(order.file, order.existing)
            temporary.publish(order.file)
            if order.resume:
                if not first:
                    set_old_lock_aside(target.parent)
                _resume(order, position)
    return order, rebuilt, aside, files


def _resume(order: Order, position: Position | None) -> None:
    """Have the node go on with the backup. `position` is where its database stands, None as long as there is none."""
    if order.source is not None:
        order.source.hand_over(order.target.parent, position)


def _begin_empty(order: Order) -> bool:
    """Have the node begin with a backup that holds nothing yet, as after `init`; returns whether backup.lock, which
    names that backup, was written."""
    directory = order.target.parent
    if not order.resume or order.backup is None or named_in_lock(directory) == order.backup.id():
        return False
    with ignored():
        if order.key is not None:
            write_key(directory, order.key)
        set_old_lock_aside(directory)
        _resume(order, None)
    return True


def _tell_dry_run(order: Order, as_json: bool) -> None:
    try:
        steps = _steps(order)
    except NothingYet as error:
        if not order.wishes.if_missing:
            raise
        say(str(error))
        steps = [] if not order.resume else _lock_steps(order)
    tell_steps(steps, as_json)


def _stored_beside(order: Order) -> list[Stored]:
    """What the backup holds of the files that a node needs beside its database; nothing if this is not for a node."""
    if order.target.name != DATABASE:
        return []
    return stored_in([] if order.source is None else order.source.places())


def _rebuilt_from_any(order: Order, temporary: Path, held: ExitStack) -> tuple[Order, Rebuilt, Position | None]:
    """`_rebuilt`, from another member if one of a backup with several is damaged or goes away meanwhile.

    Also returns the order with the member that was restored from. `held` releases the lock of each that was tried, if
    the restore took it.
    """
    while True:
        if order.backup is not None:
            held.callback(order.backup.let_go)
        try:
            return order, *_rebuilt(order, temporary)
        except (Unrestorable, Unreachable) as error:
            if order.members is None:
                raise
            source = order.members.after(order.url, error, order.resume)
        temporary.unlink(missing_ok=True)
        order = replace_field(order, url=source.url, backup=source.backup)


def _steps(order: Order) -> list[str]:
    """The steps that a restore would take, for a dry run; the database is really rebuilt, in a scratch directory."""
    file, directory = order.file, order.target.parent
    refuse_unwritable(file.parent)
    if order.target.name == DATABASE and directory.exists():
        WriterLock(directory, f"{COMMAND} restore").look()
    with scratch_directory(scratch_place()) as scratch, ExitStack() as held:
        order, rebuilt, _ = _rebuilt_from_any(order, scratch / "tried.sqlite3", held)
        holds = f"version {rebuilt.data_version}, {size((scratch / 'tried.sqlite3').stat().st_size)}"
        stored = _stored_beside(order)
    steps = [] if directory.exists() else [f"create the directory {directory}"]
    steps += [f"move {path} aside, to {file.name}.before-restore-TIME next to it" for path in order.existing]
    steps += would_put_back(directory, stored)
    steps.append(f"write the database ({holds}) to {file}")
    return steps if not order.resume else steps + _lock_steps(order)


def _lock_steps(order: Order) -> list[str]:
    """The steps that let the node go on with the backup."""
    directory, steps = order.target.parent, []
    if order.key is not None:
        steps.append(f"write {directory / KEY_FILE}, with the key of the backup (mode 0400)")
    return steps if order.source is None else steps + order.source.lock_steps(directory)


def _rebuilt(order: Order, temporary: Path) -> tuple[Rebuilt, Position | None]:
    """Rebuild the database in the file `temporary`, and check that nothing newer would be replaced.

    Returns what was rebuilt, and its position in the log (None for a legacy file or a kept generation).
    """
    target, backup = order.target, order.backup
    position: Position | None = None
    if backup is None:
        assert order.legacy is not None
        rebuilt = rebuild_from(order.legacy, temporary, target, order.past.to_version)
        end = BackupEnd("", rebuilt.state.node_id, rebuilt.data_version, False, False, 0, None)
    else:
        rebuilt, position, end = _from_backup(order, backup, temporary)
    demand_known_schema(
        rebuilt.state.unknown_objects, order.wishes.accepted, order.url, "nothing was restored or replaced"
    )
    refuse_if_running(target.parent)  # a large restore takes minutes
    if not order.old:
        demand_no_newer(target, order.url, end, backup is None, order.wishes.consent)
    return rebuilt, position


def _from_backup(order: Order, backup: Backup, temporary: Path) -> tuple[Rebuilt, Position | None, BackupEnd]:
    """Rebuild from a backup of this plugin. Returns what was rebuilt, its position in the log (None for a kept
    generation), and the backup's end with the version that was restored."""
    seen, before = backup.status(order.url), look(backup)
    end, note = end_of_backup(backup, order.url, seen), order.past.held
    if note is not None:
        end = replace_field(end, version=note.data_version, damaged=False, last_change=note.since, end=None)
    if not order.old and not end.damaged and not order.wishes.consent:  # early; otherwise only after the rebuild
        demand_no_newer(order.target, order.url, end, False, ())
    if order.resume:
        _refuse_living(order, backup, before)
    if note is None:
        tell_plan(seen, order.target, order.past.to_version)
        if seen.known_damage is not None:
            warn(f"{seen.known_damage.sentence()}. {IF_THE_NODE_LIVES}")
        old = None if order.old else doubt_of(backup, seen.last_change, before_restore=True)
        if old is not None:
            warn(f"{old}. {LOOK_FOR_A_NEWER}")
    else:
        tell_plan_of_kept(order.url, note, order.target, order.past.to_version)
    rebuilt = _rebuild(order, temporary)
    if order.resume:
        _refuse_living(order, backup, before, warned=True)
    elif not order.old:
        warn_of_writer(writing(before, look(backup)))
    end = replace_field(end, version=rebuilt.data_version, damaged=False, node_id=rebuilt.state.node_id or end.node_id)
    return rebuilt, None if note is not None else rebuilt.end, end


def _node_of(rebuilt: Rebuilt, backup: Backup | None) -> str | None:
    """The restored node's id; None when neither its database nor its backup says it."""
    if rebuilt.state.node_id is None and backup is not None:
        with suppress(BackupError):  # the backup has just gone
            return backup.node_id()
    return rebuilt.state.node_id


def _warn_if_closed(backup: Backup) -> None:
    with suppress(BackupError):  # the backup has just gone: everything is restored, and check-config will report it
        closed = backup.place.why_unwritable()
        if closed is not None:
            warn(f"the restored node cannot go on with this backup, and would stop at its first commit: {closed}")


def _locked(target: Path) -> AbstractContextManager[object]:
    """The writer lock of a node's directory, against its plugin; for any other DEST there is nobody to keep out."""
    return WriterLock(target.parent, f"{COMMAND} restore") if target.name == DATABASE else nullcontext()


def _refuse_living(order: Order, backup: Backup, before: Seen, *, warned: bool = False) -> None:
    wishes = order.wishes
    taking = replace_field(RESUMING, warned=warned, watched=not wishes.if_missing)
    refuse_living_writer(order.url, backup, before, wishes.take_over, taking, dry_run=wishes.dry_run)


def _rebuild(order: Order, temporary: Path) -> Rebuilt:
    with progress("Restoring", "Checking the restored database") as show:
        held = None if order.past.held is None else order.past.held.manifest.generation
        outcome = rebuild_backup(
            order.url, temporary, show, kept=held, to_version=order.past.to_version, check_all=order.wishes.check
        )
    rebuilt, wanted = outcome.rebuilt, order.past.to_version
    if wanted is not None and rebuilt.data_version != wanted:
        raise BackupError(f"the backup ends at version {rebuilt.data_version}, before {wanted}; nothing was restored")
    if rebuilt.state.empty:
        raise NothingYet("the backup holds no database yet: the node has never started with it. Nothing was restored")
    return rebuilt
