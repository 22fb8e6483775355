"""A slow disk, for measuring: a block device with one queue, its own bandwidth, and a price for each flush.

Linux cannot make a fast disk flush slowly without modules that few kernels have. So the disk is a loop device on the
one file of a FUSE filesystem, and a process here answers for that file, one request after the other, as slowly as a USB
stick would. Everything above it (ext4, its journal, write-back, the block layer) is the real thing. As root; needs
/dev/fuse, losetup and mkfs.ext4.
"""

import contextlib
import ctypes
import errno
import multiprocessing
import os
import stat
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

_LOOKUP, _GETATTR, _OPEN, _READ, _WRITE, _FSYNC, _FLUSH, _RELEASE, _INIT = 1, 3, 14, 15, 16, 20, 25, 18, 26
_FORGET, _BATCH_FORGET, _INTERRUPT, _ACCESS = 2, 42, 36, 34
_UNANSWERED = (_FORGET, _BATCH_FORGET, _INTERRUPT)
_REQUEST = struct.Struct("<IIQQIIIHH")
_ANSWER = struct.Struct("<IiQ")
_AT = struct.Struct("<QQI")  # file handle, offset, length: how the arguments of a read and a write begin
_WRITE_ARGUMENTS = 40
_MAX_WRITE = 1 << 20
_MAX_PAGES_FLAG = 1 << 22
_ASYNC_READ_FLAG = 1


@dataclass(frozen=True, slots=True)
class Speed:
    """How slow the disk is."""

    bandwidth: float = 15e6
    """Bytes a second that are written."""
    flush: float = 0.005
    """Seconds that each flush takes, whatever was written before it."""


class SlowDisk:
    """An ext4 filesystem at `point` on a disk that is as fast as the machine's own until `slow` is called."""

    def __init__(self, point: Path, throttled: "Synchronized[int]") -> None:
        self.point = point
        self._throttled = throttled

    def slow(self, *, throttled: bool = True) -> None:
        """From now on, the disk is slow (or fast again)."""
        self._throttled.value = int(throttled)


@contextmanager
def slow_disk(directory: Path, size: int, speed: Speed) -> Iterator[SlowDisk]:
    """Make a disk of `size` bytes, with an image and mount points in `directory`."""
    image, front, point = directory / "slow.img", directory / "slow.disk", directory / "slow"
    with ExitStack() as undo:
        with image.open("wb") as file:
            file.truncate(size)
        undo.callback(image.unlink)
        front.touch()
        point.mkdir()
        fuse = os.open("/dev/fuse", os.O_RDWR)
        throttled = multiprocessing.get_context("fork").Value("i", 0)
        server = multiprocessing.get_context("fork").Process(
            target=_serve, args=(fuse, image, size, speed, throttled), daemon=True
        )
        undo.callback(_join, server)
        _mount_file(fuse, front)
        undo.callback(_run, "umount", "--lazy", front)
        server.start()
        os.close(fuse)  # the process has its own; when it ends, the filesystem does
        device = _run("losetup", "--direct-io=on", "-f", "--show", front)
        undo.callback(_run, "losetup", "-d", device)
        # The filesystem must not finish its own initialisation while it is measured.
        _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
        _run("mount", device, point)
        undo.callback(_run, "umount", point)
        disk = SlowDisk(point, throttled)
        undo.callback(disk.slow, throttled=False)
        yield disk


def _join(server: BaseProcess) -> None:
    """Wait for the process, if it was started, to end: its filesystem has been unmounted."""
    if server.is_alive():
        server.join(10)


def _mount_file(fuse: int, front: Path) -> None:
    """Mount a FUSE filesystem whose root is a plain file onto the file `front`. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fuse},rootmode={stat.S_IFREG | 0o600:o},user_id=0,group_id=0,max_read={_MAX_WRITE}"
    if libc.mount(b"slow-disk", os.fsencode(front), b"fuse", 0, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(front))


def _serve(fuse: int, image: Path, size: int, speed: Speed, throttled: "Synchronized[int]") -> None:
    """Answer the kernel's requests until it unmounts the filesystem."""
    with contextlib.suppress(OSError):  # a disk is not slower because the machine is busy
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(10))
    disk = os.open(image, os.O_RDWR)
    answers = _Answers(disk, size, speed, throttled)
    while True:
        try:
            request = os.read(fuse, _MAX_WRITE + (1 << 12))
        except OSError as error:
            if error.errno == errno.ENODEV:
                os._exit(0)
            if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                continue
            raise
        _, opcode, unique, *_ = _REQUEST.unpack_from(request)
        if opcode in _UNANSWERED:
            continue
        failed, payload = answers.to(opcode, request[_REQUEST.size :])
        with contextlib.suppress(FileNotFoundError):  # it was interrupted
            os.write(fuse, _ANSWER.pack(_ANSWER.size + len(payload), -failed, unique) + payload)


class _Answers:
    def __init__(self, disk: int, size: int, speed: Speed, throttled: "Synchronized[int]") -> None:
        self._disk, self._size, self._speed, self._throttled = disk, size, speed, throttled
        self._known: dict[int, Callable[[bytes], bytes]] = {
            _INIT: self._init,
            _GETATTR: lambda _: struct.pack("<QII", 3600, 0, 0) + self._attributes(),
            _OPEN: lambda _: struct.pack("<QII", 1, 0, 0),
            _READ: self._read,
            _WRITE: self._write,
            _FSYNC: self._sync,
            _FLUSH: lambda _: b"",
            _RELEASE: lambda _: b"",
            _ACCESS: lambda _: b"",
        }

    def to(self, opcode: int, arguments: bytes) -> tuple[int, bytes]:
        """The error number and the payload of the answer."""
        known = self._known.get(opcode)
        return (errno.ENOSYS, b"") if known is None else (0, known(arguments))

    def _init(self, _: bytes) -> bytes:
        pages = _MAX_WRITE // 4096
        flags = _MAX_PAGES_FLAG | _ASYNC_READ_FLAG
        return struct.pack("<IIIIHHIIHHI28x", 7, 31, 1 << 20, flags, 64, 48, _MAX_WRITE, 1, pages, 0, 0)

    def _attributes(self) -> bytes:
        blocks = self._size // 512
        return struct.pack("<QQQQQQIIIIIIIIII", 1, self._size, blocks, 0, 0, 0, 0, 0, 0,
                           stat.S_IFREG | 0o600, 1, 0, 0, 0, 4096, 0)  # fmt: skip

    def _read(self, arguments: bytes) -> bytes:
        _, offset, length = _AT.unpack_from(arguments)
        return os.pread(self._disk, length, offset)

    def _write(self, arguments: bytes) -> bytes:
        _, offset, length = _AT.unpack_from(arguments)
        os.pwrite(self._disk, arguments[_WRITE_ARGUMENTS : _WRITE_ARGUMENTS + length], offset)
        self._take(length / self._speed.bandwidth)
        return struct.pack("<II", length, 0)

    def _sync(self, _: bytes) -> bytes:
        self._take(self._speed.flush)
        return b""

    def _take(self, seconds: float) -> None:
        if self._throttled.value:
            time.sleep(seconds)


def _run(*words: str | Path) -> str:
    """Run a program and return its stdout, stripped. Raises CalledProcessError if it fails."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
