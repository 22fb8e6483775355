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
    """Whether the files lie on another machine."""
    return mount.kind in _KINDS


def only_this_machine(mount: Mount) -> bool:
    """Whether no other machine can write to this filesystem while it is mounted here, as far as its kind tells."""
    return not is_network(mount) and not mount.kind.startswith("fuse.")


_LATE = frozenset({"fuse.rclone", "fuse.davfs", "davfs"})


def uploads_late(mount: Mount) -> bool:
    """Whether a file goes to the server only once it is closed: no sync makes anything durable there."""
    return mount.kind in _LATE


def promise_breakers(mount: Mount) -> list[str]:
    """What is wrong with the options of a network share, a sentence each, naming the option."""
    found = []
    for kinds, option, what in _BREAKERS:
        if option in mount.options and (not kinds or mount.kind in kinds):
            found.append(
                f"{printable(mount.point)} is mounted with the option `{option}`: {what}. Take it out of "
                "/etc/fstab (or of the "
                "mount unit) and mount the share anew"
            )
    return found


_SOFT = (
    "when the server is slow, the kernel gives up and reports a failed write, and the node stops although the server "
    "would have come back; `hard` waits, and this plugin ends the wait by itself after its timeout"
)
_BREAKERS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (_NFS, "soft", _SOFT),
    (_NFS, "softerr", _SOFT),
    ((), "async", "a change that was reported as saved may still be on its way"),
    (_SMB, "nostrictsync", "the server is never asked to put a change on its disk, so its power cut loses changes"),
    (_SMB, "cache=loose", "what was written on one machine may not be seen from another"),
    (("9p",), "cache=loose", "a change that was reported as saved may be in this machine's memory only"),
    (("9p",), "cache=mmap", "a change that was reported as saved may be in this machine's memory only"),
)


def lock_breaker(mount: Mount) -> str | None:
    """For the mount that holds the node's own directory: locks there keep two nodes apart, and `nolock` breaks them."""
    for option in ("nolock", "local_lock=all", "local_lock=flock"):
        if mount.kind in _NFS and option in mount.options:
            return (
                f"the node's directory lies on {mount.describe()}, mounted with `{option}`: locks there are seen by "
                "this machine only, so that another one could start the same node. Mount it without that option"
            )
    return None
