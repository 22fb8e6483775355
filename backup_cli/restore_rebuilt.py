"""The heart of a restore: the rebuilt database, from whichever member has it, if it may replace what is there."""

from contextlib import ExitStack
from dataclasses import replace as replace_field
from pathlib import Path

from backends.base import Position
from backends.confined.work import rebuild_backup
from backends.errors import BackupError, Unreachable, Unrestorable
from backends.log.backup import Backup
from backends.node.pairing import BackupEnd
from backends.node.present import end_of_backup
from backends.node.running import refuse_if_running
from backends.sqlite.rebuild import Rebuilt
from backup_cli.consent.restore import demand_no_newer
from backup_cli.consent.schema import demand_known_schema
from backup_cli.console import progress, warn
from backup_cli.legacy import rebuild_from
from backup_cli.nothing_yet import demand_database
from backup_cli.old_age import LOOK_FOR_A_NEWER, doubt_of
from backup_cli.ownership import RESUMING, Seen, look, refuse_living_writer, warn_of_writer, writing
from backup_cli.restore_order import Order
from backup_cli.restore_text import (
    IF_THE_NODE_LIVES,
    tell_plan,
    tell_plan_of_kept,
)


def rebuilt_from_any(order: Order, temporary: Path, held: ExitStack) -> tuple[Order, Rebuilt, Position | None]:
    """Rebuild the database in the file `temporary`, and check that nothing newer would be replaced: from another member
    if one of a backup with several is damaged or goes away meanwhile.

    Returns the order with the member that was restored from, what was rebuilt, and its position in the log (None for a
    legacy file or a kept generation). `held` releases the lock of each member that was tried, if the restore took it.
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
    demand_database(rebuilt.state, "Nothing was restored")
    return rebuilt
