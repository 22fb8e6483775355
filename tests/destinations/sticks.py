"""Sticks: image files with real filesystems, on loop devices or served by FUSE, each with a label of its own."""

import os
import secrets
import signal
import subprocess
import threading
from pathlib import Path

import psutil

from tests.destinations.tools import need, run, start, unmount, wait_until

_FUSEFAT_SEEK = Path(__file__).with_name("fusefat_seek.c")

_LIFE = 200.0
"""Seconds after its last use when a FUSE process is killed: one that hangs must not hang the test run."""


class Stick:
    """One stick with its filesystem. `plug` and `pull` may be called in any order, with any mount point."""

    kind = ""
    megabytes = 400
    programs: tuple[str, ...] = ()

    def __init__(self, directory: Path, label: str = "") -> None:
        need("losetup", *self.programs)
        self.label = label or f"{self.kind[:4]}{secrets.token_hex(3)}".upper()
        self.image = directory / f"{self.kind}-{secrets.token_hex(3)}.img"
        self.point = directory / f"mounted-{self.image.stem}"
        with self.image.open("wb") as file:
            file.truncate(self.megabytes << 20)
        self.device = ""
        self.format()

    def url(self, path: str = "lightning.bkp") -> str:
        """A URL that names the stick by its label."""
        return f"usb://{self.label}/{path}"

    def format(self) -> None:
        """Make the filesystem."""

    def plug(self, point: Path | None = None) -> "Stick":
        """Attach and mount it, at its last mount point or at another."""
        self.point = point or self.point
        self.point.mkdir(exist_ok=True)
        self.attach()
        self.mount()
        return self

    def attach(self) -> None:
        """Plug it in without mounting it."""
        self.device = self.device or run("losetup", "-f", "--show", self.image)

    def mount(self) -> None:
        """Mount it, writable."""
        run("mount", self.device, self.point)

    def used(self) -> None:
        """Called when a test begins to use it."""

    @property
    def alive(self) -> bool:
        """Whether it can be used."""
        return True

    def remount_read_only(self) -> None:
        """What Linux does when it finds an error."""
        run("mount", "-o", "remount,ro", self.point)

    def pull(self) -> None:
        """Pull it out, cleanly unmounted or not; nobody may have a file open on it."""
        self.discard()
        wait_until(lambda: str(self.image) not in run("losetup", "-a"), f"free loop device {self.device}")
        self.device = ""

    def discard(self) -> None:
        """Unmount and detach it as soon as nobody has a file open on it."""
        unmount(self.point)
        if self.device:
            subprocess.run(["losetup", "-d", self.device], capture_output=True, check=False)


class Ext4(Stick):
    """A stick formatted on Linux."""

    kind, programs = "ext4", ("mkfs.ext4",)

    def format(self) -> None:
        run("mkfs.ext4", "-q", "-e", "remount-ro", "-L", self.label, self.image)

    def give_errors(self) -> None:
        """Trigger an error: from now on it is read-only, as after one that Linux has found."""
        Path(f"/sys/fs/ext4/{Path(self.device).name}/trigger_fs_error").write_text("a test")


class Btrfs(Stick):
    """A filesystem whose mounts have no device number of their own."""

    kind, programs, megabytes = "btrfs", ("mkfs.btrfs",), 500

    def format(self) -> None:
        run("mkfs.btrfs", "-q", "-L", self.label, self.image)


class _Fuse(Stick):
    """A stick served by a FUSE process, which can die."""

    process: "psutil.Process | None" = None
    _timer: threading.Timer | None = None

    def serve(self) -> None:
        """Start the process; mounted when this returns."""

    def mount(self) -> None:
        self.serve()
        wait_until(lambda: os.path.ismount(self.point), f"mount of {self.kind}")
        served = [each for each in psutil.process_iter(["cmdline"]) if str(self.point) in (each.info["cmdline"] or [])]
        self.process = served[0]
        self.used()

    def used(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(_LIFE, self.kill)
        self._timer.daemon = True
        self._timer.start()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.is_running()

    def kill(self) -> None:
        """Kill the process, as if the stick were pulled out: every call fails from now on."""
        process, self.process = self.process, None
        if process is not None and process.is_running():
            process.send_signal(signal.SIGKILL)

    def hang(self) -> None:
        """Freeze the process: every call waits."""
        assert self.process is not None
        self.process.suspend()

    def discard(self) -> None:
        unmount(self.point)
        self.kill()
        super().discard()


class ExFat(_Fuse):
    """exFAT, with which sticks and cards are sold."""

    kind, programs = "exfat", ("mkfs.exfat", "mount.exfat-fuse")

    def format(self) -> None:
        run("mkfs.exfat", "-L", self.label, self.image)

    def serve(self) -> None:
        run("mount.exfat-fuse", self.device, self.point)


class Fat(_Fuse):
    """FAT32, served by a small FUSE program that knows a part of it, with one of its bugs fixed (fusefat_seek.c)."""

    kind, programs, megabytes = "fat", ("mkfs.vfat", "fusefat", "gcc"), 400

    def format(self) -> None:
        run("mkfs.vfat", "-F", "32", "-n", self.label, self.image)

    def attach(self) -> None:
        """It is served from the image itself."""

    def serve(self) -> None:
        fixed = self.image.with_suffix(".so")
        run("gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", fixed, _FUSEFAT_SEEK)
        # -s: one thread; with several, their accesses collide.
        options = f"rw+,fsname={self.image}"
        start("env", f"LD_PRELOAD={fixed}", "fusefat", "-s", "-f", "-o", options, self.image, self.point)


STICKS: dict[str, type[Stick]] = {"ext4": Ext4, "btrfs": Btrfs, "exfat": ExFat, "fat": Fat}
