"""Histories of a node with several members, played by the code itself on simulated disks.

The members fail, hang, come back empty, old or damaged, and the power fails at any point. Whatever happened: each
acknowledged change is there at every start and in every restore that asked for no consent, each member in sync holds
all of them durably, and no member can be read that silently lacks some.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

from backends.base import SnapshotSource
from backends.change import Change
from backends.compaction.compact import _place
from backends.errors import BackupError
from backends.log.format.documents import Base
from backends.log.format.members import MEMBERS, Epoch, Member, MembersDocument
from backends.log.reader.opening import open_generation
from backends.log.writer.compacted import BY, CompactedSnapshot
from backends.log.writer.snapshot import next_generation, write_snapshot
from backends.log.writer.writer import Writer
from backends.members.catching_up import CatchingUp
from backends.members.epochs import Epochs
from backends.members.examine import Obstacle
from backends.members.files import copy_backup
from backends.members.newest import SeenMember, newest
from backends.members.opening import Members
from backends.members.running import RunningMembers
from backends.members.survey import NotSeen, look_at
from backends.node.lockfile import Settings
from backends.node.members_note import MembersNote, read_members_note, write_members_note
from backends.storage.base import Storage
from tests.fake_lightningd.calls import bump
from tests.log.conftest import SMALL
from tests.log.histories import backup_in, noise, silent
from tests.log.model import contents
from tests.members.machines import Fault, Hangs, Machine, MachinePlace, MemberStorage, Power, SerialWorkers, Stuck
from tests.storage.simulated import PowerCut, SimulatedDisk, SimulatedStorage

OPTIONS = replace(SMALL, segment_size=1500, preallocate_min=400, preallocate_max=800, max_file=3000)
"""Every few changes fill a segment."""

STEPS = 45

Ids = tuple[int, ...]


class Lost(AssertionError):
    """What must never happen."""


class Hopeless(Exception):
    """The only members that are here are damaged in a way that nobody sees without reading them completely."""


class NodeDied(BaseException):
    """lightningd has stopped, because a change could not be saved."""


def ids_in(storage: Storage) -> Ids:
    """The changes that a restore from here alone would bring back."""
    found = contents(backup_in(storage))
    return (*json.loads(found.snapshot), *(int(change[1][0].split()[1]) for change in found.changes))


def compaction(storage: Storage, leave_out: int) -> CompactedSnapshot | None:
    """What backends/compaction makes, without a database: the snapshot lists the changes."""
    with open_generation(storage) as reader:
        manifest, place = reader.manifest, _place(reader, leave_out)
    if place is None:
        return None
    ids = ids_in(storage)[: place.sequence]
    number = next_generation(storage, manifest.generation)
    pieces = [json.dumps(ids).encode()]
    written = write_snapshot(storage, manifest.backup_id, number, place.sequence, pieces, OPTIONS, by=BY)
    base = Base(place.sequence, place.sequence, place.checksum, True)
    return CompactedSnapshot(manifest.generation, number, written, base, place.next_segment)


def ask_all(
    questions: Mapping[str, Callable[[], SeenMember]], within: float
) -> tuple[dict[str, SeenMember], dict[str, BaseException | None]]:
    """What `ask_all` of backends/members/survey.py does, without threads."""
    answers: dict[str, SeenMember] = {}
    failures: dict[str, BaseException | None] = {}
    for name, question in questions.items():
        try:
            answers[name] = question()
        except Exception as error:
            failures[name] = error
    return answers, failures


@dataclass
class Truth:
    """What really happened."""

    acknowledged: Ids = ()
    flying: int | None = None
    """The change that was begun and neither acknowledged nor given up."""
    after: dict[int, int] = field(default_factory=dict)
    """For each change the one before it."""
    tainted: set[str] = field(default_factory=set)
    """The members whose disks were lost, set back or damaged since they joined: nothing is promised for them."""

    def begin(self, number: int) -> None:
        self.flying = number
        self.after[number] = self.acknowledged[-1] if self.acknowledged else 0

    def acknowledge(self) -> None:
        assert self.flying is not None
        self.acknowledged, self.flying = (*self.acknowledged, self.flying), None

    def holds_all(self, ids: Ids) -> bool:
        return ids == self.acknowledged or (self.flying is not None and ids == (*self.acknowledged, self.flying))

    def happened(self, ids: Ids) -> bool:
        return all(self.after[number] == before for before, number in zip((0, *ids), ids, strict=False))


class World:
    """One node, its members, and everything that happens to them. `count` members, the node needs `need` of them."""

    def __init__(self, directory: Path, seed: int, count: int = 2, need: int = 1) -> None:
        self.rng, self.directory = random.Random(seed), directory
        directory.mkdir(parents=True)
        self.power = Power(self.rng)
        self.names = tuple("abcd"[:count])
        self.machines = {name: Machine(name, self.power) for name in self.names}
        self.members = tuple(Member(name, f"usb://{name}/lightning.bkp") for name in self.names)
        self.truth, self.counts = Truth(), Counter[str]()
        self.running: RunningMembers | None = None
        self.writer: Writer | None = None
        self.sync_point: int | None = 0
        self.copies: dict[str, list[SimulatedDisk]] = {name: [] for name in self.names}
        self._rotten = set[str]()
        self.calm = False
        """Whether nothing happens any more while a member is being caught up."""
        self._sessions = self._numbers = 0
        self._in_step = self._nested = self._changing = False
        self._joined: list[CatchingUp] = []
        self._need = need

    def _init(self, need: int) -> None:
        storages = {name: SimulatedStorage(machine.disk) for name, machine in self.machines.items()}
        first, *others = storages.values()
        backup_in(first, OPTIONS).create(SnapshotSource((b"[]",), 0, None))
        for other in others:
            copy_backup(first, other)
        self.backup_id = backup_in(first).id()
        epoch = Epoch(1, "")
        for name, storage in storages.items():
            document = MembersDocument(self.backup_id, name, epoch, self.names, self.members, need)
            storage.publish(MEMBERS, document.encode())
        write_members_note(self.directory, MembersNote(self.backup_id, epoch, self.names, adopted=1))
        self.settings = Settings("usb://a/lightning.bkp", self.backup_id, self.members, need, 0.0)

    # What is patched

    @contextmanager
    def playing(self) -> Iterator["World"]:
        """Play in this world: no threads, no waiting, and the node's notes are points at which the power may fail."""
        SerialWorkers.machines, SerialWorkers.rng = self.machines, self.rng
        change = Epochs.change

        def changing(*arguments: object) -> object:
            before, self._changing = self._changing, True
            try:
                return change(*arguments)  # type: ignore[arg-type]
            finally:
                self._changing = before

        tokens = random.Random(self.rng.random())  # names and marks are the same each time, too
        with ExitStack() as patched:
            for target, attribute, value in (
                ("backends.storage.mirror.storage", "Workers", SerialWorkers),
                ("backends.members.opening", "Workers", SerialWorkers),
                ("backends.members.epochs", "write_members_note", self._write_note),
                ("backends.members.opening", "write_members_note", self._write_note),
                ("backends.members.opening", "ask_all", ask_all),
                ("backends.members.files", "_TAIL", 64),
                ("secrets", "token_bytes", tokens.randbytes),
                ("secrets", "token_hex", lambda size: tokens.randbytes(size).hex()),
                ("secrets", "randbits", tokens.getrandbits),
                ("backends.log.reader.records", "_ATTEMPTS", 0),
                ("backends.log.reader.opening", "_PAUSE", 0.0),
                ("backends.log.reader.opening", "_ATTEMPTS", 3),
                ("backends.members.catching_up.CatchingUp", "start", lambda each: None),
                ("backends.members.running.RunningMembers", "pause", lambda members, copied: self._meanwhile(0.3)),
                ("backends.members.epochs.Epochs", "change", changing),
            ):
                patched.enter_context(patch(f"{target}.{attribute}", value))
            self._init(self._need)
            yield self

    def _write_note(self, directory: Path, note: MembersNote) -> None:
        self.power.point()
        write_members_note(directory, note)
        self.power.point()

    def _before(self, machine: Machine) -> None:
        """Called before each operation of a member: other threads may do something meanwhile."""
        if self._in_step:
            self._meanwhile(0.02)

    def _meanwhile(self, likely: float) -> None:
        running = self.running
        if (
            running is None
            or self.calm
            or self.power.off
            or not self._in_step
            or self._nested
            or self._changing
            or running.mirror._joining
        ):
            return
        if running.structure.locked() or self.rng.random() >= likely:
            return
        self._nested = True
        try:
            self.rng.choice((self.commit, self.commit, self.maintain, self.compact))()
            self.counts["beside catching up"] += 1
        finally:
            self._nested = False

    # Events

    def out_of_sync(self, member: Member, *_: object) -> None:
        self.counts["put out of sync"] += 1

    def obstructed(self, member: Member, obstacle: Obstacle, *_: object) -> None:
        self.counts[f"obstructed: {obstacle.name}"] += 1

    def in_sync(self, member: Member, *_: object) -> None:
        self.counts["joined"] += 1
        assert self.running is not None
        if self.truth.tainted & (self.running.mirror.in_sync.keys() - {member.name}):
            self.truth.tainted.add(member.name)  # it may have been copied from a damaged one
        elif member.name not in self._rotten:
            self.truth.tainted.discard(member.name)

    # What the node does

    @property
    def note(self) -> MembersNote:
        note = read_members_note(self.directory)
        assert note is not None
        return note

    def commit(self) -> None:
        """One change. If it cannot be saved, the node stops."""
        if self.writer is None:
            return
        self._numbers += 1
        self.truth.begin(self._numbers)
        version = len(self.truth.acknowledged) + 1
        size = self.rng.choice((0, 20, 100, 400, 900))
        try:
            self.writer.append(Change(version, [f"-- {self._numbers} {noise(size, version)}", bump(version)]))
        except BackupError:
            self.counts["stopped by a commit"] += 1
            raise NodeDied from None
        self.truth.acknowledge()
        self.counts["commits"] += 1

    def maintain(self) -> None:
        """What the maintenance thread does from time to time."""
        if self.writer is not None:
            self.writer.maintain()
            if self.writer.failure is not None:
                raise NodeDied

    def compact(self) -> None:
        """A compaction, with commits before it is published."""
        if self.running is None or self.writer is None:
            return
        name, _ = self.running.to_compact()
        storage = MemberStorage(self.machines[name], self._before)
        try:
            compacted = compaction(storage, self.rng.choice((1, 2, 5)))
            if compacted is None:
                return
            if self.rng.random() < 0.5:
                self.commit()
            self.running.publish_compaction(self.writer, compacted, name)
            self.counts["compactions"] += 1
        except (BackupError, OSError) as error:
            self.counts[f"compactions that failed: {type(error).__name__}: {str(error)[:90]}"] += 1
        except Stuck:
            self.counts["compactions that hung"] += 1

    def catch_up(self, name: str) -> bool:
        """One step of the thread that catches this member up. Returns whether it has joined."""
        each = None if self.running is None else self.running.catching_up.get(name)
        if each is None or each._ended or any(each is joined for joined in self._joined):
            return False
        self._in_step = True
        try:
            if each.turn():
                self._joined.append(each)
                return True
        except Stuck:
            machine = self.machines[name]
            machine.pending.append(lambda: each._lost(Obstacle.NOT_THERE, "it hung"))
        finally:
            self._in_step = False
        return False

    def start(self, reachable: Collection[str]) -> str:
        """The node starts with these members. Returns how that ended."""
        for name, machine in self.machines.items():
            machine.dead = name not in reachable
        storages = {name: MemberStorage(machine, self._before) for name, machine in self.machines.items()}
        places = {name: MachinePlace(storage) for name, storage in storages.items()}
        members = Members(self.directory, self.settings, survey_within=60.0, options=OPTIONS, places=places)
        self._sessions += 1
        try:
            facts = members.look().look()
            proven = self.sync_point is not None and self.sync_point == facts.end.sequence
            start = members.start(proven=proven, changed_ago=self.rng.choice((10.0, 10.0, 10.0, 7200.0)))
            writer, running = members.open(start, f"session {self._sessions}", facts, silent, self)
        except (BackupError, OSError) as error:
            self._why = str(error)
            self.counts[f"start: {getattr(error, 'kind', 'failed')}"] += 1
            return "refused"
        self._began(running, writer)
        return "started"

    def _began(self, running: RunningMembers, writer: Writer) -> None:
        self.running, self.writer = running, writer
        self.counts["starts"] += 1
        found = {name: ids for name in running.mirror.in_sync if (ids := self._held_by(name)) is not None}
        if any(not self.truth.holds_all(ids) or len(ids) != writer.position.sequence for ids in found.values()):
            raise Lost(
                f"a start with {list(running.mirror.in_sync)} has {found} at {writer.position}, not {self.truth}"
            )
        if not found:
            raise Hopeless
        ids = next(iter(found.values()))
        self.truth.acknowledged, self.truth.flying = ids, None

    def _held_by(self, name: str) -> Ids | None:
        """What this member holds; None if it is damaged and may be."""
        try:
            return ids_in(SimulatedStorage(self.machines[name].disk))
        except BackupError:
            if not self.truth.tainted:
                raise
            self.truth.tainted.add(name)  # it may have been copied from a damaged one
        return None

    # The end of a process, and of the power

    def killed(self) -> None:
        """The node's process is gone; what it wrote is where it was."""
        self._rotten.clear()
        self.running = self.writer = None
        self._in_step = self._nested = self._changing = False
        for machine in self.machines.values():
            machine.reset()
        done = len(self.truth.acknowledged)
        self.sync_point = done if self.rng.random() < 0.7 else None

    def stop(self) -> None:
        """A clean stop."""
        if self.writer is not None and self.running is not None:
            try:
                self.writer.close()
                self.running.close()
            except (BackupError, OSError):
                pass
        self.killed()
        self.sync_point = len(self.truth.acknowledged)

    def power_failed(self) -> None:
        """Each disk has what a power cut leaves. The machines run again."""
        self.counts["power cuts"] += 1
        self.killed()
        for machine in self.machines.values():
            machine.put(machine.disk.crash(self.rng))
        self.power.off, self.power.cut_at = False, 0

    # What happens to members

    def may_lose(self, name: str) -> bool:
        """Whether another member that is in sync, and not this one, still holds everything."""
        return bool(set(self.note.in_sync) - self.truth.tainted - {name})

    def lose(self, name: str) -> None:
        """The member's disk is replaced by an empty one, or one from earlier, or bits rot on it."""
        if not self.may_lose(name):
            return
        machine, how = self.machines[name], self.rng.randrange(3)
        if how == 0:
            machine.put(SimulatedDisk())
            self.counts["wiped"] += 1
        elif how == 1 and self.copies[name]:
            machine.put(self.rng.choice(self.copies[name]).crash(random.Random(0)))
            self.counts["set back"] += 1
        elif how != 2 or not self._rot(machine):
            return
        self.truth.tainted.add(name)
        each = None if self.running is None else self.running.catching_up.get(name)
        if how == 2 and each is not None and each._checked:
            self._rotten.add(name)  # it was compared before: this is found by the next `verify`
        elif how != 2:
            self._rotten.discard(name)

    def _rot(self, machine: Machine) -> bool:
        files = [file for name, file in machine.disk._names.items() if file.now and name[0] in "s"]
        if not files:
            return False
        file = self.rng.choice(files)
        at = self.rng.randrange(len(file.now))
        for data in (file.now, file._synced):
            if at < len(data):
                data[at] ^= 0x10
        self.counts["rotted"] += 1
        return True

    def copy(self, name: str) -> None:
        """Somebody copies this member."""
        self.copies[name] = [*self.copies[name][-3:], self.machines[name].disk.crash(_Kept())]

    def reboot(self, name: str) -> None:
        """The member's own machine loses power."""
        machine = self.machines[name]
        machine.put(machine.disk.crash(self.rng))

    # What must hold

    def look(self, disks: dict[str, SimulatedDisk]) -> None:
        """Restore from what is on these disks."""
        seen = [found for name, disk in disks.items() if (found := self._seen(name, disk)) is not None]
        note = self.note
        for member in seen:
            self._look_at(member, disks[member.name], note)
        if len(seen) == len(self.names):
            self.counts["restores"] += 1
            try:
                source = newest(seen)
                ids = ids_in(SimulatedStorage(disks[source.name]))
            except BackupError as error:
                if not self.truth.tainted:
                    raise Lost(f"a restore with every member fails: {error}") from error
                return
            if not self.truth.holds_all(ids):
                raise Lost(f"a restore from {source.name} has {ids}, not {self.truth}")

    def _seen(self, name: str, disk: SimulatedDisk) -> SeenMember | None:
        storage = SimulatedStorage(disk)
        try:
            return look_at(backup_in(storage), self.backup_id, name)
        except NotSeen:
            if disk._made and MEMBERS not in storage.names():
                self._look_alone(name, storage)
        except BackupError:
            pass
        return None

    def _look_alone(self, name: str, storage: Storage) -> None:
        """A member without its document looks like a backup with one destination: it must be whole, then."""
        try:
            ids = ids_in(storage)
        except BackupError:
            return
        if not self.truth.holds_all(ids):
            raise Lost(f"{name} without its document can be read, and has {ids}, not {self.truth}")

    def _look_at(self, member: SeenMember, disk: SimulatedDisk, note: MembersNote) -> None:
        try:
            ids = ids_in(SimulatedStorage(disk))
        except BackupError as error:
            ids = None
            if member.name not in self.truth.tainted and member.name in note.in_sync:
                raise Lost(f"{member.name} is in sync and cannot be read: {error}") from error
        if ids is not None and not self.truth.happened(ids):
            raise Lost(f"{member.name} has {ids}, which never happened")
        says = member.document.epoch == note.epoch and member.name in member.document.in_sync
        if says and ids is not None and member.name not in self.truth.tainted and not self.truth.holds_all(ids):
            raise Lost(f"{member.name} says that it is in sync and has {ids}, not {self.truth}")

    def look_now(self) -> None:
        """What a power cut now would leave, and what the disks hold."""
        self.look({name: machine.disk for name, machine in self.machines.items()})
        self.look({name: machine.disk.crash(self.rng) for name, machine in self.machines.items()})


class _Kept(random.Random):
    """Chooses that everything is kept."""

    def random(self) -> float:
        return 0.0

    def choice(self, seq: Sequence[float]) -> float:  # type: ignore[override]
        return seq[-1]


# Random histories


def play(world: World, steps: int = STEPS) -> None:
    """A random history."""
    for _ in range(steps):
        _protected(world, lambda: _step(world))
        if world.rng.random() < 0.2:
            world.look_now()
    _finish(world)


def _protected(world: World, act: "object") -> None:
    try:
        act()  # type: ignore[operator]
    except NodeDied:
        world.killed()
    except Hangs:
        world.counts["ended by the watchdog"] += 1
        world.killed()
    except PowerCut:
        world.power_failed()


def _step(world: World) -> None:
    rng, x = world.rng, world.rng.random()
    name = rng.choice(world.names)
    if x < 0.04:
        world.lose(name)
    elif x < 0.08:
        world.copy(name)
    elif x < 0.10:
        world.reboot(name)
    elif x < 0.13:
        world.power.cut_at = world.power.points + rng.randint(1, 60)
    elif world.running is None:
        for machine in world.machines.values():
            machine.heal()
        world.start([each for each in world.names if rng.random() < 0.8])
    elif x < 0.45:
        for _ in range(rng.choice((1, 1, 2, 5))):
            world.commit()
    elif x < 0.52:
        world.maintain()
    elif x < 0.56:
        world.compact()
    elif x < 0.64:
        world.machines[name].fail_after(rng.choice((1, 2, 3, 5, 8, 13)), rng.choice(list(Fault)))
    elif x < 0.66:
        world.machines[name].dead = True
    elif x < 0.75:
        world.machines[name].heal()
    elif x < 0.77:
        world.stop()
    elif x < 0.79:
        raise NodeDied
    else:
        for each in world.names:
            world.catch_up(each)


def _finish(world: World) -> None:
    """Everything is repaired and connected. Then the node starts, and every member becomes whole."""
    world.power.cut_at = 0
    for machine in world.machines.values():
        machine.heal()
    world.calm = True
    for attempt in range(2):
        if not _start_with_all(world):
            return
        for _ in range(12):
            for name in world.names:
                _protected(world, lambda name=name: world.catch_up(name))  # type: ignore[misc]
            _protected(world, world.commit)
            _protected(world, world.maintain)
        if world.running is not None:
            break
        if attempt and not world.truth.tainted:
            raise Lost("the node stops although nothing is wrong")
    if world.running is None:
        return
    missing = set(world.names) - world.running.mirror.in_sync.keys()
    if missing and not world.truth.tainted & world.running.mirror.in_sync.keys():
        raise Lost(f"{missing} did not join: {world.running.obstacles} {world.running.mirror.unfinished}")
    world.look_now()


def _start_with_all(world: World) -> bool:
    if world.running is None and world.start(world.names) == "refused":
        if not world.truth.tainted:
            raise Lost(f"the node does not start with every member: {world._why}")
        world.counts["ended refused"] += 1
        return False
    for machine in world.machines.values():
        machine.heal()
    return True


def history(seed: int, scratch: Path) -> World:
    """The random history with this number."""
    rng = random.Random(seed)
    count = rng.choice((2, 2, 3))
    world = World(scratch / f"history-{seed}", seed, count, rng.randint(1, count) if rng.random() < 0.3 else 1)
    with world.playing():
        try:
            play(world)
        except Hopeless:
            world.counts["ended with damage only"] += 1
    return world
