"""The one writer of a log.

`append` is all that a commit costs: encode, one write, one sync. Everything slow (the next segment, sealing the last
one, a new generation) takes `_slow`, which `append` never does.
"""

import secrets
import threading
from collections.abc import Callable
from contextlib import suppress

from backends.base import Announce, SnapshotSource, Standing
from backends.change import MAX_CHANGE, Change, foreign_keys_setting
from backends.errors import BackupError, Replaced, WriteFailed
from backends.log.documents import COMPACTION, MANIFEST, Base, Kept, Manifest
from backends.log.folding import Folded, remove_unfinished
from backends.log.format import Flag, segment_name, time_now
from backends.log.keeping import is_over, keep_generation, read_kept, remove_kept, still_kept
from backends.log.known_damage import remove_damage
from backends.log.opening import read_manifest
from backends.log.reading import Chain
from backends.log.recover import remove_debris, remove_older
from backends.log.segment import FULL, Segment, create_next_segment
from backends.log.session import replaced_by
from backends.log.snapshot import next_generation, publish_snapshot, write_snapshot
from backends.storage.base import Fenced, Storage


class LogWriter:
    """Appends to `segment`, which ends at `standing`.

    `check` raises Replaced when another writer has taken over. It is asked before any file gets or loses its name: the
    names of both writers are the same.
    """

    def __init__(
        self, storage: Storage, manifest: Manifest, segment: Segment, standing: Standing, check: Callable[[], None]
    ) -> None:
        self.storage, self.manifest, self.standing = storage, manifest, standing
        self._check = check
        self.finished: BackupError | None = None
        """Set once nothing may be appended any more; every later append refuses with it."""
        self._segment = segment
        self._prepared: Segment | None = None
        self._left: list[Segment] = []
        self.left_bytes: dict[int, int] = {}
        """Bytes in each earlier segment of the generation, by index."""
        self._new_session = True
        self._foreign_keys = True
        self._slow = threading.Lock()

    # The commit path

    def append(self, change: Change) -> None:
        """Durable when it returns. Raises WriteFailed, Replaced, or what finished the writer before."""
        if self.finished is not None:
            raise self.finished
        flags = (Flag.ADVANCES if change.advances else 0) | (Flag.SESSION if self._new_session else 0)
        flags |= 0 if self._foreign_keys else Flag.FOREIGN_KEYS_OFF
        raw = self._encoded(change)
        try:
            segment = self._segment
            if segment.full or not segment.fits(len(raw)):
                segment = self._next_segment(len(raw))
            before, now = self.standing, time_now()
            chain = Chain(before.sequence, before.checksum)
            chain = segment.append(chain, flags, change.data_version, now, change.database, raw)
        except BaseException as error:
            self._finish(error)
            if isinstance(error, Exception):
                raise self.finished or error from error
            raise
        self.standing = Standing(change.data_version, chain.sequence, chain.checksum, now)
        self._new_session = False
        if not change.advances and (setting := foreign_keys_setting(change.statements)) is not None:
            self._foreign_keys = setting

    def _encoded(self, change: Change) -> bytes:
        try:
            raw = change.encode()
            if len(raw) > MAX_CHANGE:
                raise ValueError(f"it has {len(raw)} bytes of SQL, and no reader takes more than {MAX_CHANGE}")
        except ValueError as error:  # UnicodeEncodeError is one
            self._finish(error)
            raise self.finished or error from error
        return raw

    def _next_segment(self, length: int) -> Segment:
        """Go on in the segment that was made ahead; without one, stay as long as the record fits."""
        if self._prepared is None:
            if self._segment.fits(length):
                return self._segment
            with self._slow:
                if self._prepared is None:  # else the keeper made it while we waited
                    self._prepare()
        left, prepared = self._segment, self._prepared
        assert prepared is not None
        # In this order: a keeper that finds nothing prepared must find the new segment here, or it would make that one
        # again, in the place of the one that is written to.
        self._segment = prepared
        self._prepared = None
        self._leave(left)
        return prepared

    def _leave(self, segment: Segment) -> None:
        self.left_bytes[segment.index] = segment.end
        self._left.append(segment)

    def _finish(self, error: BaseException) -> None:
        """After a failed write or sync nobody knows what the disk holds: no retry, nothing more from this handle."""
        if isinstance(error, BackupError):
            self.finished = error
            return
        if isinstance(error, Fenced):
            self.finished = replaced_by(self.storage)
            return
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        # What no place could hold is not blamed on one.
        remedy = "Report this" if isinstance(error, ValueError) else "Fix that (space, disk, mount)"
        self.finished = WriteFailed(
            f"the change could not be saved at {self.storage.describe()}: {reason}. lightningd has not committed it, "
            f"and everything up to version {self.standing.data_version} is safe. {remedy}, then start the node again"
        )

    # Off the commit path

    def make_room(self) -> None:
        """Zeros ahead of use, and the next segment before this one is full. Raises OSError; nothing is lost by it."""
        with self._slow:
            if self.finished is not None:
                return
            self._segment.make_room()
            if self._prepared is None and self._segment.end > FULL // 2:
                self._prepare()
            while self._left:
                self._left.pop().seal()

    def check_generation(self) -> None:
        """Raise Replaced when the manifest is not the one that this writer knows: its segments then count for nothing.

        A writer that was replaced in the middle of publishing a generation has overwritten it.
        """
        with self._slow:
            try:
                there = read_manifest(self.storage)
            except BackupError:
                raise Replaced(
                    f"the manifest in {self.storage.describe()} is gone or overwritten: the backup was removed or "
                    "exchanged while this node wrote to it. Nothing more is saved there; stop the node, and put the "
                    "backup back; if it is lost for good, make a new one: backup-cli init"
                ) from None
            if there != self.manifest:
                raise Replaced(
                    f"another process has begun a generation of its own in {self.storage.describe()} while this node "
                    "wrote to it: two nodes with the same keys lose money. Stop one of them for good, then run on the "
                    "other: backup-cli resync"
                )

    def take_snapshot(self, source: SnapshotSource, reason: str, announce: Announce | None = None) -> None:
        """A new generation from `source`; the old one is kept for a while.

        After a failure the writer is finished, and the old generation is whole and still the current one.
        """
        if self.finished is not None:
            raise self.finished
        try:
            with self._slow:
                self._take_snapshot(source, reason, announce)
        except BaseException as error:
            self._finish(error)
            if isinstance(error, Exception):
                raise self.finished or error from error
            raise

    def _take_snapshot(self, source: SnapshotSource, reason: str, announce: Announce | None) -> None:
        generation, standing = next_generation(self.storage, self.manifest.generation), self.standing
        pieces, backup_id = source.pieces, self.manifest.backup_id
        written = write_snapshot(self.storage, backup_id, generation, source.data_version, pieces)
        self._publish_snapshot(written, generation)
        if self._prepared is None:
            self._prepare()
        assert self._prepared is not None
        # A chain that no record of the old log is part of: a copy that mixes both is found out.
        checksum = secrets.randbits(32)
        base = Base(standing.sequence, source.data_version, checksum, source.foreign_keys)
        if source.data_version != standing.data_version or still_kept(self.storage, self.manifest) is None:
            # A snapshot taken in doubt, at the same version, does not take the place of one that really disagreed.
            keep_generation(self.storage, Kept(self.manifest, self._segment.index, standing.data_version, time_now()))
        if announce is not None:
            announce(Standing(source.data_version, standing.sequence, checksum))
        self._publish(generation, base, self._prepared.index, reason, source.node_id)
        self._leave(self._segment)
        self._segment, self._prepared = self._prepared, None
        self.standing = Standing(source.data_version, standing.sequence, checksum, time_now())
        while self._left:
            self._left.pop().handle.close()
        remove_damage(self.storage)
        remove_debris(self.storage, self.manifest, self._segment.index, self._check)

    def switch_generation(self, folded: Folded) -> None:
        """Publish the generation that a compaction made beside the running log, and drop what it makes needless.

        Raises OSError or BackupError; whichever generation is then the current one is whole, and the log goes on.
        """
        with self._slow:
            if folded.replaces != self.manifest.generation or self.finished is not None:
                raise BackupError("the compaction was overtaken by a new snapshot; it begins anew when it is needed")
            self._publish_snapshot(folded.written, folded.generation)
            self._publish(folded.generation, folded.base, folded.first_segment, COMPACTION, None)
            remove_older(self.storage, self.manifest)

    def remove_outdated(self) -> None:
        """Remove a kept generation whose time is over. Raises OSError, or Replaced: then it is not ours."""
        with self._slow:
            kept = read_kept(self.storage, self.manifest)
            if self.finished is None and kept is not None and is_over(kept):
                self._check()
                remove_kept(self.storage, kept)

    def forget_folding(self) -> None:
        """Remove what a compaction that was killed has left. Raises OSError, or Replaced: then it is not ours."""
        with self._slow:
            if self.finished is None:
                self._check()
                remove_unfinished(self.storage)

    def _publish_snapshot(self, written: str, generation: int) -> None:
        self._check()
        try:
            publish_snapshot(self.storage, written, generation)
        except (FileExistsError, FileNotFoundError) as error:
            self._check()  # the name is another writer's, or it has tidied up; Replaced is what to say then
            if isinstance(error, FileNotFoundError):
                raise
            raise BackupError(
                f"another process, which no longer writes to the backup in {self.storage.describe()}, has left a "
                f"snapshot with the number {generation} there at this moment. Nothing that was saved is lost, and that "
                "snapshot counts for nothing; repeat what was under way, or start the node again if it has stopped"
            ) from error

    def _publish(self, generation: int, base: Base, first_segment: int, reason: str, node_id: str | None) -> None:
        old = self.manifest
        manifest = Manifest(old.backup_id, generation, base, first_segment, time_now(), reason, node_id or old.node_id)
        self._check()  # once more: from here on it is this generation that counts
        try:
            self.storage.publish(MANIFEST, manifest.encode())
        except BaseException as error:
            # It may have got its name all the same, and a number that was published must never name another snapshot.
            try:
                self.manifest = read_manifest(self.storage)
            except (OSError, BackupError):
                self._finish(error)
            raise
        self.manifest = manifest

    def _prepare(self) -> None:
        prepared = create_next_segment(self.storage, self.manifest.backup_id, self._segment.index + 1, self._check)
        try:
            # Again, now that it has its name: a writer that takes over seals what it sees, and only after its mark.
            self._check()
            # A writer that was held up may have put its own mark back: the segment in its hands tells.
            if self._segment.handle.is_fenced():
                raise replaced_by(self.storage)
        except BaseException:
            prepared.handle.close()
            raise
        self._prepared = prepared

    def segment_bytes(self) -> int:
        """Bytes of records in all segments of the generation."""
        first = self.manifest.first_segment
        return self._segment.end + sum(size for index, size in list(self.left_bytes.items()) if index >= first)

    @property
    def segment_index(self) -> int:
        """The index of the segment that is being written."""
        return self._segment.index

    def abandon(self) -> None:
        """Let go of the open file, and leave everything as it lies there."""
        self._segment.handle.close()

    def close(self) -> None:
        """Trim what was laid ahead. Raises OSError when that fails; every record is safe already."""
        with self._slow:
            segments = [*self._left, self._segment]
            prepared, self._prepared, self._left = self._prepared, None, []
            finished = self.finished is not None
            self.finished = self.finished or BackupError("this backup was closed; start the node again")
            for segment in segments:
                if finished:
                    segment.handle.close()
                else:
                    segment.seal()
            if prepared is not None:
                prepared.handle.close()
                if not finished:
                    self._check()
                    with suppress(FileNotFoundError):
                        self.storage.remove(segment_name(prepared.index))
