"""The filesystems on this machine's block devices: what they are called, where they are mounted, and on which disk.

Their names come from udev if it runs (its database, its links under /dev/disk), otherwise from the devices themselves.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from backends.mounts.superblock import Names, read_names
from backends.mounts.table import Mount, mount_of, mounts
from backends.text import printable

LINKS = Path("/dev/disk")
UDEV = Path("/run/udev/data")
BLOCK_DEVICES = Path("/sys/class/block")
DEVICE_NUMBERS = Path("/sys/dev/block")

_ESCAPED = re.compile(r"\\x([0-9a-fA-F]{2})")


@dataclass(frozen=True, slots=True)
class Volume:
    """One filesystem on a block device. If `mounts` is empty, it is plugged in, but not mounted."""

    device: str
    names: Names
    mounts: tuple[Mount, ...]

    def is_called(self, name: str) -> bool:
        """Whether `name` is the label or UUID. A UUID may be typed in any case (FAT and exFAT have it in capitals)."""
        return self.names.label == name or (self.names.uuid or "").lower() == name.lower()

    def describe(self) -> str:
        """The filesystem in words for a person: label, device, kind and UUID."""
        label = f"'{printable(self.names.label)}' " if self.names.label else ""
        return f"{label}on {printable(self.device)} ({printable(self.names.kind)}, UUID {printable(self.names.uuid)})"


def volumes() -> list[Volume]:
    """Every filesystem on a block device (or on an image that a FUSE filesystem serves), mounted or not."""
    mounted: dict[str, list[Mount]] = {}
    for mount in mounts():
        if mount.source.startswith("/"):
            mounted.setdefault(os.path.realpath(mount.source), []).append(mount)
    links = _links()
    found = []
    for device in sorted({*mounted, *links, *_block_devices()}):
        names = _names(Path(device), links)
        if names is not None:
            found.append(Volume(device, names, tuple(mounted.get(device, ()))))
    return _together(found)


def dead_mounts() -> list[Mount]:
    """Mounts whose device is gone, because it was pulled out without being unmounted."""
    return [
        mount
        for mount in mounts()
        if mount.source.startswith("/dev/") and mount.device[0] != 0 and not _alive(mount)
    ]  # fmt: skip


def disks_of(path: Path) -> frozenset[str]:
    """The kernel names of the whole disks that hold a path's filesystem; empty if no disk does."""
    mount = mount_of(path)
    number = mount.device
    if number[0] == 0:  # btrfs and some FUSE filesystems show no real device number
        try:
            device = Path(mount.source).stat().st_rdev
        except OSError:
            return frozenset()
        number = (os.major(device), os.minor(device))
    return _disks(DEVICE_NUMBERS / f"{number[0]}:{number[1]}") if number[0] else frozenset()


def _disks(device: Path) -> frozenset[str]:
    device = Path(os.path.realpath(device))
    below = device / "slaves"
    if below.is_dir() and any(below.iterdir()):  # encrypted, or several disks combined
        return frozenset().union(*(_disks(each) for each in below.iterdir()))
    if not device.exists():
        return frozenset()
    return frozenset({device.parent.name if (device / "partition").exists() else device.name})


def _alive(mount: Mount) -> bool:
    return Path(mount.source).exists() and (DEVICE_NUMBERS / f"{mount.device[0]}:{mount.device[1]}").exists()


def _block_devices() -> Iterable[str]:
    try:
        return [f"/dev/{entry.name.replace('!', '/')}" for entry in BLOCK_DEVICES.iterdir()]
    except OSError:
        return []


def _links() -> dict[str, Names]:
    """The names that udev's links give to each device, as in /dev/disk/by-label/STICK -> ../../sdb1."""
    found: dict[str, Names] = {}
    for by, field in (("by-label", "label"), ("by-uuid", "uuid")):
        with suppress(OSError):
            for link in (LINKS / by).iterdir():
                device = os.path.realpath(link)
                before = found.get(device, Names("unknown", None, None))
                found[device] = replace(before, **{field: _unescaped(link.name)})
    return found


def _names(device: Path, links: dict[str, Names]) -> Names | None:
    database = _from_udev(device)
    if database is not None:
        return database
    if str(device) in links:
        return links[str(device)]
    return read_names(device)


def _from_udev(device: Path) -> Names | None:
    """The device's names in udev's database. Unlike the links, it has both of two sticks with the same name."""
    try:
        number = device.stat().st_rdev
        lines = (UDEV / f"b{os.major(number)}:{os.minor(number)}").read_text(errors="replace").splitlines()
    except OSError:
        return None
    fields = dict(line[2:].partition("=")[::2] for line in lines if line.startswith("E:"))
    if fields.get("ID_FS_USAGE") != "filesystem":
        return None
    label, uuid = (fields.get(name) for name in ("ID_FS_LABEL_ENC", "ID_FS_UUID_ENC"))
    return Names(
        fields.get("ID_FS_TYPE", "unknown"), _unescaped(label) if label else None, _unescaped(uuid) if uuid else None
    )


def _unescaped(name: str) -> str:
    """Decode a name in which udev wrote characters that are not allowed in a file name as \\xHH."""
    text = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), name)
    with suppress(UnicodeError):
        return text.encode("latin-1").decode()
    return text


def _together(found: list[Volume]) -> list[Volume]:
    """Merge the volumes that are devices of the same btrfs filesystem."""
    result: list[Volume] = []
    for volume in found:
        same = [
            at
            for at, other in enumerate(result)
            if volume.names.kind == other.names.kind == "btrfs" and volume.names.uuid == other.names.uuid
        ]
        if same:
            before = result[same[0]]
            result[same[0]] = replace(before, mounts=before.mounts + volume.mounts)
        else:
            result.append(volume)
    return result
