"""Reads a filesystem's label and UUID from the device itself, for machines without udev, such as containers."""

import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Names:
    """A filesystem's kind, label and UUID; None where it has no label or UUID."""

    kind: str
    label: str | None
    uuid: str | None


def read_names(device: Path) -> Names | None:
    """The names of the filesystem on a device; None if its kind is unknown here or the device may not be read."""
    try:
        with device.open("rb") as file:
            for look in _LOOKS:
                found = look(file)
                if found is not None:
                    return found
    except (OSError, ValueError, OverflowError, struct.error):
        pass
    return None


def _at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    data = file.read(length)
    if len(data) < length:
        raise ValueError("the device ends too early")
    return data


def _text(data: bytes) -> str | None:
    return data.split(b"\0")[0].decode(errors="replace").rstrip(" ") or None


def _serial(number: int) -> str:
    return f"{number >> 16:04X}-{number & 0xFFFF:04X}"


def _ext(file: BinaryIO) -> Names | None:
    block = _at(file, 1024, 256)
    if block[56:58] != b"\x53\xef":
        return None
    return Names("ext4", _text(block[120:136]), str(uuid.UUID(bytes=block[104:120])))


def _btrfs(file: BinaryIO) -> Names | None:
    block = _at(file, 65536, 1024)
    if block[64:72] != b"_BHRfS_M":
        return None
    return Names("btrfs", _text(block[299:555]), str(uuid.UUID(bytes=block[32:48])))


def _xfs(file: BinaryIO) -> Names | None:
    block = _at(file, 0, 512)
    if block[:4] != b"XFSB":
        return None
    return Names("xfs", _text(block[108:120]), str(uuid.UUID(bytes=block[32:48])))


def _exfat(file: BinaryIO) -> Names | None:
    boot = _at(file, 0, 512)
    if boot[3:11] != b"EXFAT   ":
        return None
    heap, root, serial = struct.unpack_from("<I4xI", boot, 88) + struct.unpack_from("<I", boot, 100)
    if not 9 <= boot[108] <= 12 or boot[108] + boot[109] > 25 or root < 2:  # no valid filesystem has these values
        return None
    sector, cluster = 1 << boot[108], 1 << (boot[108] + boot[109])
    entries = _at(file, heap * sector + (root - 2) * cluster, min(cluster, 1 << 16))
    label = None
    for start in range(0, len(entries), 32):
        if entries[start] == 0x83:
            label = entries[start + 2 : start + 2 + 2 * min(11, entries[start + 1])].decode("utf-16-le")
            break
    return Names("exfat", label or None, _serial(serial))


def _fat(file: BinaryIO) -> Names | None:
    boot = _at(file, 0, 512)
    if boot[82:87] == b"FAT32":
        start = 67
    elif boot[54:58] == b"FAT1":
        start = 39
    else:
        return None
    (serial,) = struct.unpack_from("<I", boot, start)
    label = _text(boot[start + 4 : start + 15])
    return Names("vfat", None if label == "NO NAME" else label, _serial(serial))


_LOOKS: tuple[Callable[[BinaryIO], Names | None], ...] = (_exfat, _fat, _xfs, _ext, _btrfs)
