"""`usb://LABEL-or-UUID/…`: a directory on a stick or another removable disk, wherever it is mounted."""

from pathlib import Path

from backends.commit_timeout import commit_timeout_of
from backends.errors import BackupError
from backends.mounts.sticks import find_stick, read_only
from backends.places.base import Place
from backends.storage.mounted import Mounted, MountedStorage
from backends.text import printable
from backends.urls import BadURL, Destination


class UsbPlace(Place):
    """A directory on the removable filesystem with this label or UUID."""

    def __init__(self, destination: Destination) -> None:
        commit_timeout_of(destination)
        name = destination.host
        if not name or not destination.path.name:
            raise BadURL(
                f"{destination.shown} does not name a stick and a directory on it; write it like "
                "usb://LABEL/lightning.bkp (backup-cli destinations prints the URLs of what is plugged in)"
            )
        destination.allow_options("timeout")

        def find() -> Mounted:
            mount = find_stick(name)
            return Mounted(
                mount.point.joinpath(*destination.path.parts[1:]), mount, f"on the stick '{printable(name)}'"
            )

        def cannot_write() -> BackupError:
            return read_only(name)

        self._stick = MountedStorage(find, f"{destination.path} on the stick '{printable(name)}'", cannot_write)

    @property
    def storage(self) -> MountedStorage:
        return self._stick

    def only_this_machine_writes(self) -> bool:
        return True

    def warnings(self, node_directory: Path) -> list[str]:
        found = super().warnings(node_directory)
        stick = self._stick.look()
        mode = stick.path.stat().st_mode
        if mode & 0o077:
            found.append(
                f"{self._stick.describe()}: this kind of filesystem ({stick.mount.kind}) keeps no permissions, "
                f"so every user of this machine can read the backup, and it holds channel secrets. Mount it with "
                "umask=077 and uid= the user of lightningd"
            )
        return found
