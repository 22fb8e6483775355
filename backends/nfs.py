"""`nfs://`: a directory on a network share, mounted (`nfs:///mnt/nas/…`) or not (`nfs://server/export/…`)."""

from dataclasses import replace
from pathlib import Path

from backends.base import Report, Standing
from backends.errors import BackupError, Unreachable
from backends.log.backend import LogBackend
from backends.mounts.network import is_network, lock_breaker, promise_breakers, uploads_late
from backends.mounts.table import Mount, mount_of
from backends.patience import patience_of
from backends.storage.found import Found, FoundStorage
from backends.storage.nfs.server import server_of
from backends.storage.nfs.storage import NfsStorage
from backends.urls import BadURL, Destination, parse_url, quote
from backends.words import printable

_SHARE = "share"
_MOUNTED_OPTIONS = ("timeout", _SHARE)


def nfs_backend(destination: Destination) -> LogBackend:
    """The backend for a share, by whichever of the two ways the URL says. Raises BadURL."""
    patience_of(destination)
    if not destination.path.name:
        raise BadURL(f"{destination} names no directory; write it like nfs://nas.local/export/lightning.bkp")
    return NfsBackend(destination) if destination.host else MountedShareBackend(destination)


class NfsBackend(LogBackend):
    """A backup on a server that is spoken to directly."""

    def __init__(self, destination: Destination) -> None:
        super().__init__(NfsStorage(server_of(destination), destination.path.name))


class MountedShareBackend(LogBackend):
    """A backup on a share that must be mounted; the URL's `share` remembers which one that was at `init`."""

    def __init__(self, destination: Destination) -> None:
        for name, _ in destination.options:
            if name not in _MOUNTED_OPTIONS:
                raise BadURL(
                    f"{destination}: the option {name!r} is for nfs://server/..., not for a mounted share; there is "
                    f"{', '.join(_MOUNTED_OPTIONS)}"
                )
        self._path, self._remembered = destination.local_path, destination.option(_SHARE, "")
        self._share = FoundStorage(self._find, f"{self._path} (a network share)", self._read_only)
        super().__init__(self._share)

    def _find(self) -> Found:
        mount = share_at(self._path)
        return Found(self._path, mount, f"on the share {printable(mount.source)}, {mount.kind}")

    def _read_only(self) -> BackupError:
        return Unreachable(
            f"the share that {self._path} lies on is mounted read-only. What was saved there is safe; mount it "
            "writable (without `ro`, and exported with `rw`), then try again"
        )

    def check_new(self) -> None:
        self._refuse_late()
        super().check_new()

    def _refuse_late(self) -> None:
        """A backup can be read from anywhere, but not be kept where a change that was saved may never arrive."""
        mount = self._share.look().mount
        if uploads_late(mount):
            raise BackupError(
                f"{mount.describe()} sends a file to its server only when it is closed, so that a change would count "
                "as saved and be lost. Nothing was written; take a share of another kind (NFS, SMB, sshfs) or a disk. "
                "To read a backup there, use restore or verify"
            )

    def identify(self) -> str:
        with self._reaching():
            there = self._share.exists()
        if not there:
            raise Unreachable(self._nothing_there())
        return super().identify()

    def _nothing_there(self) -> str:
        mounted = self._share.look().mount.describe()
        if self._remembered and self._share.look().mount.source != self._remembered:
            return (
                f"another share is in the place of the one with the backup: {mounted} is mounted, and the backup was "
                f"made on {printable(self._remembered)}. Nothing was changed; mount that one again, then start the "
                "node again"
            )
        return (
            f"there is no backup at {self._path}; mounted there is {mounted}. Is that the right share? Nothing was "
            "changed; mount the share that holds the backup, then try again"
        )

    def open(self, report: Report, session_id: str | None = None) -> Standing:
        self._refuse_late()
        source = self._share.look().mount.source
        if self._remembered not in ("", source):
            report(
                "unusual",
                f"the backup was made on the share {printable(self._remembered)}, and is found on "
                f"{printable(source)}: going on",
            )
        for line in promise_breakers(self._share.look().mount):
            report("unusual", line)
        return super().open(report, session_id)

    def warnings(self, node_directory: Path) -> list[str]:
        locks = lock_breaker(mount_of(node_directory))
        found = [*super().warnings(node_directory), *promise_breakers(self._share.look().mount)]
        return [*found, locks] if locks else found

    def lasting_url(self, url: str) -> str:
        destination = parse_url(url)
        others = tuple((name, value) for name, value in destination.options if name != _SHARE)
        return str(replace(destination, options=(*others, (_SHARE, self._share.look().mount.source))))


def share_at(path: Path) -> Mount:
    """The network share that a path lies on. Raises Unreachable when it lies on this machine's own disk."""
    try:
        mount = mount_of(path)
    except OSError as error:
        raise Unreachable(
            f"the share for {path} does not answer ({error.strerror or error}). What was saved there is safe; see "
            "whether the server runs, unmount the share if it is stale (umount -f), mount it again, then try again"
        ) from error
    if not is_network(mount):
        raise Unreachable(
            f"no share is mounted at {path}: that path lies on {mount.describe()}, on this machine. Nothing was "
            "written there, and what was saved on the share is safe; mount the share, then try again (for a backup on "
            f"this machine the URL is file://{quote(str(path))})"
        )
    return mount
