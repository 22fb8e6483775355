"""One node with several members on simulated disks, as the code itself runs it, and what may happen to all of them."""

import json
import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import Enum, auto
from pathlib import Path
from unittest.mock import patch

from backends import keyring
from backends.base import SnapshotSource
from backends.change import Change
from backends.errors import BackupError
from backends.keyring import DataKey
from backends.log.format.documents import Manifest
from backends.log.format.members import MEMBERS, Epoch, Member, MembersDocument
from backends.log.key_slots import new_keys, publish_keys
from backends.log.reader.opening import read_manifest
from backends.log.writer.writer import Writer
from backends.members.catching_up import CatchingUp
from backends.members.epochs import Epochs
from backends.members.examine import Obstacle
from backends.members.files import copy_backup
from backends.members.opening import Members
from backends.members.running import RunningMembers
from backends.node.lockfile import Settings
from backends.node.members_note import MembersNote, read_members_note, write_members_note
from tests.encrypted import EVERYTHING, plain_unless_told
from tests.fake_lightningd.calls import bump
from tests.log.histories import backup_in, noise, silent
from tests.members.machines import Machine, MachinePlace, MemberStorage, Power, SerialWorkers, Stuck
from tests.members.truth import OPTIONS, Hopeless, Ids, Lost, NodeDied, Truth, ask_all, compaction, ids_in
from tests.storage.simulated import SimulatedDisk, SimulatedStorage


class Encrypted(Enum):
    """Whether the backup in a world is encrypted."""

    NEVER = auto()
    ALWAYS = auto()
    LATER = auto()
    """It is made over at some time (`World.change_over`)."""


USUALLY = Encrypted.ALWAYS if EVERYTHING else Encrypted.NEVER
"""What is played unless a test says otherwise."""


class _Kept(random.Random):
    """Chooses that everything is kept."""

    def random(self) -> float:
        return 0.0

    def choice(self, seq: Sequence[float]) -> float:  # type: ignore[override]
        return seq[-1]


class World:
    """One node, its members, and everything that happens to them. `count` members, the node needs `need` of them."""

    def __init__(
        self, directory: Path, seed: int, count: int = 2, need: int = 1, encrypted: Encrypted = USUALLY
    ) -> None:
        self.encrypted = encrypted
        self.plain_until = 0
        """The first segment that was encrypted."""
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
        publish = lambda key: publish_keys(first, new_keys(key, hsm_derived=bytes(32)))  # noqa: E731
        encrypt = publish if self.encrypted is Encrypted.ALWAYS else None
        with plain_unless_told():
            backup_in(first, OPTIONS).create(SnapshotSource((b"[]",), 0, None), encrypt=encrypt)
        for other in others:
            copy_backup(first, other)
        self.backup_id = backup_in(first).id()
        epoch, manifest = Epoch(1, ""), read_manifest(first)
        self.key = DataKey.new(manifest.backup_id) if manifest.key is None else keyring.find(manifest.key)
        if self.encrypted is not Encrypted.NEVER:
            assert self.key is not None
            keyring.add(self.key, demanded=self.encrypted is Encrypted.ALWAYS)
        for name, storage in storages.items():
            document = MembersDocument(self.backup_id, name, epoch, self.names, self.members, need, key=manifest.key)
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
                ("backends.storage.mirror.in_sync", "Workers", SerialWorkers),
                ("backends.members.opening", "Workers", SerialWorkers),
                ("backends.members.epochs", "write_members_note", self._write_note),
                ("backends.members.opening", "write_members_note", self._write_note),
                ("backends.members.opening", "ask_all", ask_all),
                ("backends.storage.mirror.in_sync", "_STEP", 1e9),
                ("backends.members.differences", "_TAIL", 64),
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
            patched.callback(keyring.forget)
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
        if member.name in self._rotten:
            self.truth.tainted.add(member.name)
        else:
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

    def change_over(self) -> None:
        """What `resync --encrypt` does: the key slots, then a snapshot under the key; then the key is demanded."""
        if self.writer is None or self.writer.manifest.key is not None or self.encrypted is not Encrypted.LATER:
            return
        key, ids = self.key, self.truth.acknowledged
        assert key is not None
        try:
            publish_keys(self.writer.storage, new_keys(key, hsm_derived=bytes(32)))
            source = SnapshotSource((json.dumps(ids).encode(),), self.writer.position.data_version, None)
            self.writer.take_snapshot(source, "resync", encrypt=key)
        except BackupError:
            self.counts["stopped by the change-over"] += 1
            raise NodeDied from None
        self._encrypted_from(self.writer.manifest)
        self.counts["changed over"] += 1

    def _encrypted_from(self, manifest: Manifest) -> None:
        """The change-over is done, on the node's side, too."""
        assert self.key is not None
        keyring.add(self.key, demanded=True)
        if self.encrypted is Encrypted.LATER and not self.plain_until:
            self.plain_until = manifest.first_segment

    def catch_up(self, name: str) -> bool:
        """One step of the thread that catches this member up. Returns whether it has joined."""
        each = None if self.running is None else self.running.catching_up.get(name)
        if each is None or each._ended or any(each is joined for joined in self._joined):
            return False
        if self.running is not None and self.truth.tainted & self.running.mirror.in_sync.keys():
            self._rotten.add(name)  # it may be copied from a damaged one
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
            if facts.manifest.key is not None and self.key is not None:
                self._encrypted_from(facts.manifest)  # whoever notices it finishes the change-over
            proven = self.sync_point is not None and self.sync_point == facts.end.sequence
            start = members.start(proven=proven, changed_ago=self.rng.choice((10.0, 10.0, 10.0, 7200.0)))
            writer, running = members.open(start, f"session {self._sessions}", facts, silent, self)
        except (BackupError, OSError) as error:
            self.why = str(error)
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
