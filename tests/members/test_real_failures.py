"""One of two members really fails, in every way that a disk, a stick and a server have; the other one is healthy.

The node goes on, says it once, and the member is caught up and joins when it is back.
"""

import fcntl
import os
import random
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.destinations.places import Places
from tests.destinations.sticks import ExFat, Ext4
from tests.destinations.tools import run, unmount
from tests.members.elsewhere import MembersElsewhere, go_on_without, names_in
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
    try:
        yield made.plug()  # type: ignore[misc]
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

    node = go_on_without(
        world,
        "usb",
        lambda: unmount(stick.point),
        lambda: (nothing_is_written(), stick.mount()),
        "",
    )
    lines = [message for _, message in node.logs if "cannot be caught up" in message]
    assert len(lines) == 1, lines
    assert ("nothing is mounted" if scheme == "file" else "not mounted") in lines[0]


# Servers


@pytest.mark.parametrize("kind", ["nfs3", "nfs41"])
def test_nfs_server_killed_and_restarted_joins_again(kind: str, places: Places, tmp_path: Path) -> None:
    world = MembersElsewhere(tmp_path, {"nas": places.url(kind)}).init()
    go_on_without(world, "nas", places.ganesha.kill, places.ganesha.start, "has not answered|refused|closed")


@pytest.mark.parametrize("kind", ["nfs3", "sshfs", "exfat"])
def test_destination_that_freezes_and_goes_on_joins_again(kind: str, places: Places, tmp_path: Path) -> None:
    world = MembersElsewhere(tmp_path, {"nas": places.url(kind)}).init()
    stop, resume = _freezing(kind, places)
    try:
        go_on_without(world, "nas", stop, resume, "has not answered")
    finally:
        resume()


def _freezing(kind, places):  # type: ignore[no-untyped-def]
    if kind == "exfat":
        stick = places.stick("exfat")
        assert isinstance(stick, ExFat)
        return stick.hang, lambda: stick.process and stick.process.resume()
    server = places.sshfs if kind == "sshfs" else places.ganesha
    return server.hang, server.go_on
