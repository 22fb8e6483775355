"""Random histories of a backup with several members: `make members-model`, or `python -m tests.members.model 20000`.

A history has 2 to 4 members, some of them trailing, and up to three machines with a node's directory. Members fail
before and after each step, vanish, come back empty, old or torn; nodes crash between any two steps; node directories
are copied, and old ones put back. After all of it, and in the middle, the backup is restored from whatever is there.

No acknowledged change may be missing from a restore that asked nobody, nor from the state that a node starts from
unasked, nor may a member be overwritten that alone holds one. Every rule that is stubbed out must lose some.

What the model assumes, because nothing could help: not everything that holds a change is destroyed at once, and an old
node directory is put back only after more than an hour (`within-the-hour` shows what happens otherwise).
"""

import argparse
import copy
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from backends.errors import BackupError
from backends.log.format.members import Epoch
from backends.node.members_note import MembersNote
from tests.members import rules
from tests.members.node import Node
from tests.members.state import BACKUP_ID, HOUR, Disk, Lost, Machine, Side, Stopped, SyncPoint, World

VARIANTS = (
    "no-epoch",
    "longest-wins",
    "start-alone",
    "ack-before-epoch",
    "rejoin-early",
    "no-intent",
    "in-sync-only",
    "no-session-in-epoch",
    "overwrite-unknown",
    "trailing-document-early",
    "copy-before-document",
    "no-hour",
    "no-proof",
    "no-fence",
    "join-acks-without-old",
    "join-acks-without-new",
    "node-side-forgotten",
    "resuming-without-adopting",
    "numbers-only",
    "session-knows-all",
    "no-end-in-history",
    "without-those-out",
    "in-sync-first",
    "join-goes-alone",
    "heal-unfenced",
    "taken-over-unnoticed",
)
"""Each stubs one rule out. What it is about stands where the name is used."""

LIMITS = ("within-the-hour", "copies-before-an-add")
"""Each drops an assumption of the model: no rule helps then, and the table says how often."""

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
        disks = {name: Disk(name, name in trailing, history={"s0": (1, None)}, writer="s0") for name in names}
        in_sync = tuple(name for name in names if name not in trailing)
        self.world = World(self.chance, frozenset(broken), disks, self.chance.randint(1, len(in_sync)))
        for disk in disks.values():
            disk.document = self.world.documented(disk.name, FIRST, in_sync)
        note = MembersNote(BACKUP_ID, FIRST, in_sync, sessions=("s0",))
        first = Machine(Side(note, {"s0": (1, None)}, sync_point=SyncPoint((), 0.0, 1)), 1, set(names))
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
        if len(world.disks) > 2 and len(remaining) >= world.need and not self._alone_holds(disk):
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

    def _alone_holds(self, disk: Disk) -> bool:
        """Whether something acknowledged would be gone without this member: no other holds it and is known to."""
        held = set(disk.log) & set().union(*self.world.acknowledged)
        return not any(
            other is not disk and not other.torn and held <= set(other.log) and self._counts_as(other, disk)
            for other in self.world.disks.values()
        )

    @staticmethod
    def _counts_as(other: Disk, disk: Disk) -> bool:
        if other.document is None or other.name not in other.document.in_sync:
            return False
        return disk.document is None or other.document.epoch.number >= disk.document.epoch.number

    def _disturb(self, change: Callable[[Disk], object]) -> None:
        disk = self.chance.choice(list(self.world.disks.values()))
        if self._alone_holds(disk):
            return
        self._disturb_one(disk, change)

    def _put_back(self) -> None:
        old = [each for each in self.world.copies if self._can_be_put_back(each)]
        if old:
            state = self.chance.choice(old)
            disk = self.world.disks[state.name]
            if not self._alone_holds(disk):
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
            machine.side, self.world.alone = side, False
            self._tell(machine, "put back")

    # Restores

    def _restore(self) -> tuple[Disk, Collection[str], bool] | None:
        """Restore from some members: the one it comes from, those that were not read, whether it asked."""
        world = self.world
        likely = self.chance.choice((0.5, 0.8, 1.0))
        there = [disk for disk in world.disks.values() if world.happens(likely)]
        if len(there) == 1 and there[0].document is None and there[0].log:
            return self._restored(there[0], (), False)
        try:
            found = rules.newest_disk(world, there)
        except BackupError as refused:
            world.refused(refused)
            return None
        whole = {disk.name for disk in there if disk.document is not None and not disk.torn}
        asked = rules.asks(world, there, found)
        for disk in there:
            if (
                disk.name in whole
                and asked
                and not disk.filling
                and (set(disk.log) - set(found.log)) & world.all_acknowledged()
            ):
                raise Lost("a member that was read held more")
        return self._restored(found, set(world.disks) - whole, asked)

    def _restored(self, found: Disk, away: Collection[str], asked: bool) -> tuple[Disk, Collection[str], bool]:
        if not asked and not self.world.all_acknowledged() <= set(found.log):
            raise Lost("in a restore")
        self.restored += not asked
        return found, away, asked

    def _resume(self) -> None:
        """Restore to a new machine, which goes on with the backup."""
        world, result = self.world, self._restore()
        if result is None or result[0].document is None or len(world.machines) > 2:
            return
        found, away, asked = result
        world.alone = False
        assert found.document is not None
        epoch = found.document.epoch
        in_sync = tuple(name for name in found.document.in_sync if name not in away and self._carries(name, epoch))
        note: MembersNote | None = MembersNote(BACKUP_ID, epoch, in_sync, adopted=epoch.number)
        if "resuming-without-adopting" in world.broken:
            note = None
        held = set(found.log)
        lines = [number for number, line in enumerate(world.acknowledged) if line - world.given_up <= held]
        line = world.consent(found.log) if asked or not lines else lines[-1]
        history = {**found.history, epoch.session: (epoch.number, len(found.log))}
        side = Side(note, history, found.log, world.clock, None, frozenset(away if asked else ()), found.writer, line)
        world.machines.append(Machine(side, world.number() + 1000, set(world.disks)))

    def _carries(self, name: str, epoch: Epoch) -> bool:
        disk = self.world.disks.get(name)
        return disk is not None and disk.document is not None and disk.document.epoch == epoch


def stubs(variant: str) -> Collection[str]:
    """The rules to stub out. Without numbers that go on, only sessions would tell two nodes apart."""
    return (variant, "numbers-only") if variant == "resuming-without-adopting" else (variant,)


def first_that_loses(variant: str, histories: int, first: int = 0) -> int | None:
    """The first seed whose history loses something with that rule stubbed out."""
    return next((seed for seed in range(first, first + histories) if History(seed, stubs(variant)).run().lost), None)


def table(histories: int, first: int, variants: Iterable[Collection[str]]) -> bool:
    """Print how many histories lose. Returns whether all is as it must be."""
    good = True
    for broken in variants:
        outcomes = [History(seed, broken).run() for seed in range(first, first + histories)]
        losing = [number for number, outcome in enumerate(outcomes) if outcome.lost]
        how = Counter(outcome.lost for outcome in outcomes if outcome.lost).most_common()
        seed = f"; first seed {first + losing[0]}; {dict(how)}" if losing else ""
        print(f"{' '.join(sorted(broken)) or 'all rules':26} {len(losing):6} of {histories} lose{seed}", flush=True)
        if not broken:
            counts = {
                name: sum(getattr(o, name) for o in outcomes) for name in ("acknowledged", "restored", "diverged")
            }
            print(f"{'':26} {counts}")
        good &= bool(losing) == bool(broken)
    return good


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("histories", type=int, nargs="?", default=20000)
    parser.add_argument(
        "broken", nargs="*", choices=[*VARIANTS, *LIMITS, []], help="only this, with these rules stubbed out"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chosen: list[Collection[str]] = [(), *(stubs(variant) for variant in VARIANTS + LIMITS)]
    return not table(arguments.histories, arguments.seed, [arguments.broken] if arguments.broken else chosen)


if __name__ == "__main__":
    raise SystemExit(main())
