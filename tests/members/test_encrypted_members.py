"""An encrypted backup with several members: the change-over, a member that was away meanwhile, and whoever holds one
destination and puts back what was there, or what never was."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from backends import keyring
from backends.errors import KeyNeeded, NotABackup, NotEncrypted
from backends.keyring import DataKey
from backends.log.format.documents import MANIFEST, SESSION
from backends.log.format.keys import KEYS, KeysDocument, ScryptCost
from backends.log.format.members import MEMBERS, Epoch, MembersDocument, PublicPart
from backends.log.format.records import decode_record, encode_record, segment_index
from backends.log.key_slots import new_keys, with_hsm_slot, with_passphrase
from backends.log.known_damage import DAMAGE
from backends.log.reader.opening import read_manifest, read_members
from backends.members.compare import compare_members
from backends.members.comparison import State
from backends.members.files import make_equal
from backends.members.key_copies import newest_keys, replaces
from backends.members.peers import peer_at
from backends.members.repair import Mending, mend
from backends.members.survey import look_at
from backends.storage.base import Storage
from tests.log.histories import CAMPAIGN, backup_in
from tests.members.mirror_checks import look_now, readable_files
from tests.members.mirror_histories import cut_at_every_operation, history
from tests.members.mirror_world import Encrypted, World
from tests.members.truth import ids_in
from tests.storage.simulated import SimulatedDisk, SimulatedStorage

EVERY = 1 if CAMPAIGN > 1 else 13
"""How many operations lie between two cuts; a campaign cuts at each of them."""

COST = ScryptCost(1 << 14, 1, 1)
"""A cheap passphrase."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A node with two members, whose backup has been encrypted from the beginning."""
    world = World(tmp_path / "world", 1, encrypted=Encrypted.ALWAYS)
    world.calm = True
    with world.playing():
        yield world


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[World]:
    """A node with two members, whose backup is still to be encrypted: `backup.key` is there, and pending."""
    world = World(tmp_path / "world", 1, encrypted=Encrypted.LATER)
    world.calm = True
    with world.playing():
        yield world


def storage_of(world: World, name: str) -> SimulatedStorage:
    return SimulatedStorage(world.machines[name].disk)


def started(world: World, *names: str) -> None:
    """Start the node. (How long ago its database changed is random; if that was long ago, it asks for every member.)"""
    for _ in range(8):
        if world.start(names or world.names) == "started":
            return
    raise AssertionError(world.why)


def commits(world: World, count: int = 3) -> None:
    for _ in range(count):
        world.commit()
        world.maintain()


def caught_up(world: World, name: str) -> None:
    assert any(world.catch_up(name) for _ in range(8)), world.running and world.running.obstacles


def content(storage: Storage, name: str) -> bytes:
    with closing(storage.open(name)) as handle:
        return handle.read(0, handle.size())


def unsealed(document: MembersDocument) -> bytes:
    """The document as somebody without the key writes it."""
    known = keyring.export()
    keyring.forget()
    data = replace(document, key=None).encode()
    keyring.take(known)
    return data


def document_at(world: World, name: str) -> MembersDocument:
    document = read_members(storage_of(world, name))
    assert document is not None
    return document


# The change-over


def test_member_away_during_change_over_is_refilled_and_nothing_readable_stays(plain: World) -> None:
    started(plain)
    commits(plain)
    plain.copy("b")
    plain.machines["b"].dead = True
    commits(plain)
    plain.change_over()
    commits(plain)
    plain.machines["b"].heal()
    away = storage_of(plain, "b")
    for name in ("torn-segment-00000001-1700000000", "torn-segment-00000099-1700000000", DAMAGE, "members-0a.tmp"):
        away.publish(name, b'{"readable": true}')
    assert read_manifest_key(away) is None
    caught_up(plain, "b")
    commits(plain)
    for name in plain.names:
        assert readable_files(storage_of(plain, name)) == []
        assert document_at(plain, name).key == read_manifest_key(storage_of(plain, name)) is not None
    assert DAMAGE not in away.names()
    look_now(plain)


def test_refilling_a_readable_member_never_mixes_its_files_with_encrypted_ones(plain: World) -> None:
    started(plain)
    commits(plain)
    plain.machines["b"].dead = True
    commits(plain)
    old = ids_in(storage_of(plain, "b"))
    plain.change_over()
    commits(plain)
    plain.stop()
    found = set[object]()

    def look() -> None:
        """Read what a power cut now would leave, as somebody does who does not know that it must be encrypted."""
        known = keyring.export()
        keyring.forget()
        keyring.take((each[0], each[1], "") for each in known)
        try:
            found.add(ids_in(SimulatedStorage(plain.machines["b"].disk.crash(plain.rng))))
        except NotABackup:
            found.add("nothing")
        finally:
            keyring.forget()
            keyring.take(known)

    plain.machines["b"].disk.watch = look
    make_equal(storage_of(plain, "a"), storage_of(plain, "b"), deep=False)
    look()
    assert found == {old, "nothing", plain.truth.acknowledged}


@pytest.mark.parametrize("when", ["before the change-over", "before the next start"])
def test_leftovers_of_one_member_in_sync_are_readable_no_longer_than_the_change_over(plain: World, when: str) -> None:
    started(plain)
    commits(plain)
    assert plain.running is not None
    other = list(plain.running.mirror.in_sync)[-1]  # the log itself is read from the first one
    if when == "before the next start":  # what a power cut right after the manifest leaves
        plain.change_over()
        plain.stop()
    for name in ("torn-segment-00000001-1700000000", "members-0a.tmp"):
        storage_of(plain, other).publish(name, b'{"readable": true}')
    if plain.running is not None:
        plain.change_over()
    else:
        started(plain)
    for name in plain.names:
        assert readable_files(storage_of(plain, name)) == []


def read_manifest_key(storage: Storage) -> str | None:
    known = keyring.export()
    keyring.forget()
    try:
        return read_manifest(storage).key
    finally:
        keyring.take(known)


def test_document_of_returning_member_is_sealed_at_once_and_claims_nothing_that_was_not_sealed(plain: World) -> None:
    started(plain)
    commits(plain)
    plain.machines["b"].dead = True
    commits(plain)
    before = MembersDocument.as_found(content(storage_of(plain, "b"), MEMBERS))
    plain.change_over()
    plain.machines["b"].heal()
    assert plain.running is not None
    plain.running.catching_up["b"]._prepare()
    after = document_at(plain, "b")
    assert (after.epoch, after.in_sync) == (before.epoch, ())
    assert after.key is not None and b"usb://" not in content(storage_of(plain, "b"), MEMBERS)


def test_sealed_documents_come_before_encrypted_manifest(plain: World) -> None:
    started(plain)
    commits(plain)
    seen: list[tuple[bool, bool]] = []

    def watch() -> None:
        for name in plain.names:
            storage = storage_of(plain, name)
            document = PublicPart.decode(content(storage, MEMBERS))
            seen.append((read_manifest(storage).key is not None, document.key is not None))
            assert KEYS in storage.names() or not any(seen[-1])

    for name in plain.names:
        plain.machines[name].disk.watch = watch
    plain.change_over()
    assert (False, True) in seen and (True, True) in seen
    assert (True, False) not in seen


def changing_over(world: World) -> None:
    started(world)
    commits(world)
    world.change_over()
    commits(world)
    world.stop()


def changing_over_while_a_member_fails(world: World) -> None:
    started(world)
    commits(world)
    world.machines["b"].dead = True
    world.change_over()
    commits(world)
    world.machines["b"].heal()
    for _ in range(4):
        world.catch_up("b")
        world.commit()
    world.compact()


@pytest.mark.parametrize("life", [changing_over, changing_over_while_a_member_fails])
def test_power_cut_at_every_operation_of_change_over_loses_nothing(
    life: Callable[[World], None], tmp_path: Path
) -> None:
    whole = World(tmp_path / "whole", 1, encrypted=Encrypted.LATER)
    with whole.playing():
        life(whole)
        assert whole.counts["changed over"] == 1
        points = whole.power.points
    cut_at_every_operation(life, points, EVERY, lambda name: World(tmp_path / name, 1, encrypted=Encrypted.LATER))


@pytest.mark.parametrize("encrypted", [Encrypted.ALWAYS, Encrypted.LATER])
def test_random_histories_of_encrypted_members_lose_nothing_acknowledged(encrypted: Encrypted, tmp_path: Path) -> None:
    for number in range(6 * CAMPAIGN):
        history(number, tmp_path, encrypted)


# Somebody holds one destination


def put_back(world: World, name: str, disk: SimulatedDisk) -> None:
    world.machines[name].put(disk.crash(Random(0)))


def set_back_to_before_change_over(world: World) -> None:
    """The node has changed over and gone on; then somebody puts back at one member what was there before."""
    started(world)
    commits(world)
    world.copy("a")
    world.change_over()
    commits(world)
    world.stop()
    put_back(world, "a", world.copies["a"][-1])


def goes_on_and_refills(world: World) -> None:
    """The node starts with the other member alone, and fills this one again with nothing that everybody can read."""
    started(world)
    assert world.running is not None and list(world.running.mirror.in_sync) == ["b"]
    caught_up(world, "a")
    commits(world)
    assert readable_files(storage_of(world, "a")) == []


def test_whole_old_generation_from_before_change_over_is_not_gone_on_from(plain: World) -> None:
    set_back_to_before_change_over(plain)
    with pytest.raises(Exception, match="not encrypted"):
        look_at(backup_in(storage_of(plain, "a")), plain.backup_id, "a")
    goes_on_and_refills(plain)


def test_only_old_generation_from_before_change_over_is_refused(plain: World) -> None:
    set_back_to_before_change_over(plain)
    for _ in range(5):
        assert plain.start(["a"]) == "refused"


@pytest.mark.parametrize("later", ["same epoch", "later epoch", "later generation"])
def test_old_sealed_state_put_back_at_one_member_is_not_gone_on_from(world: World, later: str) -> None:
    started(world)
    commits(world)
    world.copy("a")
    if later != "same epoch":
        world.machines["a"].dead = True
        commits(world, 6)
        world.machines["a"].heal()
        caught_up(world, "a")
    if later == "later generation":
        world.compact()
    commits(world)
    world.stop()
    put_back(world, "a", world.copies["a"][-1])
    started(world)
    commits(world)
    assert world.running is not None and "b" in world.running.mirror.in_sync


def test_forged_document_with_high_epoch_is_damage_at_that_member_and_never_overwritten(world: World) -> None:
    started(world)
    commits(world)
    world.stop()
    forged = unsealed(replace(document_at(world, "a"), epoch=Epoch(99, "somebody else"), in_sync=("a",)))
    storage_of(world, "a").publish(MEMBERS, forged)
    started(world)
    assert world.running is not None and list(world.running.mirror.in_sync) == ["b"]
    assert not any(world.catch_up("a") for _ in range(4))
    assert world.counts["obstructed: OTHER_NODE"]
    assert content(storage_of(world, "a"), MEMBERS) == forged
    commits(world)


def test_forged_document_and_marker_at_running_node_put_out_one_member_only(world: World) -> None:
    started(world)
    commits(world)
    forged = unsealed(replace(document_at(world, "a"), epoch=Epoch(99, "somebody else"), in_sync=("a",)))
    storage_of(world, "a").publish(MEMBERS, forged)
    line = b'{"lightningd-backup": 1}'
    storage_of(world, "a").publish(SESSION, line)
    assert world.running is not None
    world.running.mirror.read_small(SESSION)
    assert list(world.running.mirror.in_sync) == ["b"]
    commits(world)


def test_plain_manifest_of_known_epoch_at_one_member_is_refilled(world: World, tmp_path: Path) -> None:
    started(world)
    commits(world)
    world.stop()
    known = keyring.export()
    keyring.forget()
    manifest = replace(read_manifest(storage_of(world, "a")), key=None, node_id=None)
    storage_of(world, "a").publish(MANIFEST, manifest.encode())
    keyring.take(known)
    goes_on_and_refills(world)


def appended(storage: Storage) -> None:
    """Append a record to the log that chains to its end, as somebody can who does not have the key."""
    name = max(name for name in storage.names() if segment_index(name) is not None)
    data, at, last = content(storage, name), 64, None
    while (found := decode_record(data, at)) is not None:
        last, payload = found
        at += len(encode_record(last, payload)[0])
    assert last is not None
    header = last._replace(sequence=last.sequence + 1, data_version=last.data_version + 1, previous=last.checksum)
    storage.publish(name, data[:at] + encode_record(header, bytes(header.length))[0] + bytes(400))


def test_records_appended_without_key_do_not_make_a_member_the_newest(world: World) -> None:
    started(world)
    commits(world, 2)
    world.stop()
    appended(storage_of(world, "a"))
    seen = look_at(backup_in(storage_of(world, "a")), world.backup_id, "a")
    assert seen.end is None and "decrypted" in seen.why
    started(world)
    assert world.running is not None and "b" in world.running.mirror.in_sync
    commits(world)
    assert world.truth.holds_all(ids_in(storage_of(world, "b")))


def test_records_appended_without_key_are_repaired_and_not_copied(world: World) -> None:
    started(world)
    commits(world, 2)
    world.stop()
    genuine = ids_in(storage_of(world, "b"))
    appended(storage_of(world, "a"))
    peers = [peer_at(name, storage_of(world, name)) for name in world.names]
    comparison = compare_members(peers, unpack=False)
    [fault] = comparison.faults
    assert [(copy.member, copy.state) for copy in fault.copies] == [("a", State.DAMAGED), ("b", State.GOOD)]
    [mended] = mend(comparison, peers, running=False)
    assert (mended.outcome, mended.source) == (Mending.MENDED, "b")
    assert ids_in(storage_of(world, "a")) == ids_in(storage_of(world, "b")) == genuine


# Without the key


def test_without_key_nobody_says_which_member_is_the_newest(world: World) -> None:
    started(world)
    commits(world)
    world.stop()
    keyring.forget()
    with pytest.raises(KeyNeeded):
        look_at(backup_in(storage_of(world, "a")), world.backup_id, "a")
    assert world.start(world.names) == "refused"
    assert world.counts["start: key_needed"] == 1
    assert PublicPart.decode(content(storage_of(world, "a"), MEMBERS)).epoch == world.note.epoch.number


def test_readable_old_member_beside_sealed_ones_is_not_chosen_without_key(plain: World) -> None:
    started(plain)
    commits(plain)
    plain.machines["b"].dead = True
    commits(plain)
    plain.change_over()
    commits(plain)
    plain.machines["b"].heal()
    plain.stop()
    keyring.forget()
    assert plain.start(plain.names) == "refused"
    assert plain.counts["start: key_needed"] == 1


def test_without_key_members_are_compared_and_nothing_is_mended(world: World) -> None:
    started(world)
    commits(world, 2)
    world.stop()
    name = next(name for name in storage_of(world, "a").names() if segment_index(name) is not None)
    data = bytearray(content(storage_of(world, "a"), name))
    data[80] ^= 1
    storage_of(world, "a").publish(name, bytes(data))
    keyring.forget()
    peers = [peer_at(each, storage_of(world, each)) for each in world.names]
    comparison = compare_members(peers)
    assert comparison.without_key and comparison.compared == ("a", "b")
    [fault] = comparison.faults
    assert (fault.name, fault.good, [bad.member for bad in fault.bad]) == (name, ("b",), ["a"])
    [mended] = mend(comparison, peers, running=False)
    assert mended.outcome is Mending.FAILED
    assert content(storage_of(world, "a"), name) == bytes(data)


def test_document_that_must_be_sealed_is_never_written_readable(world: World) -> None:
    with pytest.raises(NotEncrypted):
        replace(document_at(world, "a"), key=None).encode()


def test_document_sealed_with_unknown_key_at_one_member_is_only_damage(world: World) -> None:
    started(world)
    commits(world)
    world.stop()
    other = DataKey.new(bytes.fromhex(world.backup_id))
    keyring.add(other)
    forged = replace(document_at(world, "a"), key=other.id).encode()
    known = keyring.export()
    keyring.forget()
    keyring.take(each for each in known if bytes.fromhex(each[1]) != other.secret)
    storage_of(world, "a").publish(MEMBERS, forged)
    started(world)
    assert world.running is not None and list(world.running.mirror.in_sync) == ["b"]


# Key slots


def slots(world: World) -> KeysDocument:
    assert world.key is not None
    return KeysDocument.decode(content(storage_of(world, "a"), KEYS))


def test_slot_added_while_a_member_was_away_reaches_it_and_is_not_lost_at_the_start(world: World) -> None:
    assert world.key is not None
    started(world)
    commits(world)
    world.stop()
    for number in range(2, 9):  # whichever member the others are made equal to, which is chosen at random
        only = world.names[number % 2]
        added = with_passphrase(slots(world), world.key, b"six words", COST)
        storage_of(world, only).publish(KEYS, added.encode())
        started(world)
        for name in world.names:
            assert len(KeysDocument.decode(content(storage_of(world, name), KEYS)).slots) == number
        world.stop()


def test_key_slots_that_the_holder_of_the_key_has_not_written_replace_none(world: World) -> None:
    genuine = content(storage_of(world, "a"), KEYS)
    known = keyring.export()
    keyring.forget()
    forged = replace(slots(world), next=60_000).encode()
    keyring.take(known)
    assert not replaces(forged, genuine) and replaces(genuine, forged)
    storage_of(world, "a").publish(KEYS, forged)
    assert newest_keys({name: storage_of(world, name) for name in world.names}) == genuine
    make_equal(storage_of(world, "a"), storage_of(world, "b"), deep=True)
    assert content(storage_of(world, "b"), KEYS) == genuine


def test_removed_slot_does_not_come_back(world: World) -> None:
    assert world.key is not None
    two = with_hsm_slot(with_passphrase(new_keys(world.key), world.key, b"six words", COST), world.key, bytes(32))
    one = replace(two, slots=two.slots[1:])
    assert replaces(one.encode(), two.encode()) and not replaces(two.encode(), one.encode())


def test_key_slots_come_before_anything_encrypted(plain: World) -> None:
    started(plain)
    commits(plain)
    plain.machines["b"].dead = True
    commits(plain)
    plain.change_over()
    commits(plain)
    target, seen = storage_of(plain, "b"), list[list[str]]()
    plain.machines["b"].disk.watch = lambda: seen.append(target.names())
    make_equal(storage_of(plain, "a"), target, deep=False)
    encrypted = [names for names in seen if any(name.startswith("snapshot-00000002") for name in names)]
    assert encrypted and all(KEYS in names for names in encrypted)


def test_note_of_damage_that_differs_at_each_member_puts_none_out_of_sync(world: World) -> None:
    started(world)
    for number, name in enumerate(world.names):
        storage_of(world, name).publish(DAMAGE, b"note %d" % number)
    assert world.running is not None
    assert world.running.mirror.read_small(DAMAGE).startswith(b"note")
    storage_of(world, "a").remove(DAMAGE)
    assert world.running.mirror.read_small(DAMAGE) == b"note 1"
    assert len(world.running.mirror.in_sync) == 2


# What a stranger reads


def test_stored_bytes_and_names_show_nothing_of_members(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    host = "host-name-of-the-node.example"
    monkeypatch.setattr("socket.gethostname", lambda: host)
    started(world)
    commits(world)
    world.machines["b"].dead = True
    commits(world)
    world.machines["b"].heal()
    assert world.running is not None
    why = world.note.out["b"].why
    assert why
    world.catch_up("b")
    for name in world.names:
        storage = storage_of(world, name)
        stored = b"".join(content(storage, each) + each.encode() for each in storage.names())
        for secret in ("usb://", "lightning.bkp", why, host, f'"{name}"', "in_sync"):
            assert secret.encode() not in stored, secret
