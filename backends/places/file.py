"""`file:///path/lightning.bkp`: a directory on any mounted filesystem that keeps what is written there."""

from pathlib import Path

from backends.commit_timeout import commit_timeout_of
from backends.errors import BackupError
from backends.mounts.ephemeral import Lifetime, lifetime_of
from backends.mounts.network import only_this_machine
from backends.mounts.table import mount_of
from backends.mounts.unfit import ACCEPTED, EPHEMERAL, refuse_device, why_ephemeral
from backends.near_miss import of_a_file_with_host
from backends.places.base import Place
from backends.storage.local import LocalStorage
from backends.storage.unreachable import reaching
from backends.urls import BadURL, Destination


class FilePlace(Place):
    """A directory on this machine. A backup can be read from any filesystem, but kept only on one that persists."""

    def __init__(self, destination: Destination) -> None:
        directory = destination.directory
        if directory is None:
            raise BadURL(
                f"{destination.shown} names the machine {destination.shown_host!r}, and file:// only reaches this one; "
                "write it with three slashes: "
                f"{of_a_file_with_host(destination.shown_host, str(destination.path))}"
            )
        commit_timeout_of(destination)
        destination.allow_options("timeout", EPHEMERAL)
        accepted = destination.option(EPHEMERAL, "")
        if accepted not in ("", ACCEPTED):
            raise BadURL(
                f"{destination.shown}: {EPHEMERAL}={accepted} means nothing; the only value is {EPHEMERAL}={ACCEPTED}"
            )
        self._url, self._path, self._accepted = str(destination), directory, bool(accepted)
        self._storage = LocalStorage(self._path)

    @property
    def storage(self) -> LocalStorage:
        return self._storage

    def check_present(self) -> None:
        refuse_device(self._path)

    def check_writable(self) -> None:
        refuse_device(self._path)
        why = self._why_ephemeral()
        if why is not None:
            raise BackupError(f"{why}. Nothing was changed there, and `backup-cli restore` still reads what is there")

    def why_unwritable(self) -> str | None:
        return self._why_ephemeral() or super().why_unwritable()

    def warnings(self, node_directory: Path) -> list[str]:
        found = super().warnings(node_directory)
        with reaching(self._storage):
            lifetime = lifetime_of(self._path)
        if self._accepted and lifetime is Lifetime.LAYER:
            found.append(
                f"{self.describe()} is in a container's own layer ({EPHEMERAL}={ACCEPTED}): removing the container, "
                "or recreating it from a newer image, removes the backup with it"
            )
        return found

    def only_this_machine_writes(self) -> bool:
        try:
            return only_this_machine(mount_of(self._path))
        except OSError:
            return False

    def _why_ephemeral(self) -> str | None:
        with reaching(self._storage):
            return why_ephemeral(self._path, self._url, self._accepted)
