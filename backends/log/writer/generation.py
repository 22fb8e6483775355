"""The current generation of a backup that is written to: which one it is, and the publication of the next one."""

from collections.abc import Callable

from backends.errors import BackupError, Fenced
from backends.log.format.documents import MANIFEST, Base, Manifest
from backends.log.format.records import time_now
from backends.log.reader.opening import read_manifest
from backends.log.writer.snapshot import publish_snapshot
from backends.storage.base import Storage


class CurrentGeneration:
    """What the manifest says, as long as this writer alone publishes it.

    `check` raises Replaced when another writer has taken over. It is asked before any file gets its name: the names of
    both writers are the same.
    """

    def __init__(self, storage: Storage, manifest: Manifest, check: Callable[[], None]) -> None:
        self._storage, self._check = storage, check
        self.manifest = manifest

    def publish_snapshot(self, written: str, generation: int) -> None:
        """Give a snapshot its name. Raises Replaced, BackupError when the name is taken, or OSError."""
        self._check()
        try:
            publish_snapshot(self._storage, written, generation)
        except (FileExistsError, FileNotFoundError) as error:
            self._check()  # the name is another writer's, or it has tidied up; Replaced is what to say then
            if isinstance(error, FileNotFoundError):
                raise
            raise BackupError(
                f"another process, which no longer writes to the backup in {self._storage.describe()}, has left a "
                f"snapshot with the number {generation} there at this moment. Nothing that was saved is lost, and that "
                "snapshot counts for nothing; repeat what was under way, or start the node again if it has stopped"
            ) from error

    def publish(self, generation: int, base: Base, first_segment: int, reason: str, node_id: str | None) -> None:
        """Make this the current generation: its snapshot has its name. Raises Replaced or OSError.

        After an OSError `manifest` is the one that the place shows. Raises UnknownGeneration when it shows none.
        """
        old = self.manifest
        manifest = Manifest(old.backup_id, generation, base, first_segment, time_now(), reason, node_id or old.node_id)
        self._check()  # once more: from here on it is this generation that counts
        try:
            self._storage.publish(MANIFEST, manifest.encode())
        except BaseException as error:
            # The rename may have succeeded despite the error, and a number that was published must never name another
            # snapshot.
            try:
                self.manifest = read_manifest(self._storage)
            except (OSError, BackupError):
                raise UnknownGeneration(error) from error
            raise
        self.manifest = manifest

    def check(self) -> None:
        """Raise Replaced when the manifest is not the one that this writer knows: its segments then count for nothing.

        A writer that was replaced in the middle of publishing a generation has overwritten it.
        """
        place = self._storage.describe()
        try:
            there = read_manifest(self._storage)
        except BackupError:
            raise Fenced(
                f"the manifest in {place} is gone or overwritten: the backup was removed or exchanged while this node "
                "wrote to it. Nothing more is saved there; stop the node, and put the backup back; if it is lost for "
                "good, make a new one: backup-cli init"
            ) from None
        if there != self.manifest:
            raise Fenced(
                f"another process has begun a generation of its own in {place} while this node wrote to it: two nodes "
                "with the same keys lose money. Stop one of them for good, then run on the other: backup-cli resync"
            )


class UnknownGeneration(Exception):
    """A publication failed with `error`, and which generation is the current one cannot be read either."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error
