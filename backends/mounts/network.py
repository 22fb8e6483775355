"""Which mounted filesystems are network shares, and which of their options break the promise of a durable write."""

from backends.mounts.table import Mount
from backends.text import printable

_KINDS = frozenset(
    {
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "ceph", "glusterfs", "lustre", "beegfs", "afs", "9p",
        "virtiofs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.davfs", "davfs", "fuse.rclone", "fuse.smbnetfs",
        "fuse.nfs", "fuse.fuse-nfs", "fuse.moosefs", "fuse.mfs", "fuse.juicefs",
    }
)  # fmt: skip

_NFS = ("nfs", "nfs4")
_SMB = ("cifs", "smb3", "smbfs")


def is_network(mount: Mount) -> bool:
    """Whether the files are on another machine."""
    return mount.kind in _KINDS


def only_this_machine(mount: Mount) -> bool:
    """Whether no other machine can write to this filesystem while it is mounted here, judged by its kind."""
    return not is_network(mount) and not mount.kind.startswith("fuse.")


_LATE = frozenset({"fuse.rclone", "fuse.davfs", "davfs"})


def uploads_late(mount: Mount) -> bool:
    """Whether a file is uploaded to the server only when it is closed, so that no sync makes anything durable."""
    return mount.kind in _LATE


def promise_breakers(mount: Mount) -> list[str]:
    """What is wrong with a network share's mount options: one text for each bad option, which it names."""
    found = []
    for kinds, option, what in _BREAKERS:
        if option in mount.options and (not kinds or mount.kind in kinds):
            found.append(
                f"{printable(mount.point)} is mounted with the option `{option}`: {what}. Remove the option from "
                "/etc/fstab (or from the mount unit), then unmount and mount the share"
            )
    return found


_SOFT = (
    "when the server is slow, the kernel gives up and reports a failed write, and the node stops although the server "
    "would have come back; `hard` waits, and this plugin itself ends the wait after its timeout"
)
_BREAKERS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (_NFS, "soft", _SOFT),
    (_NFS, "softerr", _SOFT),
    ((), "async", "a change that was reported as saved may still be on its way"),
    (_SMB, "nostrictsync", "the server is never asked to put a change on its disk, so it loses changes in a power cut"),
    (_SMB, "cache=loose", "what was written on one machine may not be seen from another"),
    (("9p",), "cache=loose", "a change that was reported as saved may still be only in this machine's memory"),
    (("9p",), "cache=mmap", "a change that was reported as saved may still be only in this machine's memory"),
)


def lock_breaker(mount: Mount) -> str | None:
    """What is wrong with the locks of the mount that holds the node's directory; None if nothing is.

    Locks keep two machines from running the same node, and options such as `nolock` break them.
    """
    for option in ("nolock", "local_lock=all", "local_lock=flock"):
        if mount.kind in _NFS and option in mount.options:
            return (
                f"the node's directory is on {mount.describe()}, mounted with `{option}`: its locks are seen by this "
                "machine only, so another machine could start the same node. Mount it without that option"
            )
    return None
