"""Finds a removable filesystem by its label or UUID, wherever it is mounted."""

import os

from backends.errors import Unreachable
from backends.mounts.table import Mount
from backends.mounts.volumes import Volume, dead_mounts, volumes
from backends.text import printable, shell_line
from backends.urls import quote


def _shown(name: str) -> str:
    return f"'{printable(name)}'"


def find_stick(name: str) -> Mount:
    """Where the stick with this label or UUID is mounted. Raises Unreachable, saying what to do."""
    called = [volume for volume in volumes() if volume.is_called(name)]
    if not called:
        raise _missing(name)
    if len(called) > 1:
        uuids = "; or ".join(volume.describe() for volume in called)
        copies = len({volume.names.uuid for volume in called}) < len(called)
        raise Unreachable(
            f"{len(called)} sticks are called {_shown(name)}: {uuids}. Nothing was written to any of them; pull one out"
            + (
                " (one is a copy of the other, UUID and all)"
                if copies
                else ", or write the UUID of the right one into the URL, like "
                f"usb://{quote(called[0].names.uuid or 'UUID')}/lightning.bkp"
            )
        )
    return _usable(name, called[0])


def _missing(name: str) -> Unreachable:
    dead = dead_mounts()
    if dead:
        places = ", ".join(f"{printable(mount.point)} (it was {printable(mount.source)})" for mount in dead)
        return Unreachable(
            f"the stick {_shown(name)} is not there, and a disk was pulled out while it was mounted at {places}. What "
            f"was saved on it is safe; run: {shell_line('umount', dead[0].point)}, plug it in again, mount it, then "
            "start the node again",
            clause="it was pulled out",
        )
    return Unreachable(
        f"the stick {_shown(name)} is not plugged in: no disk has that label or UUID. What was saved on it is "
        "safe; plug it in, mount it, then try again (backup-cli destinations lists what is there)",
        clause="it is not plugged in",
    )


def _usable(name: str, volume: Volume) -> Mount:
    """The volume's best mount: preferably of the whole filesystem, then a writable one (any will do for reading)."""
    if not volume.mounts:
        raise Unreachable(
            f"the stick {_shown(name)} is plugged in ({printable(volume.device)}), but not mounted. What was saved on "
            f"it is safe; mount it, for instance with: {shell_line('udisksctl', 'mount', '-b', volume.device)}",
            clause="it is plugged in, but not mounted",
        )
    mount = min(volume.mounts, key=lambda each: (each.root != "/", each.read_only))
    try:
        os.statvfs(mount.point)  # asks the filesystem itself; the kernel may cache attributes
    except OSError as error:
        raise Unreachable(
            f"the stick {_shown(name)} was pulled out while it was mounted at {printable(mount.point)} "
            f"({error.strerror}). What was saved on it is safe; run: {shell_line('umount', mount.point)}, plug it in "
            "again, mount it, then start the node again",
            clause="it was pulled out",
        ) from error
    return mount


def read_only(name: str) -> Unreachable:
    """The error for a stick that is mounted read-only."""
    return Unreachable(
        f"the stick {_shown(name)} is mounted read-only: its write-protect switch is on, or Linux found an error on "
        "it. What was saved on it is safe; unmount it, check it with fsck, mount it writable, then start the node "
        "again",
        clause="it is mounted read-only",
    )
