"""`backup-cli destinations`: every URL that it lists can be used without change."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends import backup_at
from backends.urls import parse_url
from tests.destinations.places import Places
from tests.destinations.sticks import STICKS, Ext4
from tests.end_to_end.world import Said, as_mortal, backup_cli, command, spawned


def listed(directory: Path) -> dict[str, dict[str, Any]]:
    """What the command lists, by mount point."""
    said = backup_cli("destinations", "--json", "--lightning-dir", directory)
    assert said.code == 0
    return {place["mounted_at"]: place for place in json.loads(said.out)["mounted"]}


@pytest.fixture
def node(tmp_path: Path) -> Path:
    directory = tmp_path / "regtest"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("kind", STICKS)
def test_stick_is_listed_with_its_url(kind: str, places: Places, node: Path) -> None:
    stick = places.stick(kind)
    place = listed(node)[str(stick.point)]
    assert place["url"] == stick.url()
    assert place["label"] == stick.label
    assert not place["own_disk"]
    assert 0 < place["free_bytes"] <= place["total_bytes"] <= stick.megabytes << 20
    backup_at(place["url"]).check_new()


@pytest.mark.parametrize("mounted", [True, False])
def test_one_of_two_sticks_with_same_label_is_listed_by_its_uuid(mounted: bool, tmp_path: Path, node: Path) -> None:
    """Also when the other is only plugged in and not mounted: the label no longer says which one is meant."""
    one, other = Ext4(tmp_path, "SAME"), Ext4(tmp_path, "SAME")
    try:
        one.plug()
        other.plug() if mounted else other.attach()
        place = listed(node)[str(one.point)]
        assert place["url"] == f"usb://{place['uuid']}/lightning.bkp"
        backup_at(place["url"]).check_new()
    finally:
        one.discard()
        other.discard()


def test_one_of_two_copies_of_a_stick_is_listed_by_its_path(tmp_path: Path, node: Path) -> None:
    one, other = Ext4(tmp_path, "SAME"), Ext4(tmp_path, "SAME")
    other.image.write_bytes(one.image.read_bytes())
    try:
        one.plug()
        other.attach()
        assert listed(node)[str(one.point)]["url"] == f"file://{one.point}/lightning.bkp"
    finally:
        one.discard()
        other.discard()


def test_stick_this_user_may_not_write_to_is_reported_as_left_out(tmp_path: Path) -> None:
    """It is plugged in and mounted, and otherwise its owner would only read that nothing would do."""
    stick = Ext4(tmp_path)
    try:
        stick.plug().point.chmod(0o555)
        said = spawned(*as_mortal(), *command("destinations", "--lightning-dir", tmp_path))
        assert said.code == 0
        assert stick.url() not in said.out
        assert f"Left out, because this user may not write there: {stick.device}" in said.err
    finally:
        stick.discard()


def test_mount_point_that_is_not_utf8_is_listed_and_its_url_works(tmp_path: Path, node: Path) -> None:
    stick = Ext4(tmp_path)
    try:
        stick.plug(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")))
        assert listed(node)[str(stick.point)]["url"] == stick.url()
        by_path = (stick.point / "lightning.bkp").as_uri()
        backup_at(by_path).check_new()
        assert str(parse_url(by_path)) == by_path
        said = spawned(*command("destinations", "--lightning-dir", node))
        assert said.code == 0, said
        assert r"caf\udce9: ext4" in said.out
    finally:
        stick.discard()


def test_share_is_listed_with_its_url(places: Places, node: Path) -> None:
    share = places.sshfs
    place = listed(node)[str(share.point)]
    assert place["url"] == f"nfs://{share.point}/lightning.bkp"
    assert place["source"] == share.source
    backup_at(place["url"]).check_new()


def test_disk_of_the_node_itself_is_listed_as_its_own(places: Places) -> None:
    stick = places.stick("ext4")
    directory = stick.point / "regtest"
    directory.mkdir(exist_ok=True)
    place = listed(directory)[str(stick.point)]
    assert place["own_disk"]
    assert place["url"].startswith("file:///")


def test_destinations_prints_url_and_free_space_for_a_person(places: Places, node: Path) -> None:
    stick = places.stick("ext4")
    said = backup_cli("destinations", "--lightning-dir", node)
    assert stick.url() in said.out
    assert "MiB free" in said.out


def test_mount_point_named_almost_like_a_system_directory_is_listed(tmp_path: Path, node: Path) -> None:
    """People give their disks names such as /usr2, /boot-stick or /etcetera."""
    stick = Ext4(tmp_path)
    point = Path(tempfile.mkdtemp(prefix="usr", dir="/"))
    try:
        stick.plug(point)
        assert listed(node)[str(point)]["url"] == stick.url()
    finally:
        stick.discard()
        point.rmdir()


MORTAL = """
import io, os, sys
from contextlib import redirect_stdout
from pathlib import Path
from backends.mounts import volumes
from backup_cli import main
from backup_cli.commands import destinations
volumes.LINKS = volumes.UDEV = Path("/nonexistent")
os.setgroups([]); os.setgid(65534); os.setuid(65534)
os.environ["HOME"] = "/nonexistent"
raise SystemExit(main.run(sys.argv[1:]))
"""
"""`backup-cli` as an ordinary user on a machine without udev, where only root may read a filesystem's label."""


def as_nobody(*arguments: object) -> Said:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    return spawned(sys.executable, "-c", MORTAL, *arguments)


@pytest.fixture
def open_stick() -> Iterator[Ext4]:
    """A stick mounted where another user can reach it."""
    root = Path(tempfile.mkdtemp(prefix="stick", dir="/var/tmp"))
    root.chmod(0o755)
    stick = Ext4(root)
    try:
        yield stick.plug()  # type: ignore[misc]
    finally:
        stick.discard()
        shutil.rmtree(root)


def test_mounted_disk_is_listed_to_ordinary_user_without_udev(open_stick: Ext4) -> None:
    open_stick.point.chmod(0o777)
    said = as_nobody("destinations", "--json")
    urls = {place["mounted_at"]: place["url"] for place in json.loads(said.out)["mounted"]}
    assert urls[str(open_stick.point)] == f"file://{open_stick.point}/lightning.bkp", said
    text = as_nobody("destinations")
    assert "Nothing that is mounted here is suitable" not in text.err
    assert f"{open_stick.device} at {open_stick.point}: ext4, " in text.out


def test_own_directory_on_mounted_disk_is_listed(open_stick: Ext4) -> None:
    """The disk is root's, and this user has a directory on it, which the URL then names."""
    open_stick.point.chmod(0o755)
    for name, owner in (("a", 0), ("mine", 65534), ("theirs", 1234)):
        (open_stick.point / name).mkdir()
        os.chown(open_stick.point / name, owner, owner)
    (open_stick.point / "a link").symlink_to("/var/tmp")
    said = as_nobody("destinations", "--json")
    [place] = [place for place in json.loads(said.out)["mounted"] if place["mounted_at"] == str(open_stick.point)]
    assert place["url"] == f"file://{open_stick.point}/mine/lightning.bkp"
    assert place["directory"] == str(open_stick.point / "mine")


def test_user_who_may_write_nowhere_is_told_which_disk_was_left_out(open_stick: Ext4) -> None:
    open_stick.point.chmod(0o755)
    said = as_nobody("destinations")
    assert f"Left out, because this user may not write there: {open_stick.device}" in said.err
    assert "Nothing that is mounted" not in said.err
