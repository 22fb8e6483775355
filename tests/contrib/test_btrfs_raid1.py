"""The mirrored backup disk, on two loop devices: set up, damaged, repaired; one half gone, and back."""

import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from backup_cli.main import cli
from tests.destinations.tools import wait_until
from tests.fake_lightningd import RECORDED_DATABASE

SCRIPTS = Path(__file__).parents[2] / "contrib" / "btrfs-raid1"
MIB = 1 << 20


def run(*words: object, **options: str) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **options},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def why_not() -> str | None:
    if os.geteuid() != 0:
        return "only root may make filesystems"
    missing = [tool for tool in ("mkfs.btrfs", "btrfs", "losetup", "wipefs", "lsblk") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} missing (Debian: btrfs-progs)"
    found = subprocess.run(["losetup", "-f"], capture_output=True)
    if found.returncode != 0:
        return "there are no loop devices here"
    filesystems = Path("/proc/filesystems").read_text()
    if "btrfs" not in filesystems and subprocess.run(["modprobe", "btrfs"], capture_output=True).returncode != 0:
        return "this kernel has no btrfs"
    return None


WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


class Mirror:
    """Two disks in image files, and the filesystem mounted from them."""

    def __init__(self, directory: Path) -> None:
        self.images = [directory / "one.img", directory / "two.img"]
        self.mountpoint, self.fstab = directory / "mnt", directory / "fstab"
        self.fstab.write_text("# nothing yet\n")
        self.loops: list[str | None] = [None, None]
        for number, image in enumerate(self.images):
            with image.open("wb") as file:
                file.truncate(256 * MIB)
            self.plug_in(number)

    def plug_in(self, number: int) -> None:
        self.loops[number] = run("losetup", "-f", "--show", self.images[number]).strip()

    def pull_out(self, number: int) -> None:
        """Detach a disk of an unmounted filesystem. The kernel must forget the disk, or it will look for it."""
        run("btrfs", "device", "scan", "--forget", self.loops[number])  # not those that other tests make just now
        run("losetup", "-d", self.loops[number])
        self.loops[number] = None

    def setup(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPTS / "setup.sh", "--owner", "root", *options, *map(str, self.loops), self.mountpoint],
            env={**os.environ, "FSTAB": str(self.fstab)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def maintain(self) -> tuple[int, str]:
        """Run maintain.sh with the rights that its unit leaves to root."""
        unit = (SCRIPTS.parent / "systemd" / "backup-disk@.service").read_text()
        (kept,) = re.findall("^CapabilityBoundingSet=(.+)$", unit, re.M)
        bounds = ",".join(["-all", *(f"+{name.lower().removeprefix('cap_')}" for name in kept.split())])
        command = ["setpriv", "--no-new-privs", "--bounding-set", bounds, str(SCRIPTS / "maintain.sh")]
        command.append(str(self.mountpoint))
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr

    def mount(self, *options: str) -> None:
        run("btrfs", "device", "scan", *(loop for loop in self.loops if loop))
        run("mount", *options, next(loop for loop in self.loops if loop), self.mountpoint)

    def unmount(self) -> None:
        run("umount", self.mountpoint)
        # A mount namespace that another test begins meanwhile may have it for a moment longer.
        names = [Path(loop).name for loop in self.loops if loop]
        kernels = Path("/sys/fs/btrfs")
        wait_until(lambda: not any(found for name in names for found in kernels.glob(f"*/devices/{name}")), "umount")

    def damage(self, number: int) -> None:
        """Overwrite everything on this disk except the first mebibyte with the superblock."""
        loop = self.loops[number]
        run("dd", "if=/dev/urandom", f"of={loop}", "bs=1M", "seek=1", "count=255", "conv=notrunc,fsync")

    def close(self) -> None:
        subprocess.run(["umount", self.mountpoint], capture_output=True)
        for loop in self.loops:
            if loop is not None:
                subprocess.run(["losetup", "-d", loop], capture_output=True)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    made = Mirror(tmp_path)
    try:
        yield made
    finally:
        made.close()


def make_backup(mirror: Mirror, directory: Path) -> str:
    node = directory / "bitcoin"
    node.mkdir()
    (node / "lightningd.sqlite3").write_bytes(gzip.decompress(RECORDED_DATABASE.read_bytes()))
    url = f"file://{mirror.mountpoint}/lightning.bkp"
    done = CliRunner().invoke(cli, ["init", "--lightning-dir", str(node), url])
    assert done.exit_code == 0 and "same disk" not in done.output, done.output
    return url


def verify(url: str) -> int:
    return CliRunner().invoke(cli, ["verify", url]).exit_code


def test_damaged_mirror_is_healed_by_maintain_and_readable_meanwhile(mirror: Mirror, tmp_path: Path) -> None:
    done = mirror.setup()
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^UUID=\S+ {mirror.mountpoint} btrfs \S*nofail\S* 0 0$", mirror.fstab.read_text(), re.M)
    assert mirror.mountpoint.stat().st_mode & 0o777 == 0o700
    os.chown(mirror.mountpoint, 65534, 65534)  # the node's user; root without all its rights may not look in
    url = make_backup(mirror, tmp_path)
    code, said = mirror.maintain()
    assert (code, said.splitlines()[-1]) == (0, "all is well"), said

    mirror.unmount()
    mirror.damage(1)
    mirror.mount()
    assert verify(url) == 0  # read from the other half
    code, said = mirror.maintain()
    assert code == 1 and "blocks were wrong on one disk and have been repaired" in said
    assert "have a look at that disk" in said and "corruption_errs" in said
    code, said = mirror.maintain()
    assert (code, said.splitlines()[-1]) == (0, "all is well"), said

    mirror.unmount()
    mirror.damage(0)  # now the first half must be able to live from the repaired one
    mirror.mount()
    assert verify(url) == 0


def test_data_damaged_on_both_disks_is_reported_as_lost(mirror: Mirror) -> None:
    assert mirror.setup().returncode == 0
    content = os.urandom(4096)
    (mirror.mountpoint / "only copy").write_bytes(content * 32)
    mirror.unmount()
    for image in mirror.images:
        data = image.read_bytes()
        assert content in data
        with image.open("r+b") as file:
            file.seek(data.index(content) + 4096)
            file.write(b"\xa5" * 4096)
            os.fsync(file.fileno())
    for loop in mirror.loops:
        run("blockdev", "--flushbufs", loop)
    mirror.mount()
    code, said = mirror.maintain()
    assert code == 2 and "there are blocks that no disk has whole: run backup-cli verify now" in said, said


def test_mirror_with_one_disk_away_works_and_is_repaired_when_it_is_back(mirror: Mirror, tmp_path: Path) -> None:
    assert mirror.setup().returncode == 0
    url = make_backup(mirror, tmp_path)
    mirror.unmount()
    mirror.pull_out(1)
    mirror.mount("-o", "degraded")
    assert verify(url) == 0
    assert CliRunner().invoke(cli, ["drill", f"file://{mirror.mountpoint}"]).exit_code == 0
    (mirror.mountpoint / "written-meanwhile").write_bytes(os.urandom(8 * MIB))
    code, said = mirror.maintain()
    assert code == 2 and "one of the disks is missing" in said, said

    mirror.unmount()
    mirror.plug_in(1)
    mirror.mount()
    code, said = mirror.maintain()
    assert code == 1, said  # what was written meanwhile is on both now
    code, said2 = mirror.maintain()
    print(said, said2)
    assert code == 0
    assert verify(url) == 0


def test_setup_refuses_unsuitable_disks_and_touches_nothing(mirror: Mirror, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", mirror.loops[1])
    before = [image.read_bytes()[: 8 * MIB] for image in mirror.images]

    def refused(done: "subprocess.CompletedProcess[str]", word: str) -> None:
        assert done.returncode == 1 and word in done.stderr, done.stderr

    refused(mirror.setup(), "add --wipe")
    refused(mirror.setup("--nonsense"), "no option --nonsense")
    refused(mirror.setup("--owner", "nobody-at-all"), "no user nobody-at-all")
    mirror.mountpoint.mkdir()
    (mirror.mountpoint / "something").touch()
    refused(mirror.setup("--wipe"), "is not empty")
    (mirror.mountpoint / "something").unlink()
    mirror.fstab.write_text(f"UUID=x {mirror.mountpoint} ext4 defaults 0 0\n")
    refused(mirror.setup("--wipe"), "has a line for")
    mirror.fstab.write_text("")
    second, mirror.loops[1] = mirror.loops[1], mirror.loops[0]
    refused(mirror.setup(), "same device twice")
    mirror.loops[1] = str(tmp_path / "nothing")
    refused(mirror.setup(), "is not a disk")
    mirror.loops[1] = second
    assert [image.read_bytes()[: 8 * MIB] for image in mirror.images] == before
    assert mirror.setup("--wipe").returncode == 0
    refused(mirror.setup("--wipe"), "in use already")


def test_mountpoint_below_another_users_directory_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    """The directory's owner could replace it by a link while root makes a filesystem, and chown would follow that
    link."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    mirror.mountpoint = theirs / "below" / "mnt"
    mirror.mountpoint.parent.mkdir()
    for owner, mode in ((65534, 0o755), (0, 0o777)):
        os.chown(theirs, owner, owner)
        theirs.chmod(mode)
        done = mirror.setup()
        assert done.returncode == 1 and f"{theirs} does not belong to root alone" in done.stderr, done.stderr
        mirror.mountpoint.mkdir()
        code, said = mirror.maintain()
        assert code == 2 and f"{theirs}, on the way to {mirror.mountpoint}, does not belong to root alone" in said
        mirror.mountpoint.rmdir()
    assert all(not image.read_bytes().strip(b"\0") for image in mirror.images)


@pytest.mark.parametrize("name", ["with blank", "new\nline /etc", "$(id)"])
def test_mountpoint_that_would_break_fstab_is_refused(mirror: Mirror, tmp_path: Path, name: str) -> None:
    mirror.mountpoint = tmp_path / name
    done = mirror.setup()
    assert done.returncode == 1 and "has other characters" in done.stderr
    assert mirror.fstab.read_text() == "# nothing yet\n" and not mirror.mountpoint.exists()


def test_maintain_without_a_mounted_btrfs_exits_2(tmp_path: Path) -> None:
    done = subprocess.run([SCRIPTS / "maintain.sh", tmp_path], capture_output=True, text=True)
    assert done.returncode == 2 and "no btrfs is mounted" in done.stderr
