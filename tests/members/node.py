"""What a running node does to its members: commits, epochs, joining, trailing, and how it starts."""

from collections.abc import Collection
from dataclasses import replace

from backends.errors import BackupError
from backends.log.format.members import Epoch
from backends.members.adopting import adopted
from backends.node.members_note import MembersNote
from tests.members import rules
from tests.members.state import BACKUP_ID, Disk, Log, Lost, Machine, Stopped, SyncPoint, World


class Node:
    """One machine's node in the world."""

    def __init__(self, world: World, machine: Machine) -> None:
        self.world, self.machine = world, machine

    # A commit

    def commit(self, joining: str | None = None) -> None:
        """One change: durable on every member in sync, and on the one that is joining; then acknowledged."""
        world, machine = self.world, self.machine
        log = (*machine.log, world.number())
        waited_for = set(machine.note.in_sync) | ({joining} if joining else set())
        failed = {name for name in world.shuffled(waited_for) if not self._append(name, log, joining)}
        machine.log = log
        if failed and "ack-before-epoch" in world.broken:
            self._acknowledge(log)
        ignored = {name for name in failed if name == joining and "join-acks-without-new" in world.broken}
        if joining and "join-acks-without-old" in world.broken and joining not in failed:
            ignored = failed
        if failed - ignored:
            self.begin_epoch(waited_for - failed)
        self._acknowledge(log)

    def _append(self, name: str, log: Log, joining: str | None) -> bool:
        """Write the last change to a member. False: it failed, or was late. Raises Stopped when fenced."""
        world, machine, disk = self.world, self.machine, self.world.disks.get(name)
        world.maybe_crash(0.02)
        if disk is None or name not in machine.open:
            return False
        if disk.writer != machine.session and "no-fence" not in world.broken:
            raise Stopped
        if world.happens(0.1 if name == joining else 0.05):
            machine.open.discard(name)
            durable = world.chance.choice(("never", "now", "late"))
            if durable == "now":
                disk.log = log
            elif durable == "late":
                world.late.append((disk, log))
            return False
        disk.log = (*disk.log, log[-1])
        return True

    def _acknowledge(self, log: Log) -> None:
        """Answer `continue`; then lightningd commits, unless it dies."""
        world, machine = self.world, self.machine
        world.acknowledged[machine.side.line].add(log[-1])
        world.maybe_crash(0.05)
        point = SyncPoint(log, world.clock, machine.inode) if world.happens(0.8) else machine.side.sync_point
        machine.side = replace(machine.side, database=log, changed=world.clock, sync_point=point)

    # Epochs

    def begin_epoch(
        self, names: Collection[str], joining: str | None = None, goes_on_from: Collection[str] = ()
    ) -> bool:
        """A new epoch with these members in sync: the intent, their documents, done. Raises Stopped if too few remain.

        While one joins, commits go on between the documents; False: one of them began a further epoch. `goes_on_from`
        are members that a person has decided to go on from.
        """
        world, machine, remaining = self.world, self.machine, set(names)
        while len(remaining) >= max(world.need, 1) and self._goes_on(remaining, goes_on_from):
            epoch = self._intend()
            failed = None
            for name in world.shuffled(remaining):
                world.maybe_crash()
                world.meanwhile(machine)
                while joining and world.happens(0.6):
                    self.commit(joining)
                if machine.note.intent != epoch:
                    return False
                if not self._publish(name, epoch, remaining):
                    failed = name
                    break
            if failed is None:
                world.maybe_crash()
                machine.write(replace(machine.note, epoch=epoch, in_sync=tuple(sorted(remaining)), intent=None))
                return True
            remaining.discard(failed)
        raise Stopped

    def _goes_on(self, names: Collection[str], goes_on_from: Collection[str]) -> bool:
        """Whether one of these was in sync in the last epoch that is done.

        One that is only joining is no proof: another node may have taken over all of the others, unseen.
        """
        known = {*self.machine.note.in_sync, *goes_on_from}
        return "no-done-member-in-change" in self.world.broken or not known.isdisjoint(names)

    def _intend(self) -> Epoch:
        world, machine = self.world, self.machine
        session = "" if "no-session-in-epoch" in world.broken else machine.session
        epoch = Epoch(machine.note.newest + 1, session)
        machine.write(replace(machine.note, intent=epoch, history={**machine.note.history, session: epoch.number}))
        world.maybe_crash()
        return epoch

    def _publish(self, name: str, epoch: Epoch, in_sync: Collection[str]) -> bool:
        """Write the document of an epoch to a member. False: it failed."""
        world, disk = self.world, self.world.disks.get(name)
        if disk is None or name not in self.machine.open or world.happens(0.03):
            self.machine.open.discard(name)
            return False
        if disk.writer != self.machine.session and "no-fence" not in world.broken:
            raise Stopped
        if "no-epoch" not in world.broken:
            disk.document, disk.filling = world.documented(self.machine.note, name, epoch, in_sync), False
        return True

    # Members that are not in sync

    def join(self, disk: Disk) -> None:
        """Make a member equal and take it into a new epoch."""
        machine, world = self.machine, self.world
        if not self._overwrite(disk, machine.log):
            return
        if "rejoin-early" in world.broken:
            disk.log = machine.log[:-1]
        machine.open.add(disk.name)
        self.begin_epoch({*machine.note.in_sync, disk.name}, joining=disk.name)

    def trail(self, disk: Disk) -> None:
        """One pass: copy what it lacks; the document of the epoch in which the pass began comes last."""
        machine, world = self.machine, self.world
        note, log = machine.note, machine.log
        document = world.documented(note, disk.name, note.epoch, note.in_sync)
        for _ in range(world.chance.randint(0, 2)):
            self.commit()
        if "trailing-document-early" in world.broken and rules.may_overwrite(world, machine, disk):
            disk.document = document
        if world.happens(0.3):
            log = log[: world.chance.randint(0, len(log))]
            if log[: len(disk.log)] == disk.log:
                self._overwrite(disk, log)
            return  # the pass was broken off; a log that is replaced, not continued, is replaced at the end of it
        if self._overwrite(disk, world.chance.choice((log, machine.log))):
            disk.document, disk.filling = document, False

    def _overwrite(self, disk: Disk, log: Log) -> bool:
        """Replace the log of a member, if that is allowed. Raises Lost if that destroys what only it holds."""
        machine, world = self.machine, self.world
        if not rules.may_overwrite(world, machine, disk):
            return False
        if "heal-unfenced" in world.broken:
            world.meanwhile(machine)
        else:
            self._fence(disk)
        world.check_kept(disk, machine.log)
        if disk.document is None and "copy-before-document" not in world.broken:
            # Until it is whole it must not look like a backup with one destination.
            disk.document = world.documented(machine.note, disk.name, Epoch(0, ""), ())
            world.maybe_crash()
        disk.log, disk.torn, disk.writer, disk.filling = log, False, machine.session, True
        world.maybe_crash()
        return True

    def _fence(self, disk: Disk) -> None:
        """Before a member is overwritten: this node is still the writer of the others, and becomes that of this one."""
        world, machine = self.world, self.machine
        if any(world.disks[name].writer != machine.session for name in machine.open & set(world.disks)):
            raise Stopped
        disk.writer = machine.session
        world.meanwhile(machine)
        if disk.writer != machine.session:
            raise Stopped

    # A start

    def start(self, without: Collection[str] = ()) -> bool:
        """Whether the node runs now. Raises Lost if it starts, unasked, from a state that lacks something."""
        world, machine = self.world, self.machine
        try:
            source, in_sync, _ = rules.may_begin(world, machine, without)
            rules.log_to_start_from(world, machine, source, wrote_last := rules.wrote_last(machine, source))
            self._take_over(source, in_sync)
            # The old writer may have gone on until now.
            source, in_sync, goes_on_from = rules.may_begin(world, machine, without)
            log = rules.log_to_start_from(world, machine, source, wrote_last)
        except BackupError as refused:
            world.refused(refused)
            machine.stop()
            return False
        self._check(source, log, without)
        machine.log, machine.open = source.log, set(in_sync)
        self._make_equal(in_sync, source.log)
        self.begin_epoch(in_sync, goes_on_from=goes_on_from)
        self._make_equal(machine.note.in_sync, log)  # a new snapshot, if the database was ahead
        machine.log = log
        world.saved(machine, log)
        point = SyncPoint(log, machine.side.changed, machine.inode)
        machine.side = replace(machine.side, database=log, sync_point=point, agreed=frozenset())
        return True

    def _make_equal(self, names: Collection[str], log: Log) -> None:
        for name in names:
            self.world.maybe_crash(0.02)
            if name not in self.world.disks or self.world.disks[name].writer != self.machine.session:
                raise Stopped
            self.world.check_kept(self.world.disks[name], log)
            self.world.disks[name].log = log

    def _check(self, source: Disk, log: Log, without: Collection[str]) -> None:
        world, machine = self.world, self.machine
        if without:
            machine.pending = (set(log) - set(source.log)) & world.all_acknowledged()
            machine.side = replace(machine.side, line=world.consent(source.log))
        elif not world.acknowledged[machine.side.line] - world.given_up <= set(log):
            raise Lost("at a start")

    def _take_over(self, source: Disk, in_sync: Collection[str]) -> None:
        """Note the session, then fence whoever wrote before."""
        world, machine = self.world, self.machine
        assert source.document is not None
        machine.session = f"s{world.number()}"
        note = machine.side.note or MembersNote(BACKUP_ID, Epoch(0, ""), ())
        if source.document.epoch.number > note.newest and "resuming-without-adopting" not in world.broken:
            note = adopted(note, source.document)
        if "no-session-in-epoch" in world.broken:
            note = replace(note, sessions=(*note.sessions, ""))
        machine.write(replace(note, sessions=(*note.sessions, machine.session)))
        for name in in_sync:
            world.meanwhile(machine)
            world.maybe_crash(0.02)
            if name in world.disks:
                world.disks[name].writer = machine.session
