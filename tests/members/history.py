"""One random history of a backup with several members: what nodes do, and what happens to members and machines.

What it is made of is in `state.py`, what a node does in `node.py`. What decides is the project's own code (`rules.py`).
"""

import copy
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from backends.errors import BackupError
from backends.log.format.members import Epoch, MembersDocument
from backends.members.adopting import note_of
from backends.node.members_note import MembersNote
from tests.members import rules
from tests.members.node import Node
from tests.members.state import BACKUP_ID, HOUR, Disk, Lost, Machine, Side, Stopped, SyncPoint, World

FIRST = Epoch(1, "s0")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a history ended: what was lost, or nothing, and what happened in it."""

    lost: str
    acknowledged: int = 0
    restored: int = 0
    diverged: int = 0


class History:
    """One random history."""

    def __init__(self, seed: int, broken: Iterable[str] = ()) -> None:
        self.chance = random.Random(seed)
        names = "abcd"[: self.chance.choice((2, 2, 3, 4))]
        trailing = {name for name in names[1:] if self.chance.random() < 0.2}
        disks = {name: Disk(name, name in trailing, writer="s0") for name in names}
        in_sync = tuple(name for name in names if name not in trailing)
        self.world = World(self.chance, frozenset(broken), disks, self.chance.randint(1, len(in_sync)))
        note = MembersNote(BACKUP_ID, FIRST, in_sync, sessions=("s0",), history={"s0": 1})
        for disk in disks.values():
            disk.document = self.world.documented(note, disk.name, FIRST, in_sync)
        first = Machine(Side(note, sync_point=SyncPoint((), 0.0, 1)), 1, set(names))
        self.world.machines.append(first)
        self.world.meanwhile = self._meanwhile
        self.restored = 0
        self.trouble, self.here = self.chance.choice((0.05, 0.15, 0.3)), self.chance.choice((0.5, 0.75, 0.95))
        every = (self._put_back, self._put_back, self._wipe, self._tear, self._copy_node, self._old_node, self._resume)
        self.disturbances: list[Callable[[], object]] = [each for each in every if self.chance.random() < 0.6] or [
            self._restore
        ]
        self.disturbances.append(self._restore)
        self.busy: list[Machine] = []

    def run(self) -> Outcome:
        """Live through it."""
        try:
            for _ in range(self.chance.randint(5, 80)):
                self._step()
            for _ in range(6):
                self._restore()
        except Lost as lost:
            return Outcome(str(lost))
        return Outcome("", len(set().union(*self.world.acknowledged)), self.restored, self.world.diverged)

    def _step(self) -> None:
        world, chance = self.world, self.chance
        world.clock += chance.choice((1.0, 1.0, 1.0, 60.0, 2 * HOUR))
        self._remember()
        if world.late and world.happens(0.5):
            self._apply_late_write()
        running = [machine for machine in world.machines if machine.session]
        self._act(chance.choice(running if running and world.happens(0.6) else world.machines))
        if world.happens(self.trouble):
            chance.choice(self.disturbances)()

    def _tell(self, machine: Machine, what: str) -> None:
        if self.world.telling:
            note, database = machine.side.note, machine.side.database
            knows = "nothing" if note is None else f"{note.epoch.number}/{note.epoch.session} intent {note.intent}"
            who = f"node {self.world.machines.index(machine)} {machine.session}"
            self.world.tell(f"{who}: {what}; knows {knows}, database {database}")

    def _meanwhile(self, machine: Machine) -> None:
        """While that node is in the middle of something, another does something, too."""
        others = [other for other in self.world.machines if other is not machine and other not in self.busy]
        if others and self.world.happens(0.2):
            self.busy.append(machine)
            self._act(self.chance.choice(others))
            self.busy.remove(machine)

    def _act(self, machine: Machine) -> None:
        try:
            (self._live if machine.session else self._start)(machine)
        except Stopped:
            self._stop(machine)
        self._tell(machine, "acted")

    # A node

    def _start(self, machine: Machine) -> None:
        world = self.world
        machine.reach = {name for name in world.disks if world.happens(self.here)}
        if Node(world, machine).start() or not world.happens(0.15):
            return
        away = {disk.name for disk in world.disks.values() if self._is_away(machine, disk)}
        if world.happens(0.3):
            away.add(self.chance.choice(sorted(world.disks)))  # one of another history
        if away:
            Node(world, machine).start(without=away)

    @staticmethod
    def _is_away(machine: Machine, disk: Disk) -> bool:
        return disk.name not in machine.reach or disk.torn or disk.document is None

    def _live(self, machine: Machine) -> None:
        world, node = self.world, Node(self.world, machine)
        out = [disk for name, disk in world.disks.items() if name in machine.reach - set(machine.note.in_sync)]
        joining = [disk for disk in out if not disk.trailing]
        trailing = [disk for disk in out if disk.trailing]
        what = self.chance.random()
        if what < 0.5:
            node.commit()
        elif what < 0.6:
            machine.reach = set(world.disks)
        elif what < 0.75 and joining:
            node.join(self.chance.choice(joining))
        elif what < 0.82 and trailing:
            node.trail(self.chance.choice(trailing))
        elif what < 0.88:
            self._vanish(machine, self.chance.choice(sorted(world.disks)))
        elif what < 0.92:
            self._stop(machine, cleanly=True)
        elif what < 0.94:
            self._add(node)
        elif what < 0.96:
            self._remove(node)

    def _stop(self, machine: Machine, cleanly: bool = False) -> None:
        """The node ends; it may be a power cut, which takes back what its database committed last."""
        side, world = machine.side, self.world
        point = side.sync_point
        if cleanly and machine.session:
            point = SyncPoint(side.database, side.changed, machine.inode)
        elif point is not None and world.happens(0.3):
            lost = self.chance.randint(0, 2)
            side = replace(side, database=side.database[: max(len(side.database) - lost, 0)])
            point = replace(point, database=(-1,))  # a hot journal, or another time: it does not match any more
        if "no-intent" in world.broken and side.note is not None:
            side = replace(side, note=replace(side.note, intent=None))
        machine.side = replace(side, sync_point=point)
        machine.stop()

    @staticmethod
    def _vanish(machine: Machine, name: str) -> None:
        machine.reach.discard(name)
        machine.open.discard(name)

    def _add(self, node: Node) -> None:
        world = self.world
        if len(world.disks) < 5:
            name = f"n{world.number()}"
            world.disks[name] = Disk(name, world.happens(0.2))
            node.begin_epoch(node.machine.note.in_sync)

    def _remove(self, node: Node) -> None:
        world, in_sync = self.world, set(node.machine.note.in_sync)
        disk = self.chance.choice(list(world.disks.values()))
        remaining = in_sync - {disk.name}
        if len(world.disks) > 2 and len(remaining) >= world.need and not self.world.alone_holds(disk):
            del world.disks[disk.name]
            self._vanish(node.machine, disk.name)
            node.begin_epoch(remaining)

    # What happens to members and machines

    def _remember(self) -> None:
        world = self.world
        for disk in world.disks.values():
            if world.happens(0.1) and disk.document is not None:
                world.copies.append(copy.copy(disk))
        for machine in world.machines:
            if world.happens(0.1):
                world.snapshots.append((machine, machine.side, world.clock))

    def _apply_late_write(self) -> None:
        disk, log = self.world.late.pop()
        if disk.document is not None and disk.log == log[:-1]:
            disk.log = log

    def _disturb(self, change: Callable[[Disk], object]) -> None:
        disk = self.chance.choice(list(self.world.disks.values()))
        if self.world.alone_holds(disk):
            return
        self._disturb_one(disk, change)

    def _put_back(self) -> None:
        old = [each for each in self.world.copies if self._can_be_put_back(each)]
        if old:
            state = self.chance.choice(old)
            disk = self.world.disks[state.name]
            if not self.world.alone_holds(disk):
                self._disturb_one(disk, lambda disk: disk.put_back(state))

    def _can_be_put_back(self, old: Disk) -> bool:
        """A copy of a member from before another was added cannot know of that one, and then no rule helps."""
        world = self.world
        if old.name not in world.disks or old.document is None:
            return False
        known = {member.name for member in old.document.members}
        return set(world.disks) <= known or "copies-before-an-add" in world.broken

    def _disturb_one(self, disk: Disk, change: Callable[[Disk], object]) -> None:
        change(disk)
        self.world.tell(f"{disk.name} was changed")
        for machine in self.world.machines:
            self._vanish(machine, disk.name)

    def _wipe(self) -> None:
        self._disturb(Disk.wipe)

    def _tear(self) -> None:
        def tear(disk: Disk) -> None:
            disk.torn = True

        self._disturb(tear)

    def _copy_node(self) -> None:
        """The node's directory is copied to another machine, perhaps while the node runs."""
        world = self.world
        if len(world.machines) < 3:
            world.alone = False
            world.machines.append(
                Machine(self.chance.choice(world.machines).side, world.number() + 1000, set(world.disks))
            )

    def _old_node(self) -> None:
        """An old image of a machine is put back, and its clock is right."""
        world = self.world
        age = 0.0 if "within-the-hour" in world.broken else HOUR
        old = [(machine, side) for machine, side, taken in world.snapshots if world.clock - taken > age]
        if old:
            machine, side = self.chance.choice(old)
            machine.stop()
            machine.side, machine.pending, self.world.alone = side, set(), False
            self._tell(machine, "put back")

    # Restores

    def _restore(self) -> tuple[Disk, MembersDocument, Collection[str], bool] | None:
        """Restore from some members: the one it comes from, the newest document, what was given up, whether it asked.

        None if that was refused, or if what there was looked like a backup with one destination.
        """
        world = self.world
        likely = self.chance.choice((0.5, 0.8, 1.0))
        there = [disk for disk in world.disks.values() if world.happens(likely)]
        if len(there) == 1 and there[0].document is None and there[0].log:
            self._check_restored(there[0], False)
            return None
        try:
            found, newest, given_up, asked = rules.restore_from(world, there)
        except BackupError as refused:
            world.refused(refused)
            return None
        for disk in there:
            whole = disk.document is not None and not disk.torn and not disk.filling and disk.name not in given_up
            if whole and asked and (set(disk.log) - set(found.log)) & world.all_acknowledged():
                raise Lost("a member that was read held more")
        self._check_restored(found, asked)
        return found, newest, given_up, asked

    def _check_restored(self, found: Disk, asked: bool) -> None:
        if not asked and not self.world.all_acknowledged() <= set(found.log):
            raise Lost("in a restore")
        self.restored += not asked

    def _resume(self) -> None:
        """Restore to a new machine, which goes on with the backup."""
        world, result = self.world, self._restore()
        if result is None or len(world.machines) > 2:
            return
        found, newest, given_up, asked = result
        in_sync = tuple(
            name for name in newest.in_sync if name not in given_up and self._is_in_sync(name, newest.epoch)
        )
        if not in_sync:
            return  # a node could not go on with that
        world.alone = False
        note = None if "resuming-without-adopting" in world.broken else replace(note_of(newest), in_sync=in_sync)
        held = set(found.log)
        lines = [number for number, line in enumerate(world.acknowledged) if line - world.given_up <= held]
        line = world.consent(found.log) if asked or not lines else lines[-1]
        inode = world.number() + 1000
        point = SyncPoint(found.log, world.clock, inode) if "restored-beside-a-running-node" in world.broken else None
        side = Side(note, found.log, world.clock, point, frozenset(given_up), found.writer, line)
        world.machines.append(Machine(side, inode, set(world.disks)))

    def _is_in_sync(self, name: str, epoch: Epoch) -> bool:
        disk = self.world.disks.get(name)
        return disk is not None and disk.document is not None and disk.document.epoch == epoch and not disk.torn
