"""One of two members really fails, in every way that a disk, a stick and a server have; the other one is healthy.

The node goes on, says it once, and the member is caught up and joins when it is back.
"""

import fcntl
import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest

from backends import backup_at
from backends.errors import BackupError
from tests.destinations.places import Places
from tests.destinations.sticks import ExFat, Ext4
from tests.destinations.tools import run, unmount
from tests.end_to_end.world import said_at
from tests.fake_lightningd import History, Node
from tests.members.elsewhere import LOCAL, MembersElsewhere, Stream, go_on_without, names_in, status_of, url_of, wipe
from tests.members.world import MembersWorld
from tests.small_disk import needs_small_disks, small_disk

pytestmark = pytest.mark.slow

GRACE = 1.0


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """Servers and sticks, each started when it is first used."""
    with ExitStack() as stack:
        yield Places(tmp_path_factory.mktemp("places"), stack)


@pytest.fixture
def stick(tmp_path: Path) -> Iterator[Ext4]:
    """A stick that is plugged in."""
    made = Ext4(tmp_path)
    made.plug()
    try:
        yield made
    finally:
        made.discard()


# A disk


@needs_small_disks
def test_disk_that_is_filled_and_emptied_joins_again(tmp_path: Path) -> None:
    place, chance = tmp_path / "small", random.Random(15)
    place.mkdir()
    with small_disk(place, 48 << 20):
        world = MembersElsewhere(tmp_path, {"small": (place / "lightning.bkp").as_uri()}).init()
        go_on_without(
            world,
            "small",
            lambda: run("sh", "-c", f"dd if=/dev/zero of={place}/full bs=64k 2>/dev/null || true"),
            (place / "full").unlink,
            "No space left on device",
            text=lambda: chance.randbytes(8000).hex(),  # what is preallocated must be used up soon
        )


class FaultyDisk(Ext4):
    """A disk whose every block but the first can be made to give errors, for writing and for reading."""

    def give_io_errors(self, *, now: bool) -> None:
        """Begin to give errors, or end it. It is done by a limit for the size of the loop device."""
        descriptor = os.open(self.device, os.O_RDWR)
        try:
            status = bytearray(fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, bytes(_LOOP_INFO64)))
            status[_SIZE_LIMIT : _SIZE_LIMIT + 8] = struct.pack("Q", 4096 if now else 0)
            fcntl.ioctl(descriptor, _LOOP_SET_STATUS64, bytes(status))
        finally:
            os.close(descriptor)

    def format(self) -> None:
        """With a journal, ext4 would be dead after the first error, until it is mounted again."""
        run("mkfs.ext4", "-q", "-O", "^has_journal", "-e", "continue", "-L", self.label, self.image)


_LOOP_SET_STATUS64, _LOOP_GET_STATUS64 = 0x4C04, 0x4C05
_LOOP_INFO64, _SIZE_LIMIT = 232, 32
"""The size of the kernel's structure, and where in it the limit is."""


def test_disk_with_io_errors_joins_again(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    disk.plug()
    try:
        world = MembersElsewhere(tmp_path, {"faulty": (disk.point / "lightning.bkp").as_uri()}).init()
        go_on_without(
            world,
            "faulty",
            lambda: disk.give_io_errors(now=True),
            lambda: disk.give_io_errors(now=False),
            "Input/output error",
        )
    finally:
        disk.give_io_errors(now=False)
        disk.discard()


def test_disk_that_becomes_read_only_joins_again(stick: Ext4, tmp_path: Path) -> None:
    """As Linux does it when it finds an error; mounted again, it is writable."""

    def mount_again() -> None:
        unmount(stick.point)
        stick.plug()

    world = MembersElsewhere(tmp_path, {"usb": stick.url()}).init()
    go_on_without(world, "usb", stick.give_errors, mount_again, "read-only|Read-only|Input/output")


# A stick


@pytest.mark.parametrize("scheme", ["usb", "file"])
def test_stick_unmounted_under_running_node_joins_again(scheme: str, stick: Ext4, tmp_path: Path) -> None:
    """Nothing is ever written into the directory where it was mounted."""
    (stick.point / "node").mkdir()
    url = stick.url("node/lightning.bkp") if scheme == "usb" else (stick.point / "node/lightning.bkp").as_uri()
    world = MembersElsewhere(tmp_path, {"usb": url}).init()

    def nothing_is_written() -> None:
        (stick.point / "node").mkdir()  # an empty directory of that name must not be enough
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            assert names_in(stick.point / "node") == []
            time.sleep(0.02)
        (stick.point / "node").rmdir()

    def mount_again() -> None:
        nothing_is_written()
        stick.mount()

    node = go_on_without(
        world,
        "usb",
        lambda: unmount(stick.point),
        mount_again,
        "",
    )
    lines = [message for _, message in node.logs if "cannot be brought up to date" in message]
    assert len(lines) == 1, lines
    assert ("nothing is mounted" if scheme == "file" else "not mounted") in lines[0]


# Servers


@pytest.mark.parametrize("kind", ["nfs3", "nfs41"])
def test_nfs_server_killed_and_restarted_joins_again(kind: str, places: Places, tmp_path: Path) -> None:
    world = MembersElsewhere(tmp_path, {"nas": places.url(kind)}).init()
    go_on_without(world, "nas", places.ganesha.kill, places.ganesha.start, "has not answered|refused|closed")


@pytest.mark.parametrize("kind", ["nfs3", "sshfs", "exfat"])
def test_destination_that_freezes_and_goes_on_joins_again(kind: str, places: Places, tmp_path: Path) -> None:
    """A call to a FUSE filesystem that is frozen cannot be interrupted."""
    world = MembersElsewhere(tmp_path, {"nas": places.url(kind)}).init()
    stop, resume = freezing(kind, places)
    try:
        go_on_without(world, "nas", stop, resume, "has not answered")
    finally:
        resume()


@pytest.mark.parametrize("noticed", [True, False], ids=["in a commit", "at the stop"])
def test_node_stops_cleanly_beside_mount_that_stays_frozen(noticed: bool, places: Places, tmp_path: Path) -> None:
    world, history = MembersElsewhere(tmp_path, {"nas": places.url("sshfs")}).init(), History()
    stop, resume = freezing("sshfs", places)
    node = world.node()
    node.start()
    try:
        node.play([history.first(), *history.notes(10)])
        stream = Stream(node, history)
        stream.changes(30)
        stop()
        if noticed:
            stream.until(lambda: "nas" not in world.note.in_sync, "nas out of sync")
            began = time.monotonic()
            stream.until(lambda: time.monotonic() > began + 3, "3 seconds")  # and other threads get stuck, too
        stream.assert_waited_once(world.grace)
        began = time.monotonic()
        node.notify("shutdown", {})
        assert node.wire.listen(30, node.wire.has_left), node.logs
        assert time.monotonic() - began < 12
    finally:
        resume()  # a process with a call that cannot be interrupted cannot end
    assert node.wire.hang_up() == 0
    node.die()
    assert said_at(node, "broken") == [], node.logs
    world.assert_member_equals_the_node(LOCAL)
    with world.node() as node:
        Stream(node, history).until(lambda: "nas" in world.note.in_sync, "nas in sync")
    for name in world.names:
        world.assert_member_equals_the_node(name)


# Members that trail


def test_frozen_member_that_trails_delays_no_commit_and_catches_up(places: Places, tmp_path: Path) -> None:
    world, history = MembersElsewhere(tmp_path, {"far": places.url("sshfs")}, trailing=("far",)).init(), History()
    stop, resume = freezing("sshfs", places)
    try:
        with world.node() as node:
            node.play([history.first(), *history.notes(10)])
            stream = Stream(node, history)
            stream.until(lambda: reached(world, "far") > 0, "first pass")
            stop()
            began = time.monotonic()
            stream.until(lambda: time.monotonic() > began + 3, "3 seconds")
            assert max(stream.took) < 0.5, sorted(stream.took)[-3:]
            resume()
            stream.until(lambda: (lag(node, "far") or 999) < 400, "caught up", 12)
            began, version = time.monotonic(), world.version
            stream.until(lambda: reached(world, "far") >= version, "caught up", 12)
            assert time.monotonic() - began < 2
            assert max(stream.took) < 0.5, sorted(stream.took)[-3:]
            until = time.monotonic() + 2
            while lag(node, "far") and time.monotonic() < until:
                time.sleep(0.05)
            assert lag(node, "far") == 0
        world.assert_member_equals_the_node("far")
    finally:
        resume()


def test_document_of_member_that_trails_is_of_epoch_that_it_holds(tmp_path: Path) -> None:
    """While another member fails and joins again and again, and so epochs begin."""
    world = MembersWorld(tmp_path, ("disk", "nas", "far"), trailing=("far",), grace=GRACE).init()
    history, begun = History(), {1: 0}
    with world.node() as node:
        node.play([history.first(), *history.notes(10)])
        stream = Stream(node, history)
        for _ in range(3):
            wipe(world.place("nas"))
            for there in (False, True):
                stream.until(partial(_is_in_sync, world, "nas", there), "epoch")
                begun[world.note.epoch.number + 1] = world.version  # the next one begins after this change
                for _ in range(10):
                    stream.changes(5)
                    epoch = world.document("far").epoch.number
                    assert reached(world, "far") >= max(version for each, version in begun.items() if each <= epoch)
        newest = world.note.epoch
        stream.until(lambda: world.document("far").epoch == newest, "the newest epoch", 3)
        assert max(stream.took) < 0.5, sorted(stream.took)[-3:]


def test_member_that_trails_and_is_wiped_is_filled_again(tmp_path: Path) -> None:
    world = MembersWorld(tmp_path, ("disk", "far"), trailing=("far",), grace=GRACE).init()
    history = History()
    with world.node() as node:
        node.play([history.first(), *history.notes(10)])
        stream = Stream(node, history)
        stream.until(lambda: reached(world, "far") > 0, "first pass")
        wipe(world.place("far"))
        version = world.version
        stream.until(lambda: reached(world, "far") > version, "filled again", 8)
        version = world.version
        stream.until(lambda: reached(world, "far") > version, "followed", 2)
    world.assert_member_equals_the_node("disk")


def _is_in_sync(world: MembersWorld, name: str, expected: bool) -> bool:
    return (name in world.note.in_sync) is expected


def reached(world: MembersWorld, name: str) -> int:
    """The version that a restore from this member gives; 0 while it holds no backup."""
    with suppress(BackupError, FileNotFoundError):
        return backup_at(url_of(world, name)).status(url_of(world, name)).data_version
    return 0


def lag(node: Node, name: str) -> int | None:
    """By how many changes the member lags, as backup-status says."""
    changes: int | None = status_of(node, name)["lag_changes"]
    return changes


def freezing(kind: str, places: Places) -> tuple[Callable[[], None], Callable[[], None]]:
    """What freezes a destination of this kind, and what ends that."""
    if kind == "exfat":
        stick = places.stick("exfat")
        assert isinstance(stick, ExFat)
        process = stick.process
        assert process is not None
        return stick.hang, process.resume
    server = places.sshfs if kind == "sshfs" else places.ganesha
    return server.hang, server.go_on
