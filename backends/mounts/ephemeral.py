"""Filesystems that are gone when the machine is switched off or a container is removed: no backup may be kept there."""

import re
from contextlib import suppress
from enum import Enum
from pathlib import Path

from backends.mounts.table import Mount, mount_of


class Lifetime(Enum):
    """How long the files of a filesystem last."""

    LASTING = "lasting"
    """Permanently, as far as this machine can tell."""
    LAYER = "layer"
    """Until the container (or live system) is removed: this is its own layer, on top of its image."""
    MEMORY = "memory"
    """Until the machine is switched off."""


_IN_MEMORY = frozenset(
    {
        "tmpfs", "ramfs", "devtmpfs", "rootfs", "hugetlbfs",
        # The kernel's own, which hold nobody's files. In some of them one can make a directory.
        "proc", "sysfs", "debugfs", "tracefs", "securityfs", "configfs", "cgroup", "cgroup2", "devpts", "mqueue",
        "pstore", "bpf", "efivarfs", "binfmt_misc", "fusectl", "nsfs",
    }
)  # fmt: skip

_LAYERED = frozenset({"overlay", "aufs", "unionfs", "fuse.fuse-overlayfs", "fuse.unionfs", "fuse.unionfs-fuse"})

_CONTAINER = (Path("/.dockerenv"), Path("/run/.containerenv"))
"""Docker and Podman put one of these into each container. A virtual machine made from an image may have one."""

_MEMORY_DISK = re.compile(r"/dev/z?ram[0-9]+\Z")

_UPPER = "upperdir="


def lifetime_of(path: Path) -> Lifetime:
    """How long a file at `path` (which need not exist) lasts. Raises OSError if that cannot be determined."""
    return lifetime_of_mount(mount_of(path))


def lifetime_of_mount(mount: Mount) -> Lifetime:
    """How long the files on this mount last."""
    if mount.kind in _IN_MEMORY or _MEMORY_DISK.match(mount.source):
        return Lifetime.MEMORY
    if mount.kind not in _LAYERED:
        return Lifetime.LAYER if _is_the_root_of_a_container(mount) else Lifetime.LASTING
    upper = next((option[len(_UPPER) :] for option in mount.options if option.startswith(_UPPER)), "")
    # The option holds the path as seen by the process that mounted it; inside a container there is no such path.
    with suppress(OSError):
        if Path(upper).is_absolute() and Path(upper).is_dir() and mount_of(Path(upper)).kind in _IN_MEMORY:
            return Lifetime.MEMORY
    return Lifetime.LAYER


def _is_the_root_of_a_container(mount: Mount) -> bool:
    """Whether this is a container's layer without being an overlay: a directory or subvolume of the host's own disk.

    The storage drivers `vfs` and `btrfs` make such layers. The root of a machine is a whole filesystem, or has no mark.
    """
    return mount.point == Path("/") and mount.root != "/" and any(mark.exists() for mark in _CONTAINER)
