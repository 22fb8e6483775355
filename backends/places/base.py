"""The interface of every place that can hold a backup."""

from abc import ABC, abstractmethod
from pathlib import Path

from backends.storage.base import Storage
from backends.storage.unreachable import reaching


class Place(ABC):
    """Where a backup is kept: what a URL names.

    Making a Place does not touch the destination. Methods raise BackupError when the place fails.
    """

    strangers: bool = False
    """Whether people other than the operator may read what is kept there: a rented server, a bucket, a cluster."""

    look_every: float = 0.9
    """Seconds between two looks of a reader that follows the log as it grows. A look reads two small files and a few
    bytes at the end of the log: a place where each request is paid for gives more."""

    @property
    @abstractmethod
    def storage(self) -> Storage:
        """The directory that holds the backup's files."""

    def describe(self) -> str:
        """The place as a person would name it."""
        return self.storage.describe()

    def about(self) -> list[str]:
        """What kind of place it is (filesystem, mount, server), as short lines."""
        with reaching(self.storage):
            return self.storage.about()

    def durable_url(self, url: str) -> str:
        """The URL for backup.lock: `url` and, where needed, what tells this place from another one mounted there."""
        return url

    def warnings(self, node_directory: Path) -> list[str]:
        """What a person should know about keeping the backup of that node here, one sentence per item."""
        with reaching(self.storage):
            if not self.storage.shares_disk_with(node_directory):
                return []
        return [
            f"{self.describe()} is on the same disk as the node's directory {node_directory}: when that disk "
            "dies, database and backup die together. Better use another disk, a USB stick or a NAS"
        ]

    def opened_by_environment(self) -> tuple[str, ...]:
        """The names of the environment variables of this process that open the place. Another process (the node's) may
        lack them. Never their values; nobody is contacted."""
        return ()

    def check_present(self) -> None:  # noqa: B027 (most places have nothing to add)
        """Raise a BackupError that says more than "there is no backup", where the place knows more."""

    def check_where(self) -> None:  # noqa: B027
        """Raise a BackupError if something else is in the place that the URL means, so that a missing backup must not
        be made there: another share than the one at `init`."""

    def check_writable(self) -> None:  # noqa: B027
        """Raise BackupError for a place from which a backup can be read, but where none may be kept."""

    def why_unwritable(self) -> str | None:
        """Why this user could not save anything here; None if no reason is known. Found out without writing."""
        with reaching(self.storage):
            return self.storage.why_unwritable()

    def remarks(self) -> list[str]:
        """What the node's log should say about this place when a session begins."""
        return []

    def only_this_machine_writes(self) -> bool:
        """Whether the lock on this machine excludes every other writer, because only this machine can write here."""
        return False
