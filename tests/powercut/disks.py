"""The machine's disks: images with filesystems, mounted as they are or through the recorder."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).with_name("recorder.c")


@dataclass(frozen=True, slots=True)
class Filesystem:
    """How a filesystem is made and mounted; `megabytes` leaves the plugin the free space that a compaction needs.

    `repair` is the command that a boot runs when it cannot be mounted.
    """

    name: str
    make: tuple[str, ...]
    megabytes: int
    options: tuple[str, ...] = ()
    repair: tuple[str, ...] = ()


FILESYSTEMS = {
    each.name: each
    for each in (
        Filesystem("ext4", ("mkfs.ext4", "-q", "-F"), 160, repair=("e2fsck", "-y")),
        Filesystem("xfs", ("mkfs.xfs", "-q", "-f"), 400, ("nouuid",)),
        Filesystem("btrfs", ("mkfs.btrfs", "-q", "-f"), 512),
    )
}


class Unavailable(Exception):
    """This machine lacks something that a simulated power cut needs."""


class Unmountable(Exception):
    """A filesystem that did not survive the cut itself: its superblock may be larger than a sector, and then torn."""


def check_available(filesystems: Sequence[str]) -> None:
    """Raise Unavailable unless power can be cut under these filesystems on this machine."""
    programs = ["gcc", "pkg-config", "losetup", "unshare", *(FILESYSTEMS[name].make[0] for name in filesystems)]
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    if os.geteuid() != 0:
        raise Unavailable("needs root, for filesystems on disks whose power is cut")
    missing += [device for device in ("/dev/fuse", "/dev/loop-control") if not Path(device).exists()]
    known = Path("/proc/filesystems").read_text().split()
    missing += [f"{name} in this kernel" for name in filesystems if name not in known]
    if not missing and subprocess.run(["pkg-config", "--exists", "fuse3"], check=False).returncode:
        missing.append("libfuse3-dev")
    if missing:
        raise Unavailable(f"{', '.join(missing)} missing: install what .ci/install installs")


def build_recorder(directory: Path) -> Path:
    """Compile the recorder, which takes half a second; returns the program."""
    program = directory / "recorder"
    flags = _run("pkg-config", "--cflags", "--libs", "fuse3").split()
    _run("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, _SOURCE, *flags)
    return program


def make_image(path: Path, filesystem: Filesystem) -> Path:
    """An empty filesystem in a new, sparse file."""
    with path.open("wb") as file:
        file.truncate(filesystem.megabytes << 20)
    _run(*filesystem.make, path)
    return path


@contextmanager
def mounted(source: Path, point: Path, filesystem: Filesystem) -> Iterator[None]:
    """Mount an image (or what the recorder shows of it) here, replaying its journal as after any crash.

    The loop device goes away with the mount.
    """
    point.mkdir(parents=True, exist_ok=True)
    try:  # an interrupted mount may have succeeded
        _mount(source, point, filesystem)
        yield
    finally:
        _unmount(point)


def _mount(source: Path, point: Path, filesystem: Filesystem) -> None:
    words = ("mount", "-t", filesystem.name, "-o", ",".join(("loop", *filesystem.options)), source, point)
    try:
        _run(*words)
    except Failed:
        try:
            if filesystem.repair:
                with suppress(Failed):  # it ends with 1 when it has corrected something
                    _run(*filesystem.repair, source)
            _run(*words)
        except Failed as error:
            raise Unmountable(str(error)) from error


class Recorder:
    """The disks behind these images, recorded into `log` until the end of the `with` block."""

    def __init__(self, program: Path, images: Sequence[Path], log: Path, point: Path) -> None:
        self._command = [program, point, log, *images]
        self._point = point
        self._stack = ExitStack()

    def __enter__(self) -> "Recorder":
        with ExitStack() as stack:
            self._point.mkdir(parents=True, exist_ok=True)
            process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, start_new_session=True)
            stack.callback(_end, process)
            stack.callback(_unmount, self._point)
            until = time.monotonic() + 10
            while not (self._point / "mark").exists():
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the recorder of the disks did not start ({process.returncode})")
                time.sleep(0.01)
            self._mark = os.open(self._point / "mark", os.O_WRONLY)
            stack.callback(os.close, self._mark)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def disk(self, number: int) -> Path:
        """The file to mount for the disk of this image."""
        return self._point / str(number)

    def mark(self, **what: Any) -> None:
        """Write a mark into the record at this moment."""
        os.write(self._mark, json.dumps(what).encode())


def _end(process: "subprocess.Popen[bytes]") -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(3)  # it ends by itself when it is unmounted
    process.kill()
    process.wait()


def _unmount(point: Path) -> None:
    """Try for a while, as a process may still be about to end; then detach the mount lazily."""
    for _ in range(50):
        if not os.path.ismount(point):
            return
        if subprocess.run(["umount", point], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "-l", point], capture_output=True, check=False)


class Failed(Exception):
    """A program ended with an error; the text is its output."""


def _run(*words: object) -> str:
    """Run a program; returns its stdout. Failed if it fails."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True, text=True, timeout=120, check=False, env=os.environ | {"PATH": path},
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"{' '.join(map(str, words))}: {done.stdout} {done.stderr}")
    return done.stdout
