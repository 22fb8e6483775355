"""Why a path of this machine is no place for a backup, in words that say which one is meant."""

import os
import stat
from pathlib import Path

from backends.mounts.ephemeral import Lifetime, lifetime_of
from backends.mounts.table import mount_of, mounts
from backends.text import shell_line
from backends.urls import BadURL, quote

EPHEMERAL, ACCEPTED = "ephemeral", "accepted"
"""The option of a URL that accepts a container's layer, and its value."""

LAYERS = "LIGHTNINGD_BACKUP_EPHEMERAL"
"""The same for a whole test run in a container, where every directory lies in its layer."""


def why_ephemeral(path: Path, url: str, accepted: bool) -> str | None:
    """Why no backup may be kept at `path`, and what to do; None when it may. OSError when that cannot be told.

    `url` names it, and `accepted` says whether a container's layer is accepted by that.
    """
    lifetime = lifetime_of(path)
    accepted = accepted or os.environ.get(LAYERS) == ACCEPTED
    if lifetime is Lifetime.LASTING or (lifetime is Lifetime.LAYER and accepted):
        return None
    mount = mount_of(path)
    if lifetime is Lifetime.LAYER:
        accept = f"{url}{'&' if '?' in url else '?'}{EPHEMERAL}={ACCEPTED}"
        return (
            f"{path} lies on {mount.describe()}, the layer of a container: it is gone with the container. "
            "Give the container a volume on another disk, for instance with docker run -v /mnt/backup:/backup, and "
            f"use file:///backup/lightning.bkp (where such a layer stays, and you know it: {accept})"
        )
    if mount.point == Path("/dev"):
        return (
            f"{path} lies in {mount.describe()}, in memory, where the names of the machine's devices are: "
            f"what is written there is gone when the machine is switched off. {_MOUNT_IT}"
        )
    return (
        f"{path} lies on {mount.describe()}, in this machine's memory: what is written there is gone when "
        f"the machine is switched off. {_MOUNT_IT}"
    )


def refuse_device(place: Path) -> None:
    """Raise BadURL when `place` names a disk's device: what was meant is the filesystem on it."""
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
                f"{path} is a disk's device, and a backup is a directory on the filesystem that is on it. Nothing "
                f"was changed; that one is mounted at {points[0]}, so use: file://{quote(str(points[0] / name))}"
            )
        raise BadURL(
            f"{path} is a disk's device, and a backup is a directory on the filesystem that is on it. Nothing was "
            f"changed; mount it, for instance with: {shell_line('mount', path, '/mnt/backup')}, and use: "
            f"file:///mnt/backup/{quote(name)}"
        )


_MOUNT_IT = (
    "Mount the disk that is meant (backup-cli destinations lists what is plugged in), and use a directory on it, like "
    "file:///mnt/backup/lightning.bkp"
)
