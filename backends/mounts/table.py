"""The mounts that this process sees, read from /proc/self/mountinfo (see proc(5))."""

import errno
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backends.text import printable

MOUNTINFO = Path("/proc/self/mountinfo")

_ESCAPED = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted filesystem.

    `root` is the directory of the filesystem that appears at `point` (for a bind mount it may be other than /).
    `source` is what was mounted: a device, a server's share, or any word.
    """

    ident: int
    device: tuple[int, int]
    root: str
    point: Path
    kind: str
    source: str
    options: frozenset[str]

    @property
    def read_only(self) -> bool:
        """Whether the mount, or (after an error) the whole filesystem, is read-only."""
        return "ro" in self.options

    def describe(self) -> str:
        """The mount in words for a person: source, kind and mount point."""
        return f"{printable(self.source)} ({printable(self.kind)}) at {printable(self.point)}"


def mounts() -> list[Mount]:
    """All mounts; one that covers another comes after it."""
    return [_mount(line) for line in MOUNTINFO.read_bytes().splitlines()]


def mount_of(path: Path) -> Mount:
    """The mount that `path` is on, or would be on once it is made. Raises OSError if that cannot be determined.

    If an automounter mounts the filesystem on demand, this call makes it do so.
    """
    there, ident = _nearest_directory(path)
    table = mounts()
    for mount in reversed(table):
        if mount.ident == ident:
            return mount
    # The mount is not in the table, as in a chroot. Its longest mount point above the path is the best guess.
    above = [mount for mount in table if there == mount.point or mount.point in there.parents]
    return max(above, key=lambda mount: len(mount.point.parts)) if above else _root_of_a_chroot(there)


def mount_at(descriptor: int) -> Mount:
    """The mount that an open file is on. Raises OSError if that cannot be determined."""
    ident = _mount_ident(descriptor)
    for mount in mounts():
        if mount.ident == ident:
            return mount
    raise OSError(errno.ENOENT, "its mount is not visible to this process")


def _nearest_directory(path: Path) -> tuple[Path, int]:
    """The nearest existing directory at or above the path, and the id of its mount (-1 if unknown)."""
    path = Path(os.path.realpath(path))
    for candidate in (path, *path.parents):
        with suppress(FileNotFoundError, NotADirectoryError):
            descriptor = os.open(candidate, os.O_PATH | os.O_DIRECTORY)
            try:
                return candidate, _mount_ident(descriptor)
            finally:
                os.close(descriptor)
    return Path("/"), -1


def _root_of_a_chroot(directory: Path) -> Mount:
    """The mount of a chroot's root that is no mount point itself: of it, only the device can be known."""
    device = directory.stat().st_dev
    numbers = (os.major(device), os.minor(device))
    return Mount(-1, numbers, "/", Path("/"), "unknown", "root of this chroot", frozenset())


def _mount_ident(descriptor: int) -> int:
    for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
        if line.startswith("mnt_id:"):
            return int(line.split(":")[1])
    return -1


def _mount(line: bytes) -> Mount:
    """Parse one line: `id parent major:minor root point options tags... - kind source super-options`."""
    before, _, after = line.partition(b" - ")
    ident, _, device, root, point, options = before.split(b" ")[:6]
    kind, source, super_options = [*after.split(b" "), b"", b""][:3]
    major, _, minor = device.partition(b":")
    return Mount(
        int(ident),
        (int(major), int(minor)),
        _text(root),
        Path(_text(point)),
        _text(kind),
        _text(source),
        frozenset(_text(options).split(",")) | frozenset(_text(super_options).split(",")),
    )


def _text(field: bytes) -> str:
    """Decode a field, in which blanks and the like are written as a backslash and an octal number."""
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), field))
