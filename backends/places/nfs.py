"""`nfs://`: a directory on a network share, mounted (`nfs:///mnt/nas/…`) or not (`nfs://server/export/…`)."""

from dataclasses import replace
from pathlib import Path

from backends.commit_timeout import commit_timeout_of
from backends.errors import BackupError, Unreachable
from backends.mounts.network import is_network, lock_breaker, promise_breakers, uploads_late
from backends.mounts.table import Mount, mount_of
from backends.places.base import Place
from backends.storage.mounted import Mounted, MountedStorage
from backends.storage.nfs.server import server_of
from backends.storage.nfs.storage import NfsStorage
from backends.storage.unreachable import reaching
from backends.text import printable
from backends.urls import BadURL, Destination, options_listed, parse_url, quote

_SHARE = "share"
_MOUNTED_OPTIONS = ("timeout", _SHARE)


def nfs_place(destination: Destination) -> Place:
    """The place on a share: on a server if the URL names one, otherwise on a mounted share. Raises BadURL."""
    commit_timeout_of(destination)
    if not destination.path.name:
        raise BadURL(f"{destination.shown} names no directory; write it like nfs://nas.local/export/lightning.bkp")
    path = destination.directory
    return ServerPlace(destination) if path is None else MountedSharePlace(destination, path)


class ServerPlace(Place):
    """A directory on an NFS server that this program talks to directly, without a mount."""

    def __init__(self, destination: Destination) -> None:
        self._storage = NfsStorage(server_of(destination), destination.path.name)

    @property
    def storage(self) -> NfsStorage:
        return self._storage


class MountedSharePlace(Place):
    """A directory on a mounted share. The URL's option `share` records which share was mounted there at `init`."""

    def __init__(self, destination: Destination, path: Path) -> None:
        """`path` is `destination.directory`."""
        for name, _ in destination.options:
            if name not in _MOUNTED_OPTIONS:
                raise BadURL(
                    f"{destination.shown}: the option {name!r} is for nfs://server/..., not for a mounted share; the "
                    f"options are: {options_listed(_MOUNTED_OPTIONS)}"
                )
        self._path, self._remembered = path, destination.option(_SHARE, "")
        self._share = MountedStorage(self._find, f"{self._path} (a network share)", self._read_only)

    @property
    def storage(self) -> MountedStorage:
        return self._share

    def _find(self) -> Mounted:
        mount = share_at(self._path)
        return Mounted(self._path, mount, f"on the share {printable(mount.source)}, {mount.kind}")

    def _read_only(self) -> BackupError:
        return Unreachable(
            f"the share that holds {self._path} is mounted read-only. What was saved there is safe; mount it "
            "writable (without `ro`, and exported with `rw`), then try again"
        )

    def check_writable(self) -> None:
        """Refuse a share that sends a file only when it is closed: a saved change may never arrive there."""
        mount = self._share.look().mount
        if uploads_late(mount):
            raise BackupError(
                f"{mount.describe()} sends a file to its server only when it is closed, so a change could count as "
                "saved and still be lost. Nothing was written; use a share of another kind (NFS, SMB, sshfs), or a "
                "disk. To read a backup there, use restore or verify"
            )

    def check_present(self) -> None:
        with reaching(self._share):
            there = self._share.exists()
        if not there:
            raise Unreachable(self._nothing_there(), clause="the mounted share holds no such backup")

    def check_where(self) -> None:
        with reaching(self._share):
            there = self._share.exists()
        if not there and self._remembered not in ("", self._share.look().mount.source):
            raise Unreachable(self._nothing_there(), clause="another share is mounted there")

    def _nothing_there(self) -> str:
        mounted = self._share.look().mount.describe()
        if self._remembered and self._share.look().mount.source != self._remembered:
            return (
                f"the wrong share is mounted: {mounted} is mounted, and the backup was made on "
                f"{printable(self._remembered)}. Nothing was changed; mount the share with the backup again, then "
                "start the node again"
            )
        return (
            f"there is no backup at {self._path}, where {mounted} is mounted. Is that the right share? Nothing was "
            "changed; mount the share that holds the backup, then try again"
        )

    def remarks(self) -> list[str]:
        mount, remarks = self._share.look().mount, []
        if self._remembered not in ("", mount.source):
            remarks.append(
                f"the backup was made on the share {printable(self._remembered)} and is now on "
                f"{printable(mount.source)}: going on"
            )
        return [*remarks, *promise_breakers(mount)]

    def warnings(self, node_directory: Path) -> list[str]:
        locks = lock_breaker(mount_of(node_directory))
        found = [*super().warnings(node_directory), *promise_breakers(self._share.look().mount)]
        return [*found, locks] if locks else found

    def durable_url(self, url: str) -> str:
        destination = parse_url(url)
        others = tuple((name, value) for name, value in destination.options if name != _SHARE)
        return str(replace(destination, options=(*others, (_SHARE, self._share.look().mount.source))))


def share_at(path: Path) -> Mount:
    """The network share that holds a path. Raises Unreachable if the path is on this machine's own disk."""
    try:
        mount = mount_of(path)
    except OSError as error:
        raise Unreachable(
            f"the share for {path} does not answer ({error.strerror or error}). What was saved there is safe; check "
            "that the server is running, unmount the share if it is stale (umount -f), mount it again, then try again",
            clause="its share does not answer",
        ) from error
    if not is_network(mount):
        raise Unreachable(
            f"no share is mounted at {path}: that path is on {mount.describe()}, on this machine. Nothing was "
            "written there, and what was saved on the share is safe; mount the share, then try again (for a backup on "
            f"this machine the URL is file://{quote(str(path))})",
            clause="its share is not mounted",
        )
    return mount
