"""The rules that decide: which state is the newest, who may start, what may be overwritten.

Wherever the project has a pure function for it, that function is called. A name in `world.broken` stubs a rule out.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace

from backends.errors import BackupError
from backends.log.format.members import Epoch
from backends.members.newest import Diverged, SeenMember, newest
from backends.members.start import may_start
from tests.members.state import HOUR, Disk, History, Log, Machine, World


class Refused(BackupError):
    """A start that needs a person, for a reason that `may_start` does not know."""

    kind = "refused"


def newest_disk(world: World, disks: Iterable[Disk]) -> Disk:
    """The disk with the newest state. Raises Diverged, or Unreachable."""
    there = {disk.name: disk for disk in disks if disk.document is not None}
    seen = [each for disk in there.values() if (each := disk.seen()) is not None]
    whole = [disk for disk in there.values() if not disk.torn]
    if "longest-wins" in world.broken and whole:
        return max(whole, key=lambda disk: len(disk.log))
    if "numbers-only" not in world.broken and seen:
        _one_history(there, seen, world.broken)
    found = there[newest(seen).name]
    if "in-sync-first" in world.broken:
        return found
    # One that trails may hold more than an old copy of one that was in sync.
    equals = [disk for disk in whole if disk.document is not None and _epoch(disk) == _epoch(found)]
    return max(equals, key=lambda disk: (len(disk.log), disk.name in in_sync_of(found)))


def in_history(history: History, epoch: Epoch, end: int | None, broken: Collection[str]) -> bool:
    """Whether a member of this epoch, whose log ends there (None: nobody knows), holds nothing but that history.

    Numbers alone do not tell: two nodes each begin epochs of their own, and one may be a number ahead. Nor do sessions
    alone: an old node directory that is put back knows the session, but not what it did later. Nor do epochs alone: a
    restore may have begun from an old copy of a member, and others hold more of the same epoch.
    """
    if epoch.number == 0:
        return True  # a node was filling it, and stopped
    number, cut = history.get(epoch.session, (-1, None))
    if epoch.number != number or cut is None or "no-end-in-history" in broken:
        return epoch.number <= number
    return end is not None and end <= cut


def _one_history(there: dict[str, Disk], seen: list[SeenMember], broken: Collection[str]) -> None:
    """Raises Diverged unless each member holds nothing but what the newest epoch came after."""
    top = max(seen, key=lambda each: each.document.epoch.number)
    for each in seen:
        disk, same = there[each.name], each.document.epoch == top.document.epoch
        if not same and not in_history(there[top.name].history, _epoch(disk), disk.end, broken):
            raise Diverged(top, each)


def may_begin(world: World, machine: Machine, without: Collection[str]) -> tuple[Disk, tuple[str, ...]]:
    """The member to start from, and those that are in sync. Raises BackupError for a refusal.

    `without` names what a person allows to do without: members that are away, and those of another history.
    """
    names = sorted((machine.reach & set(world.disks)) - set(without))
    there = [world.disks[name] for name in names if world.disks[name].document is not None]
    source = newest_disk(world, there)
    note, broken = machine.side.note, world.broken
    if "start-alone" in broken:
        return source, tuple(
            disk.name
            for disk in there
            if disk.name in in_sync_of(source) and _epoch(disk) == _epoch(source) and not disk.torn
        )
    if note is not None and "node-side-forgotten" in broken:
        note = replace(note, epoch=_epoch(source), intent=None)
    agreed = {*without, *_agreed(world, machine)}
    proven = "no-proof" in broken or _proven(machine, source.log)
    ago = _changed_ago(world, machine)
    seen = [each for disk in there if (each := disk.seen()) is not None]
    start = may_start(seen, world.members, world.need, note, proven=proven, changed_ago=ago, without=agreed)
    if "without-those-out" not in broken:
        waited_for = {member.name for member in world.members if not member.trailing}
        current = note is not None and note.epoch == _epoch(source) and note.intent is None
        if waited_for - set(names) - agreed and not (current and proven and ago is not None and ago <= HOUR):
            raise Refused("a member that was out of sync may have been in sync since")
    return world.disks[start.source.name] if "in-sync-first" in broken else source, start.in_sync


def _agreed(world: World, machine: Machine) -> Collection[str]:
    """The members that a restore was told to do without: for an hour, because the directory may be put back later."""
    fresh = world.clock - machine.side.changed <= HOUR or "no-hour" in world.broken
    return machine.side.agreed if fresh else ()


def _changed_ago(world: World, machine: Machine) -> float | None:
    if "no-hour" in world.broken:
        return 0.0
    return None if machine.side.sync_point is None else world.clock - machine.side.sync_point.changed


def _proven(machine: Machine, log: Log) -> bool:
    """Whether the sync point proves the database current, and the log to hold all of it."""
    point, database = machine.side.sync_point, machine.side.database
    if point is None or point.inode != machine.inode or point.database != database:
        return False
    return log[: len(database)] == database


def wrote_last(machine: Machine, source: Disk) -> bool:
    """Whether the last writer of this member was the node itself, or the one that it was restored from."""
    side = machine.side
    return side.note is not None and source.writer in (*side.note.sessions, side.restored_from)


def log_to_start_from(world: World, machine: Machine, source: Disk, wrote_last: bool) -> Log:
    """The log after the start: the source's, or the database where that is ahead. Raises Refused.

    This is what a node with one destination does, too (plugin/decision.py, backends/node/pairing.py).
    """
    database, log = machine.side.database, source.log
    if database == log and (wrote_last or "taken-over-unnoticed" in world.broken):
        return log
    if log[: len(database)] == database and wrote_last:
        return log
    if database[: len(log)] == log and wrote_last and _same_inode(machine):
        return database
    raise Refused("the database is an old copy, or the backup was taken over")


def _same_inode(machine: Machine) -> bool:
    point = machine.side.sync_point
    return point is not None and point.inode == machine.inode


def may_overwrite(world: World, machine: Machine, disk: Disk) -> bool:
    """Whether healing may replace what this member holds by what the node holds."""
    if disk.document is None or "overwrite-unknown" in world.broken:
        return True
    if "session-knows-all" in world.broken:
        return machine.note.knows(_epoch(disk))
    return in_history(machine.side.history, _epoch(disk), disk.end, world.broken)


def asks(world: World, read: Collection[Disk], found: Disk) -> bool:
    """Whether a restore from these members asks for consent."""
    assert found.document is not None
    whole = {disk.name for disk in read if disk.document is not None and not disk.torn}
    configured = {member.name for member in found.document.members}
    if "in-sync-only" in world.broken:
        return not in_sync_of(found) <= whole
    if not configured <= whole:
        return True
    # None of those in sync is as new as one that trails says: each is an old copy of itself.
    return found.name not in in_sync_of(found) and "in-sync-first" not in world.broken


def in_sync_of(disk: Disk) -> set[str]:
    """The members in sync, according to this one."""
    return set() if disk.document is None else set(disk.document.in_sync)


def _epoch(disk: Disk) -> Epoch:
    assert disk.document is not None
    return disk.document.epoch
