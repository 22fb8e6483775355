"""`sftp://[user@]host[:port]/path/…`: a directory on an SSH server."""

from pathlib import Path

from backends.errors import BackupError
from backends.places.base import Place
from backends.storage.sftp.address import address_of
from backends.storage.sftp.storage import NO_LINKS, WHAT_HELPS, SftpStorage
from backends.storage.unreachable import reaching
from backends.urls import Destination


class SftpPlace(Place):
    """A directory on an SSH server, which may belong to somebody else."""

    strangers = True

    def __init__(self, destination: Destination) -> None:
        self._storage = SftpStorage(address_of(destination))

    @property
    def storage(self) -> SftpStorage:
        return self._storage

    def check_writable(self) -> None:
        """Refuse a server that cannot say when something is on its disk, or that cannot replace a file."""
        why = self._what_is_missing()
        if why is not None:
            raise BackupError(f"{why}. Nothing was changed there, and `backup-cli restore` still reads what is there")

    def why_unwritable(self) -> str | None:
        return self._what_is_missing() or super().why_unwritable()

    def _what_is_missing(self) -> str | None:
        with reaching(self._storage):
            missing = self._storage.missing()
        if not missing:
            return None
        return f"the SFTP server of {self.describe()} lacks {' and '.join(missing)}: {WHAT_HELPS}"

    def warnings(self, node_directory: Path) -> list[str]:
        found = super().warnings(node_directory)
        with reaching(self._storage):
            if not self._storage.makes_links():
                found.append(f"{self.describe()}: {NO_LINKS}")
        return found
