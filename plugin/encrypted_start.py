"""What a start has to do for an encrypted backup: first only by reading, and then, once the node may go on, by writing.

For a plain backup this does nothing, and imports nothing that encrypts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from backends import keyring
from backends.base import Report
from backends.errors import BackupError
from backends.log.facts import Facts
from backends.log.writer.writer import Writer
from backends.node.key_file import KEY_FILE, finish_pending, load_key
from backends.node.lockfile import Settings
from backends.storage.base import Storage
from plugin.node_key import check_key

if TYPE_CHECKING:
    from plugin.key_slots import Slots


class EncryptedStart:
    """The part of a start that concerns the key. Making it loads `backup.key`; raises KeyNeeded or FromTheFuture."""

    def __init__(self, directory: Path, settings: Settings, report: Report) -> None:
        self._directory, self._settings, self._report = directory, settings, report
        self._found = load_key(directory)
        self._slots: Slots | None = None

    def check_key(self, seen: Facts) -> None:
        """Raise KeyNeeded or WrongKey if `backup.key` does not open the backup."""
        check_key(self._directory, self._settings, seen.manifest)

    def check_slots(self, seen: Facts, storages: Mapping[str, Storage]) -> None:
        """Raise BackupError if nothing but `backup.key` would open the backup. Changes nothing.

        `storages` are the places that the node starts with, by name.
        """
        key = None if seen.manifest.key is None else keyring.find(seen.manifest.key)
        if key is not None:
            from plugin.key_slots import slots_at_start  # here, because a plain backup needs none of it

            self._slots = slots_at_start(self._directory, storages, key, first=seen.last_writer is None)

    def finish(self, writer: Writer) -> None:
        """The backup is open: note on both sides what is still missing. Raises BackupError.

        Call it before the first change is acknowledged.
        """
        if self._slots is not None:
            self._slots.store(writer.storage)
            for level, line in self._slots.lines:
                self._report(level, line)
        if self._found is None or not self._found.pending:
            return
        if writer.manifest.key == self._found.key.id:
            self._finish_pending()
        elif writer.manifest.backup_id == self._found.key.backup_id:
            self._report(
                "unusual",
                "this backup was to be encrypted, and that was not finished: it is still stored in the clear. Every "
                "change is saved as before. To encrypt it, stop lightningd and repeat: backup-cli resync --encrypt",
            )

    def _finish_pending(self) -> None:
        """The change-over was done up to its last step: from now on, a plain backup with this id is refused."""
        assert self._found is not None
        keyring.add(self._found.key, demanded=True)
        try:
            finish_pending(self._directory)
        except BackupError as error:  # the next start does it
            self._report("unusual", f"{KEY_FILE} still says that the backup is being made an encrypted one: {error}")
        else:
            self._report("info", "the backup is an encrypted one from now on: the change to it is complete")
