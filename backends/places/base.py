"""What every place where a backup may lie can be asked."""

from abc import ABC, abstractmethod
from pathlib import Path

from backends.storage.base import Storage
from backends.storage.unreachable import reaching


class Place(ABC):
    """Where a backup lies: what a URL names.

    Nothing is touched before a method is called. Methods raise BackupError when the place fails.
    """

    @property
    @abstractmethod
    def storage(self) -> Storage:
        """The directory of the backup's files."""

    def describe(self) -> str:
        """The place as a person would say it."""
        return self.storage.describe()

    def about(self) -> list[str]:
        """What kind of place it is, a short line each: filesystem, mount, server."""
        with reaching(self.storage):
            return self.storage.about()

    def durable_url(self, url: str) -> str:
        """What backup.lock should name: `url`, with what tells this place from another one that may be put there."""
        return url

    def warnings(self, node_directory: Path) -> list[str]:
        """What a person should know about keeping the backup of that node here, a sentence each."""
        with reaching(self.storage):
            if not self.storage.shares_disk_with(node_directory):
                return []
        return [
            f"{self.describe()} lies on the same disk as the node's directory {node_directory}: when that disk "
            "dies, database and backup die together. Better take another disk, a USB stick or a NAS"
        ]

    def check_present(self) -> None:  # noqa: B027 (most places have nothing to add)
        """Raise what is to be said instead of "there is no backup", where the place knows better."""

    def check_writable(self) -> None:  # noqa: B027
        """Refuse a place from which a backup can be read, but in which none may be kept."""

    def why_unwritable(self) -> str | None:
        """Why this user could save nothing here, asked without writing; None when nothing is known against it."""
        with reaching(self.storage):
            return self.storage.why_unwritable()

    def remarks(self) -> list[str]:
        """What the node's log should say of this place when a session begins."""
        return []

    def only_this_machine_writes(self) -> bool:
        """Whether nobody can be writing here while a process of this machine has the lock."""
        return False
