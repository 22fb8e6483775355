"""`backup-cli restore`: restores the database from a backup, after a disaster."""

import os
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path

import click

from backends.base import Position
from backends.errors import BackupError
from backends.holder import COMMAND
from backends.log.backup import Backup
from backends.members.urls import split_trailing
from backends.node.directory import DATABASE
from backends.node.key_file import KEY_FILE, write_key
from backends.node.lockfile import LOCK_FILE
from backends.node.writer_lock import WriterLock
from backends.sqlite.rebuild import Rebuilt
from backends.system.interrupts import ignored
from backends.system.scratch import scratch_directory, scratch_place
from backup_cli import as_owner
from backup_cli.consent.newest import discard_newer
from backup_cli.consent.schema import accept_schema
from backup_cli.console import hand_out_path, say, size, warn
from backup_cli.dry_run import dry_run_option, tell_steps
from backup_cli.for_programs import hand_out_result, json_option
from backup_cli.if_missing import (
    database_is_there,
    if_missing_option,
    named_in_lock,
    refuse_with_others,
    tell_empty,
    tell_there,
)
from backup_cli.key_options import KeyOptions, key_options
from backup_cli.nothing_yet import NothingYet
from backup_cli.options import no_limits, set_old_lock_aside, show_statements, urls_argument
from backup_cli.ownership import take_over
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
from backup_cli.restore_rebuilt import rebuilt_from_any
from backup_cli.restore_text import (
    WHY_OLD_IS_DEADLY,
    restored_document,
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
        restored=backup,
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
        order, rebuilt, position = rebuilt_from_any(order, temporary.path, held)
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


def _steps(order: Order) -> list[str]:
    """The steps that a restore would take, for a dry run; the database is really rebuilt, in a scratch directory."""
    file, directory = order.file, order.target.parent
    refuse_unwritable(file.parent)
    if order.target.name == DATABASE and directory.exists():
        WriterLock(directory, f"{COMMAND} restore").look()
    with scratch_directory(scratch_place()) as scratch, ExitStack() as held:
        order, rebuilt, _ = rebuilt_from_any(order, scratch / "tried.sqlite3", held)
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
