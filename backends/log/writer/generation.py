"""The current generation, as the writer knows it, and the publication of the next one."""

from collections.abc import Callable

from backends.errors import BackupError, Fenced
from backends.keyring import init_command
from backends.log.format.documents import MANIFEST, Base, Manifest
from backends.log.format.records import time_now
from backends.log.reader.opening import read_manifest
from backends.log.writer.snapshot import publish_snapshot
from backends.storage.base import Storage


class CurrentGeneration:
    """The manifest as this writer last published or read it, which is current as long as no other writer publishes one.

    `check` raises Fenced when another writer has taken over. It is called before any file gets its name, because both
    writers use the same names.
    """

    def __init__(self, storage: Storage, manifest: Manifest, check: Callable[[], None]) -> None:
        self._storage, self._check = storage, check
        self.manifest = manifest

    def publish_snapshot(self, written: str, generation: int) -> None:
        """Rename the snapshot `written` to its final name. Raises Fenced, BackupError if that is taken, or OSError."""
        self._check()
        try:
            publish_snapshot(self._storage, written, generation)
        except (FileExistsError, FileNotFoundError) as error:
            self._check()  # if another writer took the name or removed our file, Fenced is the error to report
            if isinstance(error, FileNotFoundError):
                raise
            raise BackupError(
                f"another process, which no longer writes to the backup in {self._storage.describe()}, has just left a "
                f"snapshot with the number {generation} there. Nothing that was saved is lost, and that snapshot is "
                "not used; repeat what was under way, or start the node again if it has stopped"
            ) from error

    def publish(
        self,
        generation: int,
        base: Base,
        first_segment: int,
        reason: str,
        node_id: str | None,
        key: str | None,
        *,
        anew: bool = True,
    ) -> None:
        """Make this the current generation; its snapshot must have its final name. Raises Fenced or OSError.

        `anew` is False for a generation that says the same as the one before it.

        After an OSError, `manifest` is the one that is at the destination. Raises UnknownGeneration if that cannot be
        read.
        """
        old = self.manifest
        manifest = Manifest(
            old.backup_id,
            generation,
            base,
            first_segment,
            time_now(),
            reason,
            node_id or old.node_id,
            key,
            generation if anew else old.lineage,
        )
        self._check()  # once more: from here on this generation counts
        try:
            self._storage.publish(MANIFEST, manifest.encode())
        except BaseException as error:
            # The rename may have succeeded despite the error, and a published number must never name another snapshot.
            try:
                self.manifest = read_manifest(self._storage)
            except (OSError, BackupError):
                raise UnknownGeneration(error) from error
            raise
        self.manifest = manifest

    def check(self) -> None:
        """Raise Fenced if the manifest is not the one that this writer knows: then this writer's segments do not count.

        That happens when a fenced writer was in the middle of publishing a generation and overwrote the manifest.
        """
        place = self._storage.describe()
        try:
            there = read_manifest(self._storage)
        except BackupError:
            raise Fenced(
                f"the manifest in {place} is gone or overwritten: the backup was removed or replaced while this node "
                "wrote to it. Nothing more is saved there; stop the node, and put the backup back; if it is lost for "
                f"good, make a new one: {init_command()}"
            ) from None
        if there != self.manifest:
            raise Fenced(
                f"another process has begun a generation of its own in {place} while this node wrote to it: two nodes "
                "with the same keys lose money. Stop one of them for good, then run on the other: backup-cli resync"
            )


class UnknownGeneration(Exception):
    """A publication failed with `error`, and the manifest that names the current generation cannot be read either."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error
