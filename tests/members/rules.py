"""The rules that decide: which state is the newest, who may start, what may be overwritten.

All of them are the project's own functions. A name in `world.broken` stubs a rule out, mostly by what it is told.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace

from backends.base import Position
from backends.errors import BackupError
from backends.log.format.documents import Session
from backends.log.format.members import Epoch, MembersDocument
from backends.log.format.records import MAX_NUMBER
from backends.members.consent import MembersMissing, choose
from backends.members.examine import is_foreign
from backends.members.newest import SeenMember
from backends.members.start import may_start
from backends.node.members_note import MembersNote
from tests.members.state import HOUR, Disk, Log, Machine, World


class Refused(BackupError):
    """A start that needs a person, for a reason that `may_start` does not know."""

    kind = "refused"


def seen_members(world: World, disks: Iterable[Disk]) -> list[SeenMember]:
    """What a reader finds at these disks."""
    seen = [each for disk in disks if (each := disk.seen()) is not None]
    return [_without_its_lead(world, replace(each, document=_stubbed(world, each.document)), seen) for each in seen]


def _stubbed(world: World, document: MembersDocument) -> MembersDocument:
    epoch = document.epoch
    if "numbers-only" in world.broken:
        document = replace(document, floor=max(epoch.number - 1, 0))
    if "longest-wins" in world.broken:
        document = replace(document, floor=MAX_NUMBER)
    if "history-by-session-only" in world.broken:
        document = replace(document, history=dict.fromkeys(document.history, MAX_NUMBER))
    if "epoch-0-counts" in world.broken and epoch.number == 0:
        document = replace(document, epoch=Epoch(1, "filling"))
    return document


def _without_its_lead(world: World, member: SeenMember, seen: Iterable[SeenMember]) -> SeenMember:
    """With `in-sync-first`, a member that trails counts only if none in sync is there, however much it holds."""
    if "in-sync-first" not in world.broken or member.end is None or member.name in member.document.in_sync:
        return member
    epoch = member.document.epoch
    in_sync = [each for each in seen if each.document.epoch == epoch and each.name in each.document.in_sync]
    return replace(member, end=Position(0, 0, 0)) if any(each.end for each in in_sync) else member


def known(world: World, note: MembersNote) -> MembersNote:
    """What a node goes by."""
    if "history-by-session-only" in world.broken:
        return replace(note, history=dict.fromkeys((*note.history, *note.sessions), MAX_NUMBER))
    return note


def may_begin(
    world: World, machine: Machine, without: Collection[str]
) -> tuple[Disk, tuple[str, ...], tuple[str, ...]]:
    """The member to start from, those that are in sync, and those that a person has decided to go on from.

    Raises BackupError for a refusal. `without` names what a person allows to do without: members that are away, and
    those of another history.
    """
    names = sorted((machine.reach & set(world.disks)) - set(without))
    there = [world.disks[name] for name in names if world.disks[name].document is not None]
    if "start-alone" in world.broken:
        return _alone(world, there)
    note = None if machine.side.note is None else known(world, machine.side.note)
    proven = "no-proof" in world.broken
    if note is not None and "node-side-forgotten" in world.broken and there:
        newest = max((disk.document for disk in there if disk.document), key=lambda each: each.epoch.number)
        note = replace(note, epoch=newest.epoch, intent=None)
    database = max((disk for disk in there if not disk.torn), key=_newness, default=None)
    proven = proven or (database is not None and _proven(machine, database.log))
    ago = _changed_ago(world, machine)
    seen = seen_members(world, there)
    start = may_start(seen, world.members, world.need, note, proven=proven, changed_ago=ago, without=without)
    source = world.disks[start.source.name]
    if "longest-wins" in world.broken:
        source = max((disk for disk in there if not disk.torn), key=lambda disk: len(disk.log))
    _assume_not_both_set_back(world, machine, {*names, *without}, start.source.document.epoch, proven)
    return source, start.in_sync, _goes_on_from(world, start.in_sync, start.by_consent)


def _goes_on_from(world: World, in_sync: tuple[str, ...], by_consent: bool) -> tuple[str, ...]:
    return in_sync if by_consent or "resuming-without-adopting" in world.broken else ()


def _alone(world: World, there: list[Disk]) -> tuple[Disk, tuple[str, ...], tuple[str, ...]]:
    """The start without any of its rules."""
    whole = [disk for disk in there if not disk.torn and _epoch(disk).number]
    if not whole:
        raise Refused("nothing is there")
    source = max(whole, key=_newness)
    in_sync = [disk.name for disk in whole if disk.name in in_sync_of(source) and _epoch(disk) == _epoch(source)]
    return source, tuple(in_sync), tuple(in_sync)


def _assume_not_both_set_back(
    world: World, machine: Machine, there: Collection[str], epoch: Epoch, proven: bool
) -> None:
    """An old node directory and old copies of all members that are there agree with each other, and nothing can tell.

    What could tell is a member that is out of sync according to them, and is not there. `both-set-back` does without.
    """
    if "both-set-back" in world.broken:
        return
    fresh = world.clock - machine.side.changed <= HOUR or "no-hour" in world.broken
    agreed = machine.side.agreed if fresh else frozenset()
    note, ago = machine.side.note, _changed_ago(world, machine)
    waited_for = {member.name for member in world.members if not member.trailing}
    current = note is not None and note.epoch == epoch and note.intent is None
    if waited_for - set(there) - agreed and not (current and proven and ago is not None and ago <= HOUR):
        raise Refused("a member that was out of sync may have been in sync since")


def _newness(disk: Disk) -> tuple[int, int]:
    return _epoch(disk).number, len(disk.log)


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
    marker = Session("", disk.writer, "", 0, 0, 0, 0, 0, False, None, None)
    return not is_foreign(disk.document, marker, known(world, machine.note))


def restore_from(world: World, disks: Collection[Disk]) -> tuple[Disk, MembersDocument, Collection[str], bool]:
    """The member that a restore from these comes from, the newest document, what was given up, whether it asked.

    A person consents to whatever they are asked. Raises Diverged, or Unreachable.
    """
    seen, there = seen_members(world, disks), {disk.name: disk for disk in disks}
    if not seen:
        raise Refused("nothing is there")
    if "longest-wins" in world.broken:
        return _longest(disks)
    asked: Collection[str] = ()
    try:
        choice = choose(seen, {}, ())
    except MembersMissing as missing:
        asked = missing.names
        choice = choose(seen, {}, asked)
    found, newest = there[choice.sources[0].name], choice.newest
    if found.torn:
        raise Refused("what is there is damaged")
    if "in-sync-only" in world.broken:
        asked = set(asked) & set(newest.in_sync)
    return found, newest, asked, bool(asked)


def _longest(disks: Collection[Disk]) -> tuple[Disk, MembersDocument, Collection[str], bool]:
    whole = {disk.name: disk for disk in disks if disk.document is not None and not disk.torn}
    found = max(whole.values(), key=lambda disk: len(disk.log), default=None)
    if found is None or found.document is None:
        raise Refused("nothing is there")
    away = {member.name for member in found.document.members} - whole.keys()
    return found, found.document, away, bool(away)


def in_sync_of(disk: Disk) -> set[str]:
    """The members in sync, according to this one."""
    return set() if disk.document is None else set(disk.document.in_sync)


def _epoch(disk: Disk) -> Epoch:
    assert disk.document is not None
    return disk.document.epoch
