"""What must hold in a history of members, whatever happened: found out by reading the disks as a restore does."""

import json

from backends.errors import BackupError
from backends.log.format.keys import KEYS
from backends.log.format.members import MEMBERS
from backends.log.format.records import segment_index
from backends.log.format.text_files import sealed_by
from backends.log.known_damage import DAMAGE
from backends.log.reader.opening import read_manifest
from backends.log.writer.recovery import TORN
from backends.members.newest import SeenMember, newest
from backends.members.survey import NotSeen, look_at
from backends.node.members_note import MembersNote
from backends.storage.base import LOCK, Storage
from tests.log.histories import backup_in
from tests.members.mirror_world import World
from tests.members.truth import Lost, ids_in
from tests.storage.simulated import SimulatedDisk, SimulatedStorage


def look(world: World, disks: dict[str, SimulatedDisk]) -> None:
    """Restore from what is on these disks."""
    seen = [found for name, disk in disks.items() if (found := _seen(world, name, disk)) is not None]
    note = world.note
    for member in seen:
        _look_at(world, member, disks[member.name], note)
    if len(seen) == len(world.names):
        world.counts["restores"] += 1
        try:
            source = newest(seen)
            ids = ids_in(SimulatedStorage(disks[source.name]))
        except BackupError as error:
            if not world.truth.tainted:
                raise Lost(f"a restore with every member fails: {error}") from error
            return
        if not world.truth.holds_all(ids):
            raise Lost(f"a restore from {source.name} has {ids}, not {world.truth}")


def _seen(world: World, name: str, disk: SimulatedDisk) -> SeenMember | None:
    storage = SimulatedStorage(disk)
    try:
        return look_at(backup_in(storage), world.backup_id, name)
    except NotSeen:
        if disk._made and MEMBERS not in storage.names():
            _look_alone(world, name, storage)
    except BackupError:
        pass
    return None


def _look_alone(world: World, name: str, storage: Storage) -> None:
    """A member without its document looks like a backup with one destination: it must be whole, then."""
    try:
        ids = ids_in(storage)
    except BackupError:
        return
    if not world.truth.holds_all(ids):
        raise Lost(f"{name} without its document can be read, and has {ids}, not {world.truth}")


def _look_at(world: World, member: SeenMember, disk: SimulatedDisk, note: MembersNote) -> None:
    try:
        ids = ids_in(SimulatedStorage(disk))
    except BackupError as error:
        ids = None
        if member.name not in world.truth.tainted and member.name in note.in_sync:
            raise Lost(f"{member.name} is in sync and cannot be read: {error}") from error
    if ids is not None and not world.truth.happened(ids):
        raise Lost(f"{member.name} has {ids}, which never happened")
    says = member.document.epoch == note.epoch and member.name in member.document.in_sync
    if says and ids is not None and member.name not in world.truth.tainted and not world.truth.holds_all(ids):
        raise Lost(f"{member.name} says that it is in sync and has {ids}, not {world.truth}")


def look_now(world: World) -> None:
    """What a power cut now would leave, and what the disks hold."""
    look(world, {name: machine.disk for name, machine in world.machines.items()})
    look(world, {name: machine.disk.crash(world.rng) for name, machine in world.machines.items()})


def readable_files(storage: Storage, plain_until: int | None = None) -> list[str]:
    """The files of an encrypted member that everybody can read: none must be there, whatever was there before.

    `plain_until` is the first segment that was encrypted; by default, the first one of the current generation.
    """
    first = read_manifest(storage).first_segment if plain_until is None else plain_until
    return [name for name in storage.names() if not _is_public(name) and not _is_encrypted(storage, name, first)]


def _is_public(name: str) -> bool:
    return name in (KEYS, DAMAGE, LOCK)


def _is_encrypted(storage: Storage, name: str, plain_until: int) -> bool:
    data = storage.read_small(name)
    if name.startswith(TORN) and not data.startswith(b"{"):
        index = segment_index(name.removeprefix(TORN).rpartition("-")[0])
        return index is not None and index >= plain_until
    if data.startswith(b"{"):
        return sealed_by(json.loads(data.partition(b"\n")[0])) is not None
    return data[40:48] != bytes(8)
