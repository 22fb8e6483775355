"""Places where nothing stays: refused as destinations, also at each start, but backups there can still be read."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends import place_at
from backends.mounts import ephemeral, table
from backends.mounts.ephemeral import Lifetime, lifetime_of
from backends.mounts.unfit import LAYERS
from backup_cli.commands.destinations import places
from tests.cli.cli_asserts import assert_refused
from tests.destinations.tools import need, unmount
from tests.end_to_end.world import World, backup_cli, command, said_at, spawned, tree
from tests.fake_lightningd import History, Refused

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def as_an_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LAYERS, raising=False)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A mount point; whatever a test mounts there is unmounted afterwards."""
    need("mount", "umount")
    point = tmp_path / "place"
    point.mkdir()
    yield point
    while os.path.ismount(point):
        unmount(point)


def mount(kind: str, point: Path, options: str = "") -> None:
    words = ["mount", "-t", kind, *(["-o", options] if options else []), kind, str(point)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{kind} cannot be mounted here: {done.stderr.strip()}")


def layer(point: Path, upper_in: Path) -> None:
    """Mount an overlay, as a container has it: what is written goes to the directory `upper`."""
    for name in ("lower", "upper", "work"):
        (upper_in / name).mkdir()
    mount("overlay", point, f"lowerdir={upper_in}/lower,upperdir={upper_in}/upper,workdir={upper_in}/work")


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_init_on_memory_filesystem_is_refused_even_with_ephemeral_accepted(
    world: World, place: Path, kind: str
) -> None:
    mount(kind, place)
    for options in ("", "?ephemeral=accepted"):
        said = backup_cli("init", "--lightning-dir", world.directory, f"{place.as_uri()}/b{options}")
        assert_refused(said, rf"is on {kind} .*in this machine's memory.*Mount the disk that you want")
    assert list(place.iterdir()) == [] and not (world.directory / "backup.lock").exists()


def test_device_name_of_unplugged_disk_is_refused_and_not_created(world: World) -> None:
    if lifetime_of(Path("/dev/sdz1")) is not Lifetime.MEMORY:
        pytest.skip("/dev is not in memory here")
    said = backup_cli("init", "--lightning-dir", world.directory, "file:///dev/sdz1")
    assert_refused(said, "list of this machine's devices.*Mount the disk that you want.*backup-cli destinations")
    assert not Path("/dev/sdz1").exists()


def test_device_file_is_refused_and_says_what_to_type(world: World, place: Path) -> None:
    image = place.parent / "image"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    need("mkfs.ext4", "losetup")
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    device = subprocess.run(["losetup", "-f", "--show", image], check=True, stdout=subprocess.PIPE, text=True)
    name = device.stdout.strip()
    try:
        for url in (f"file://{name}", f"file://{name}/lightning.bkp"):
            said = backup_cli("init", "--lightning-dir", world.directory, url)
            assert said.code == 2
            assert f"mount {name} /mnt/backup, and use: file:///mnt/backup/lightning.bkp" in said.err
            assert f"{name} is a disk's device" in backup_cli("status", f"{url}").err
        subprocess.run(["mount", name, place], check=True)
        said = backup_cli("init", "--lightning-dir", world.directory, f"file://{name}/mine.bkp")
        assert f"mounted at {place}, so use: {place.as_uri()}/mine.bkp" in said.err
        assert backup_cli("init", "--lightning-dir", world.directory, f"{place.as_uri()}/mine.bkp").code == 0
    finally:
        unmount(place)
        subprocess.run(["losetup", "-d", name], check=True)


def test_layer_of_a_container_is_refused_unless_ephemeral_is_accepted(
    world: World, place: Path, tmp_path: Path
) -> None:
    layer(place, tmp_path)
    url = f"{place.as_uri()}/b"
    said = backup_cli("init", "--lightning-dir", world.directory, url)
    assert_refused(said, r"the layer of a container.*docker run -v /mnt/backup:/backup")
    assert f"{url}?ephemeral=accepted" in said.err
    assert list(place.iterdir()) == []
    assert backup_cli("init", "--lightning-dir", world.directory, f"{url}?ephemeral=acepted").code == 2
    said = backup_cli("init", "--lightning-dir", world.directory, f"{url}?ephemeral=accepted")
    assert said.code == 0 and "in a container's own layer (ephemeral=accepted)" in said.err
    assert f"{url}?ephemeral=accepted" in (world.directory / "backup.lock").read_text()
    history = History()
    world.run([history.first(), *history.notes(3)])
    assert "in a container's own layer" in backup_cli("check-config", "--lightning-dir", world.directory).out


def test_overlay_over_memory_is_refused_even_with_ephemeral_accepted(world: World, place: Path, tmp_path: Path) -> None:
    """A system that runs from a stick or a CD."""
    memory = tmp_path / "memory"
    memory.mkdir()
    mount("tmpfs", memory)
    try:
        layer(place, memory)
        said = backup_cli("init", "--lightning-dir", world.directory, f"{place.as_uri()}/b?ephemeral=accepted")
        assert_refused(said, "in this machine's memory")
    finally:
        unmount(place)
        unmount(memory)


def moved_to_memory(lived: World, place: Path) -> str:
    """Mount memory in place of the disk, with a copy of the backup on it; returns the URL of the copy."""
    mount("tmpfs", place)
    subprocess.run(["cp", "-a", lived.backup, place / "b"], check=True)
    url = f"{place.as_uri()}/b"
    lock = lived.directory / "backup.lock"
    lock.write_text(lock.read_text().replace(lived.url, url))
    return url


def test_start_with_backup_moved_to_memory_is_refused_and_changes_nothing(
    lived: World, history: History, place: Path
) -> None:
    moved_to_memory(lived, place)
    before = tree(place)
    node = lived.node()
    node.start()
    with pytest.raises(Refused):
        node.play(history.notes(1))
    assert "in this machine's memory" in said_at(node, "broken")[0]
    assert tree(place) == before
    said = backup_cli("check-config", "--lightning-dir", lived.directory)
    assert "NOT protected" in said.out and "in this machine's memory" in said.out
    assert "not on the node's own disk" not in said.out
    status = backup_cli("status", "--lightning-dir", lived.directory)
    assert "degraded" in status.out and "in this machine's memory" in status.out
    assert "in this machine's memory" in backup_cli("resync", "--lightning-dir", lived.directory).err
    assert tree(place) == before


def test_backup_in_memory_can_be_read_and_restored(lived: World, place: Path) -> None:
    url = moved_to_memory(lived, place)
    before = tree(place)
    for act in (["status"], ["verify"], ["restore"]):
        to = [lived.root / "restored.sqlite3"] if act == ["restore"] else []
        assert backup_cli(*act, url, *to).code == 0
    resumed = lived.root / "again" / "regtest"
    resumed.mkdir(parents=True)
    said = backup_cli("restore", "--resume", url, resumed)
    assert said.code == 0 and "would stop at its first commit" in said.err and "in this machine's memory" in said.err
    assert tree(place) == before


def test_drill_in_a_layer_works_unless_it_is_given_as_destination(tmp_path: Path, place: Path) -> None:
    layer(place, tmp_path)
    said = spawned(*command("drill"), environment={"TMPDIR": str(place)})
    assert said.code == 0, said
    assert_refused(spawned(*command("drill", place.as_uri())), "the layer of a container")
    assert list(place.iterdir()) == []


def test_destinations_does_not_list_memory_filesystems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A filesystem on a memory disk has a label, a UUID and free space like any other."""
    monkeypatch.setattr("backup_cli.commands.destinations.lifetime_of_mount", lambda mount: Lifetime.MEMORY)
    assert [each for each in places(frozenset())[0] if not each.url.startswith("nfs")] == []


def line(kind: str, source: str, options: str = "rw") -> bytes:
    return f"37 35 0:40 / / rw - {kind} {source} {options}\n".encode()


@pytest.mark.parametrize(
    ("mounted", "lifetime"),
    [
        (line("ext4", "/dev/sda1"), Lifetime.LASTING),
        (line("zfs", "tank"), Lifetime.LASTING),
        (line("fuse.mergerfs", "a:b"), Lifetime.LASTING),
        (line("rootfs", "rootfs"), Lifetime.MEMORY),
        (line("devtmpfs", "udev"), Lifetime.MEMORY),
        (line("hugetlbfs", "huge"), Lifetime.MEMORY),
        (line("debugfs", "debugfs"), Lifetime.MEMORY),
        (line("ext4", "/dev/zram0"), Lifetime.MEMORY),
        (line("ext2", "/dev/ram12"), Lifetime.MEMORY),
        (line("aufs", "none"), Lifetime.LAYER),
        (line("fuse.fuse-overlayfs", "fuse-overlayfs"), Lifetime.LAYER),
        (line("overlay", "overlay", "rw,lowerdir=/l,upperdir=/nowhere/here,workdir=/w"), Lifetime.LAYER),
        (line("overlay", "overlay", "ro,lowerdir=/a:/b"), Lifetime.LAYER),
    ],
)
def test_filesystem_is_recognised_as_lasting_or_memory_or_layer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mounted: bytes, lifetime: Lifetime
) -> None:
    monkeypatch.setattr(table, "MOUNTINFO", tmp_path / "mountinfo")
    (tmp_path / "mountinfo").write_bytes(mounted)
    [mount] = table.mounts()
    assert ephemeral.lifetime_of_mount(mount) is lifetime


@pytest.mark.parametrize(
    ("marked", "mounted", "lifetime"),
    [
        (True, "/var/lib/containers/vfs/dir/1a2b / rw - ext4 /dev/sda1 rw", Lifetime.LAYER),
        (True, "/docker/btrfs/subvolumes/1a2b / rw - btrfs /dev/sda1 rw", Lifetime.LAYER),
        (True, "/volumes/node/_data /root/.lightning rw - ext4 /dev/sda1 rw", Lifetime.LASTING),
        (True, "/ / rw - ext4 /dev/sda1 rw", Lifetime.LASTING),  # a machine whose disk was made from an image
        (False, "/@ / rw - btrfs /dev/sda1 rw", Lifetime.LASTING),
    ],
)
def test_layer_that_is_a_directory_of_the_hosts_disk_is_recognised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, marked: bool, mounted: str, lifetime: Lifetime
) -> None:
    monkeypatch.setattr(table, "MOUNTINFO", tmp_path / "mountinfo")
    monkeypatch.setattr(ephemeral, "_CONTAINER", (tmp_path / "mark",))
    (tmp_path / "mountinfo").write_text(f"37 35 8:1 {mounted}\n")
    if marked:
        (tmp_path / "mark").touch()
    [mount] = table.mounts()
    assert ephemeral.lifetime_of_mount(mount) is lifetime


IN_A_CHROOT = """
import os, sys
from pathlib import Path
from backends.mounts.ephemeral import lifetime_of
from backends.mounts.table import mount_of
os.chroot(sys.argv[1])
device = int(sys.argv[2])
print(lifetime_of(Path("/backup")).value, mount_of(Path("/backup")).device == (os.major(device), os.minor(device)))
print(lifetime_of(Path("/proc/1")).value)
"""


def test_place_in_a_chroot_that_is_no_mount_point_is_lasting_and_its_device_known(place: Path) -> None:
    """The mount table of a process shows only what is mounted below its root."""
    root = place.parent
    (root / "proc").mkdir()
    (root / "backup").mkdir()
    need("mount")
    if subprocess.run(["mount", "--bind", "/proc", root / "proc"], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        said = spawned(sys.executable, "-c", IN_A_CHROOT, root, root.stat().st_dev, directory=ROOT)
    finally:
        unmount(root / "proc")
    assert (said.out, said.code) == ("lasting True\nmemory\n", 0), said


def test_environment_variable_for_test_runs_accepts_layers_but_not_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(LAYERS, "accepted")
    for lifetime, refused in ((Lifetime.LAYER, False), (Lifetime.MEMORY, True)):
        monkeypatch.setattr("backends.mounts.unfit.lifetime_of", lambda path, lifetime=lifetime: lifetime)
        why = place_at(f"{tmp_path.as_uri()}/b").why_unwritable
        if refused:
            assert why() is not None
        else:
            with pytest.raises(Exception, match="there is no backup"):
                why()
