"""Sticks: found by label or UUID, and pulled out at the worst moments."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends import backup_at
from backends.errors import Unreachable
from backends.mounts import volumes as module
from backends.mounts.superblock import read_names
from backends.mounts.volumes import disks_of, volumes
from backends.urls import BadURL
from tests.destinations.conftest import WorldAt
from tests.destinations.places import Places
from tests.destinations.sticks import STICKS, Btrfs, ExFat, Ext4, Fat, Stick
from tests.destinations.test_hangs import play_until_refused
from tests.destinations.tools import run
from tests.end_to_end.recordings import FRESH
from tests.end_to_end.world import backup_cli
from tests.fake_lightningd import History, Refused

NewStick = Callable[..., Stick]


@pytest.fixture
def new_stick(tmp_path: Path) -> Iterator[NewStick]:
    """Makes new sticks, which the test plugs in; they are removed at its end."""
    bought: list[Stick] = []

    def one(kind: type[Stick], label: str = "") -> Stick:
        bought.append(kind(tmp_path, label))
        return bought[-1]

    yield one
    for stick in bought:
        stick.discard()


@pytest.mark.parametrize("kind", STICKS)
def test_recorded_node_on_stick_is_restored_equal(kind: str, places: Places, world_at: WorldAt) -> None:
    world = world_at(places.url(kind))
    FRESH.prepare(world)
    node = world.run(FRESH.calls())
    assert [level for level, _ in node.logs] == ["info"], node.logs
    world.assert_restored_equals_the_nodes()
    assert backup_cli("verify", world.url).code == 0


@pytest.mark.parametrize("kind", STICKS)
def test_stick_mounted_elsewhere_is_found_by_label(
    kind: str, new_stick: NewStick, world_at: WorldAt, history: History, tmp_path: Path
) -> None:
    stick = new_stick(STICKS[kind]).plug()
    world = world_at(stick.url()).init()
    world.run([history.first(), *history.notes(3)])
    stick.pull()
    stick.plug(tmp_path / "elsewhere")
    node = world.run(history.notes(3))
    assert [level for level, _ in node.logs] == ["info"], node.logs
    world.assert_restored_equals_the_nodes()


@pytest.mark.parametrize("cluster", [0, 1, 17])
def test_file_on_fat_is_written_at_its_end_after_a_write_shortly_before(cluster: int, new_stick: NewStick) -> None:
    """As appending and preallocating do. fusefat alone refuses it with EPERM, which a real FAT never does."""
    stick = new_stick(Fat).plug()
    expected = bytearray(cluster * 4096 + 4000)
    with (stick.point / "file").open("xb", buffering=0) as file:
        os.pwrite(file.fileno(), expected, 0)
        for length in (300, 5000):
            for at, data in ((0, b"a"), (len(expected) - 700, b"b"), (len(expected), b"c" * length)):
                assert os.pwrite(file.fileno(), data, at) == len(data)
                expected[at : at + len(data)] = data
    stick.pull()
    stick.plug()
    assert (stick.point / "file").read_bytes() == expected


@pytest.mark.parametrize("kind", STICKS)
def test_label_and_uuid_of_stick_are_read_from_its_device(kind: str, new_stick: NewStick) -> None:
    stick = new_stick(STICKS[kind])
    names = read_names(stick.image)
    assert names is not None
    assert (names.label, names.uuid) == (stick.label, run("blkid", "-p", "-s", "UUID", "-o", "value", stick.image))


def test_stick_is_found_by_uuid_in_either_case(new_stick: NewStick) -> None:
    stick = new_stick(ExFat).plug()
    names = read_names(stick.image)
    assert names is not None
    assert names.uuid is not None
    for uuid in (names.uuid, names.uuid.lower()):
        backup_at(f"usb://{uuid}/lightning.bkp").check_new()


def test_stick_not_plugged_in_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="'NOSUCHSTICK' is not plugged in"):
        backup_at("usb://NOSUCHSTICK/lightning.bkp").check_new()


def test_stick_plugged_in_but_not_mounted_is_unreachable(new_stick: NewStick) -> None:
    stick = new_stick(Ext4)
    stick.attach()
    with pytest.raises(Unreachable, match=r"plugged in \(/dev/loop\d+\), but not mounted"):
        backup_at(stick.url()).check_new()


def test_two_sticks_with_same_label_are_refused_and_their_uuids_named(new_stick: NewStick) -> None:
    one, other = new_stick(Ext4, "SAME").plug(), new_stick(Btrfs, "SAME").plug()
    with pytest.raises(Unreachable, match="2 sticks are called 'SAME'") as caught:
        backup_at(one.url()).check_new()
    for stick in (one, other):
        names = read_names(stick.image)
        assert names is not None
        assert str(names.uuid) in str(caught.value)
    names = read_names(other.image)
    assert names is not None
    backup_at(f"usb://{names.uuid}/lightning.bkp").check_new()


def test_copy_of_stick_plugged_in_beside_it_is_refused(new_stick: NewStick) -> None:
    """A copy made with dd has the same UUID."""
    one, copy = new_stick(Ext4, "SAME"), new_stick(Ext4, "SAME")
    copy.image.write_bytes(one.image.read_bytes())
    for stick in (one, copy):
        stick.plug()
    with pytest.raises(Unreachable, match=r"2 sticks are called 'SAME'.*pull one out \(one is a copy") as caught:
        backup_at(one.url()).check_new()
    assert "write the UUID" not in str(caught.value)


def test_stick_mounted_read_only_stops_the_node_but_can_be_restored_from(
    new_stick: NewStick, world_at: WorldAt, history: History
) -> None:
    stick = new_stick(Ext4).plug()
    world = world_at(stick.url()).init()
    world.run([history.first()])
    stick.remount_read_only()
    with pytest.raises(Unreachable, match="mounted read-only"):
        backup_at(stick.url("another.bkp")).check_new()
    world.restore()  # a restore only reads
    with pytest.raises(Refused, match=f"{stick.label}.*mounted read-only"), world.node() as node:
        node.db_write(history.note())


def test_stick_pulled_out_while_mounted_is_reported_as_that(new_stick: NewStick) -> None:
    stick = new_stick(ExFat).plug()
    assert isinstance(stick, ExFat)
    stick.kill()
    with pytest.raises(Unreachable, match="was pulled out while it was mounted"):
        backup_at(stick.url()).check_new()


@pytest.mark.parametrize("kind", [ExFat, Fat])
def test_stick_pulled_out_under_running_node_stops_it(
    kind: type[ExFat] | type[Fat], new_stick: NewStick, world_at: WorldAt, history: History
) -> None:
    stick = new_stick(kind).plug()
    assert isinstance(stick, (ExFat, Fat))
    world = world_at(stick.url()).init()
    with pytest.raises(Refused, match=stick.label), world.node() as node:
        node.play([history.first(), *history.notes(20)])
        stick.kill()
        play_until_refused(node, history)
    stick.pull()
    stick.plug()
    history.version -= 1  # the refused one was not committed
    world.run(history.notes(3))
    world.assert_restored_equals_the_nodes()


def test_stick_that_becomes_read_only_under_running_node_stops_it(
    new_stick: NewStick, world_at: WorldAt, history: History
) -> None:
    """Linux does this with ext4 on a stick that gives errors."""
    stick = new_stick(Ext4).plug()
    assert isinstance(stick, Ext4)
    world = world_at(stick.url()).init()
    with pytest.raises(Refused, match=stick.label), world.node() as node:
        node.play([history.first(), *history.notes(20)])
        stick.give_errors()
        play_until_refused(node, history)
    stick.pull()
    stick.plug()
    history.version -= 1
    world.run(history.notes(3))
    world.assert_restored_equals_the_nodes()


def test_stick_that_fills_up_under_running_node_stops_it(
    new_stick: NewStick, world_at: WorldAt, history: History
) -> None:
    stick = new_stick(Ext4).plug()
    world = world_at(stick.url()).init()
    with pytest.raises(Refused, match=stick.label), world.node() as node:
        node.play([history.first(), *history.notes(3)])
        run("sh", "-c", f"dd if=/dev/zero of={stick.point}/full bs=64k 2>/dev/null || true")
        for _ in range(2000):
            node.db_write(history.big(1 << 18))
    (stick.point / "full").unlink()
    history.version -= 1
    world.run(history.notes(3))
    world.assert_restored_equals_the_nodes()


def test_init_on_stick_without_permissions_warns_that_everyone_may_read_it(
    new_stick: NewStick, world_at: WorldAt
) -> None:
    stick = new_stick(ExFat).plug()
    world = world_at(stick.url())
    said = backup_cli("init", "--lightning-dir", world.directory, world.url)
    assert said.code == 0
    assert "umask=077" in said.text


@pytest.mark.parametrize("url", ["usb:///lightning.bkp", "usb://STICK/", "usb://STICK/a.bkp?colour=red"])
def test_invalid_usb_url_is_refused(url: str) -> None:
    with pytest.raises(BadURL):
        backup_at(url)


def test_stick_is_found_by_what_udev_knows_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new_stick: NewStick
) -> None:
    """udev's links, and its database, which distinguishes two sticks with one label. Any user may read both."""
    one, other = new_stick(Ext4), new_stick(Btrfs)
    for stick in (one, other):
        stick.attach()
    links = tmp_path / "disk" / "by-label"
    links.mkdir(parents=True)
    (links / "MY\\x20STICK").symlink_to(one.device)
    monkeypatch.setattr(module, "LINKS", tmp_path / "disk")
    monkeypatch.setattr(module, "read_names", lambda _: None)
    (found,) = (volume for volume in volumes() if volume.is_called("MY STICK"))
    assert found.device == one.device
    database = tmp_path / "udev"
    database.mkdir()
    number = Path(other.device).stat().st_rdev
    (database / f"b{number >> 8}:{number & 0xFF}").write_text(
        "S:disk\nE:ID_FS_USAGE=filesystem\nE:ID_FS_TYPE=vfat\nE:ID_FS_LABEL_ENC=MY\\x20STICK\nE:ID_FS_UUID_ENC=1234-ABCD\n"
    )
    monkeypatch.setattr(module, "UDEV", database)
    assert len([volume for volume in volumes() if volume.is_called("MY STICK")]) == 2
    (found,) = (volume for volume in volumes() if volume.is_called("1234-abcd"))
    assert (found.device, found.names.kind) == (other.device, "vfat")


@pytest.mark.parametrize("kind", [Ext4, Btrfs, ExFat])
def test_disk_under_a_path_is_that_of_its_stick(kind: type[Stick], new_stick: NewStick) -> None:
    stick = new_stick(kind).plug()
    assert disks_of(stick.point) == {Path(stick.device).name}
    assert disks_of(stick.point) != disks_of(Path("/"))
    assert disks_of(Path("/proc")) == frozenset()
