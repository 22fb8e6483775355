"""`file:///path/lightning.bkp`: a directory on any mounted filesystem that keeps what is written there."""

import os
import stat
from pathlib import Path

from backends.base import Report, Standing
from backends.errors import BackupError
from backends.log.backend import LogBackend
from backends.meant import of_a_file_with_host
from backends.mounts.ephemeral import Lifetime, lifetime_of
from backends.mounts.table import mount_of, mounts
from backends.patience import patience_of
from backends.storage.local import LocalStorage
from backends.urls import BadURL, Destination, quote
from backends.words import shell_line

_EPHEMERAL, _ACCEPTED = "ephemeral", "accepted"

LAYERS = "LIGHTNINGD_BACKUP_EPHEMERAL"
"""The same for a whole test run in a container, where every directory lies in its layer."""


class FileBackend(LogBackend):
    """A backup in a directory of this machine. It can be read wherever it lies, and be kept only where it stays."""

    def __init__(self, destination: Destination) -> None:
        if not destination.names_no_other_machine:
            raise BadURL(
                f"{destination} names the machine {destination.host!r}, and file:// only reaches this one; write it "
                f"with three slashes: {of_a_file_with_host(destination.host, str(destination.path))}"
            )
        patience_of(destination)
        destination.allow_options("timeout", _EPHEMERAL)
        accepted = destination.option(_EPHEMERAL, "")
        if accepted not in ("", _ACCEPTED):
            raise BadURL(f"{destination}: {_EPHEMERAL}={accepted} means nothing; there is {_EPHEMERAL}={_ACCEPTED}")
        self._url, self._path, self._accepted = str(destination), destination.local_path, bool(accepted)
        super().__init__(LocalStorage(self._path))

    def check_new(self) -> None:
        self._refuse_device()
        self._refuse_ephemeral()
        super().check_new()

    def identify(self) -> str:
        self._refuse_device()
        return super().identify()

    def open(self, report: Report, session_id: str | None = None) -> Standing:
        self._refuse_ephemeral()
        return super().open(report, session_id)

    def open_anew(self, session_id: str) -> None:
        self._refuse_ephemeral()
        super().open_anew(session_id)

    def unwritable(self) -> str | None:
        return self._why_ephemeral() or super().unwritable()

    def warnings(self, node_directory: Path) -> list[str]:
        found = super().warnings(node_directory)
        if self._accepted and self._lifetime() is Lifetime.LAYER:
            found.append(
                f"{self.describe()} lies in a container's own layer ({_EPHEMERAL}={_ACCEPTED}): whoever removes the "
                "container, or makes it anew from a newer image, removes the backup with it"
            )
        return found

    def _lifetime(self) -> Lifetime:
        with self._reaching():
            return lifetime_of(self._path)

    def _refuse_ephemeral(self) -> None:
        why = self._why_ephemeral()
        if why is not None:
            raise BackupError(f"{why}. Nothing was changed there, and `backup-cli restore` still reads what is there")

    def _why_ephemeral(self) -> str | None:
        """Why nothing may be kept here, and what to do; None when it may."""
        lifetime = self._lifetime()
        accepted = self._accepted or os.environ.get(LAYERS) == _ACCEPTED
        if lifetime is Lifetime.LASTING or (lifetime is Lifetime.LAYER and accepted):
            return None
        with self._reaching():
            mount = mount_of(self._path)
        if lifetime is Lifetime.LAYER:
            accept = f"{self._url}{'&' if '?' in self._url else '?'}{_EPHEMERAL}={_ACCEPTED}"
            return (
                f"{self._path} lies on {mount.describe()}, the layer of a container: it is gone with the container. "
                "Give the container a volume on another disk, for instance with docker run -v /mnt/backup:/backup, and "
                f"use file:///backup/lightning.bkp (where such a layer stays, and you know it: {accept})"
            )
        if mount.point == Path("/dev"):
            return (
                f"{self._path} lies in {mount.describe()}, in memory, where the names of the machine's devices are: "
                f"what is written there is gone when the machine is switched off. {_MOUNT_IT}"
            )
        return (
            f"{self._path} lies on {mount.describe()}, in this machine's memory: what is written there is gone when "
            f"the machine is switched off. {_MOUNT_IT}"
        )

    def _refuse_device(self) -> None:
        """What was meant is the filesystem on that device."""
        for path in (self._path, *self._path.parents):
            try:
                mode = path.stat().st_mode
            except OSError:
                continue
            if not stat.S_ISBLK(mode):
                continue
            name = "/".join(self._path.relative_to(path).parts) or "lightning.bkp"
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
