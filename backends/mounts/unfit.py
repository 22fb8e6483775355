"""Why a path of this machine is unsuitable for a backup, and which path to use instead."""

import os
import stat
from pathlib import Path

from backends.mounts.ephemeral import Lifetime, lifetime_of
from backends.mounts.table import mount_of, mounts
from backends.text import shell_line
from backends.urls import BadURL, quote

EPHEMERAL, ACCEPTED = "ephemeral", "accepted"
"""The URL option, and its value, that accept a container's layer as a destination."""

LAYERS = "LIGHTNINGD_BACKUP_EPHEMERAL"
"""The environment variable that accepts it for all URLs: for a test run in a container, where every directory is in
the container's layer."""


def why_ephemeral(path: Path, url: str, accepted: bool) -> str | None:
    """Why no backup may be kept at `path`, and what to do instead; None if one may.

    `url` is the destination's URL, and `accepted` says whether the URL accepts a container's layer. Raises OSError if
    the path's filesystem cannot be determined.
    """
    lifetime = lifetime_of(path)
    accepted = accepted or os.environ.get(LAYERS) == ACCEPTED
    if lifetime is Lifetime.LASTING or (lifetime is Lifetime.LAYER and accepted):
        return None
    mount = mount_of(path)
    if lifetime is Lifetime.LAYER:
        accept = f"{url}{'&' if '?' in url else '?'}{EPHEMERAL}={ACCEPTED}"
        return (
            f"{path} is on {mount.describe()}, the layer of a container: it is gone with the container. "
            "Give the container a volume on another disk, for instance with docker run -v /mnt/backup:/backup, and "
            f"use file:///backup/lightning.bkp (if you know that this layer is kept: {accept})"
        )
    if mount.point == Path("/dev"):
        return (
            f"{path} is in {mount.describe()}, the list of this machine's devices, which is in memory: "
            f"what is written there is gone when the machine is switched off. {_MOUNT_IT}"
        )
    return (
        f"{path} is on {mount.describe()}, in this machine's memory: what is written there is gone when "
        f"the machine is switched off. {_MOUNT_IT}"
    )


def refuse_device(place: Path) -> None:
    """Raise BadURL if `place` is a disk's device or a path below one: the filesystem on the disk must be named."""
    for path in (place, *place.parents):
        try:
            mode = path.stat().st_mode
        except OSError:
            continue
        if not stat.S_ISBLK(mode):
            continue
        name = "/".join(place.relative_to(path).parts) or "lightning.bkp"
        device = os.path.realpath(path)
        points = [each.point for each in mounts() if os.path.realpath(each.source) == device and each.root == "/"]
        if points:
            raise BadURL(
                f"{path} is a disk's device, but a backup is a directory on the disk's filesystem. Nothing was "
                f"changed; that filesystem is mounted at {points[0]}, so use: file://{quote(str(points[0] / name))}"
            )
        raise BadURL(
            f"{path} is a disk's device, but a backup is a directory on the disk's filesystem. Nothing was changed; "
            f"mount it, for instance with: {shell_line('mount', path, '/mnt/backup')}, and use: "
            f"file:///mnt/backup/{quote(name)}"
        )


_MOUNT_IT = (
    "Mount the disk that you want to use (backup-cli destinations lists what is plugged in), and use a directory on "
    "it, like file:///mnt/backup/lightning.bkp"
)
