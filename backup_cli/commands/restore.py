"""`backup-cli restore`: restores the database from a backup, after a disaster."""

import os
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from dataclasses import replace as replace_field
from pathlib import Path
from typing import NoReturn

import click

from backends.base import Position
from backends.confined.work import rebuild_backup
from backends.errors import BackupError, Unreachable, Unrestorable
from backends.holder import COMMAND
from backends.keyring import DataKey
from backends.legacy import legacy_backup_at
from backends.log.backup import Backup
from backends.members.urls import split_trailing
from backends.node.directory import DATABASE, NETWORKS, looks_like_a_nodes
from backends.node.hand_over import hand_over
from backends.node.key_file import KEY_FILE, write_key
from backends.node.pairing import BackupEnd, pair
from backends.node.present import end_of_backup, inspect_database
from backends.node.running import refuse_if_running
from backends.node.writer_lock import WriterLock
from backends.sqlite.rebuild import Rebuilt
from backends.system.interrupts import ignored
from backends.system.scratch import scratch_directory, scratch_place
from backup_cli import as_owner
from backup_cli.consent.newest import discard_newer
from backup_cli.consent.restore import demand_no_newer, which_is_newer
from backup_cli.consent.schema import accept_schema, demand_known_schema
from backup_cli.console import hand_out_path, progress, size, warn
from backup_cli.dry_run import dry_run_option, tell_steps
from backup_cli.finding_keys import find_key
from backup_cli.for_programs import hand_out_result, json_option
from backup_cli.key_options import KeyOptions, key_options
from backup_cli.legacy import CANNOT_RESUME, rebuild_from
from backup_cli.old_age import LOOK_FOR_A_NEWER, doubt_of
from backup_cli.options import lock_steps, no_limits, set_old_lock_aside, show_statements, urls_argument
from backup_cli.ownership import look, refuse_living_writer, take_over, warn_of_writer, writing
from backup_cli.point_in_time import PointInTime, TimeParameter
from backup_cli.replica import warn_of_other_main
from backup_cli.restore_attached import PutBack, Stored, put_back, secret_is_stored, stored_in, would_put_back
from backup_cli.restore_members import ReadMembers, Source, source_at, without_option
from backup_cli.restore_past import Past, Wanted, find_past, version_suffix
from backup_cli.restore_place import (
    Unfinished,
    existing_at,
    file_behind,
    made,
    move_aside,
    refuse_inside,
    refuse_unwritable,
    target_of,
    unfinished,
)
from backup_cli.restore_text import (
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
    place = as_owner.restore_place(Path(dest))
    urls = tuple(split_trailing(url)[0] for url in urls)
    legacy = _legacy_file(urls, wanted, key)
    target = target_of(place, as_directory=dest.endswith(os.sep))
    opened_with = None if legacy is not None else find_key(urls, key, [target.parent])
    source = None if legacy is not None else source_at(urls, without, resume)
    source, past = _past(source, wanted)
    url, backup, members = (urls[0], None, None) if source is None else (source.url, source.backup, source.members)
    target = target.with_name(f"{target.name}{past.suffix}")
    refuse_inside(target.parent)
    refuse_if_running(target.parent)
    file = file_behind(target)
    as_owner.refuse_anothers(file.parent)
    existing = existing_at(file)
    if existing and not replace:
        _refuse_to_overwrite(existing, file, url, backup)
    if resume and target.name != DATABASE:
        raise BackupError(f"--resume needs DEST to be a node's directory, so that the file is called {DATABASE}")
    if resume and not looks_like_a_nodes(target.parent):
        warn(
            f"nothing in {target.parent} shows that it is a node's. lightningd must work in exactly this directory; if "
            f"it will work in {target.parent / NETWORKS[0]}, restore to that one"
        )
    order = _Order(
        url,
        backup,
        members,
        legacy,
        target,
        file,
        existing,
        past,
        resume,
        accepted,
        consent,
        take_over,
        dry_run,
        opened_with,
        check,
    )
    if dry_run:
        tell_steps(_steps(order), as_json)
        return
    with made(target.parent), _locked(target), unfinished(file) as temporary:
        order, rebuilt, aside, files = _restore(order, temporary)
    tell_summary(target, rebuilt, aside, legacy is not None)
    if not as_json:
        hand_out_path(target)
    _tell_after(order, rebuilt, files)
    if as_json:
        document = restored_document(order.url, target, rebuilt, aside, files, resume=resume, old=order.old)
        hand_out_result(document if order.members is None else {**document, **order.members.as_json(order.url)})


def _past(source: Source | None, wanted: Wanted) -> tuple[Source | None, Past]:
    """Which state is wanted, and the source that was asked: another member if one of several is damaged."""
    if source is None:
        return None, Past(wanted.to_version, None, version_suffix(wanted.to_version))
    while True:
        try:
            return source, find_past(source.url, source.backup, wanted)
        except (Unrestorable, Unreachable) as error:
            if source.members is None:
                raise
            source = source.members.after(source.url, error, wanted.resume)


def _legacy_file(urls: tuple[str, ...], wanted: Wanted, key: KeyOptions) -> Path | None:
    """The older plugin's file that the only URL names; None if it names something else."""
    legacy = legacy_backup_at(urls[0]) if len(urls) == 1 else None
    if legacy is not None and wanted.resume:
        raise BackupError(CANNOT_RESUME)
    if legacy is not None and wanted.to_time is not None:
        raise click.UsageError("--to-time needs a backup of this plugin; the older plugin's file holds no times")
    if legacy is not None and wanted.kept:
        raise click.UsageError("--kept needs a backup of this plugin; the older plugin's file keeps no old generation")
    if legacy is not None and key.named:
        raise click.UsageError(f"{key.named[0]} is for an encrypted backup; the older plugin encrypts nothing")
    return legacy


def _tell_after(order: "_Order", rebuilt: Rebuilt, files: list[PutBack]) -> None:
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


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be restored, where to, and with which options."""

    url: str
    backup: Backup | None
    members: ReadMembers | None
    """The members that were read of a backup that has several; else None. Then `url` and `backup` are one of them."""
    legacy: Path | None
    """The older plugin's file; then there is no `backup`."""
    target: Path
    file: Path
    """The file that `target` leads to, if it is a link; else `target`."""
    existing: list[Path]
    """The files that are at `file` now, a database and its journals."""
    past: Past
    resume: bool
    accepted: bool
    """Whether unknown schema objects are accepted (`--accept-schema`)."""
    consent: tuple[str, ...]
    take_over: bool
    dry_run: bool
    key: DataKey | None
    """The key of an encrypted backup."""
    check: bool
    """Whether the whole database is checked, however large it is and wherever it comes from (`--check`)."""

    @property
    def old(self) -> bool:
        """Whether the state is old: then it is for looking at only, and the file's name says so."""
        return bool(self.past.suffix)


def _restore(order: _Order, temporary: Unfinished) -> tuple[_Order, Rebuilt, list[Path], list[PutBack]]:
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
            aside = move_aside(order.file, order.existing)
            temporary.publish(order.file)
            if order.resume and order.backup is not None:
                set_old_lock_aside(target.parent)
                lasting = order.backup.place.durable_url(order.url)
                several = None if order.members is None else order.members.several(target.parent)
                hand_over(target.parent, lasting, order.backup.id(), position, several)
    return order, rebuilt, aside, files


def _stored_beside(order: _Order) -> list[Stored]:
    """What the backup holds of the files that a node needs beside its database; nothing if this is not for a node."""
    if order.target.name != DATABASE:
        return []
    return stored_in([] if order.backup is None else Source(order.url, order.backup, order.members).places())


def _rebuilt_from_any(order: _Order, temporary: Path, held: ExitStack) -> tuple[_Order, Rebuilt, Position | None]:
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


def _steps(order: _Order) -> list[str]:
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
    if order.resume and order.key is not None:
        steps.append(f"write {directory / KEY_FILE}, with the key of the backup (mode 0400)")
    if order.resume and order.backup is not None:
        several = None if order.members is None else order.members.several(directory)
        urls = [order.backup.place.durable_url(order.url)] if several is None else several[0].urls
        steps += lock_steps(directory, " and ".join(urls))
    return steps


def _rebuilt(order: _Order, temporary: Path) -> tuple[Rebuilt, Position | None]:
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
    demand_known_schema(rebuilt.state.unknown_objects, order.accepted, order.url, "nothing was restored or replaced")
    refuse_if_running(target.parent)  # a large restore takes minutes
    if not order.old:
        demand_no_newer(target, order.url, end, backup is None, order.consent)
    return rebuilt, position


def _from_backup(order: _Order, backup: Backup, temporary: Path) -> tuple[Rebuilt, Position | None, BackupEnd]:
    """Rebuild from a backup of this plugin. Returns what was rebuilt, its position in the log (None for a kept
    generation), and the backup's end with the version that was restored."""
    seen, before = backup.status(order.url), look(backup)
    end, note = end_of_backup(backup, order.url, seen), order.past.held
    if note is not None:
        end = replace_field(end, version=note.data_version, damaged=False, last_change=note.since, end=None)
    if not order.old and not end.damaged and not order.consent:  # early; otherwise only after the rebuild
        demand_no_newer(order.target, order.url, end, False, ())
    if order.resume:
        refuse_living_writer(order.url, backup, before, order.take_over, order.dry_run)
    if note is None:
        tell_plan(seen, order.target, order.past.to_version)
        old = None if order.old else doubt_of(backup, seen.last_change, before_restore=True)
        if old is not None:
            warn(f"{old}. {LOOK_FOR_A_NEWER}")
    else:
        tell_plan_of_kept(order.url, note, order.target, order.past.to_version)
    rebuilt = _rebuild(order, temporary)
    if order.resume:
        refuse_living_writer(order.url, backup, before, order.take_over, order.dry_run)
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


def _refuse_to_overwrite(existing: list[Path], target: Path, url: str, backup: Backup | None) -> NoReturn:
    advice = None
    if backup is not None:
        with suppress(BackupError, OSError):  # if one of the two cannot be read, nobody can tell
            advice = which_is_newer(pair(inspect_database(target), end_of_backup(backup, url), None, None))
    names = ", ".join(str(path) for path in existing)
    raise BackupError(
        f"{names} {'exists' if len(existing) == 1 else 'exist'} already, and nothing was touched. "
        f"{advice or 'Check whether that is the newer state'}; to restore anyway, with the old files moved aside, add "
        "--replace (which is refused if they are newer)"
    )


def _rebuild(order: _Order, temporary: Path) -> Rebuilt:
    with progress("Restoring", "Checking the restored database") as show:
        held = None if order.past.held is None else order.past.held.manifest.generation
        outcome = rebuild_backup(
            order.url, temporary, show, kept=held, to_version=order.past.to_version, check_all=order.check
        )
    rebuilt, wanted = outcome.rebuilt, order.past.to_version
    if wanted is not None and rebuilt.data_version != wanted:
        raise BackupError(f"the backup ends at version {rebuilt.data_version}, before {wanted}; nothing was restored")
    if rebuilt.state.empty:
        raise BackupError("the backup holds no database yet: the node has never started with it. Nothing was restored")
    return rebuilt
