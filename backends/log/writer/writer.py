"""The one writer of a log.

A commit costs one `append`: encode, one write, one sync. Everything slow (making the next segment, sealing retired
ones, a new generation) takes the lock `_slow`. `append` never takes it as long as the next segment was made ahead.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import cache, partial
from typing import TypeVar

from backends.base import Announce, Position, Report, Sizes, SnapshotSource
from backends.change import MAX_CHANGE, Change, foreign_keys_setting
from backends.errors import BackupError, Fenced, WriteFailed
from backends.keep import Keep
from backends.keyring import DataKey
from backends.log.format.documents import COMPACTION, Base, Kept, Manifest
from backends.log.format.records import FileHeader, Flag, is_part_of, segment_name, snapshot_name, time_now
from backends.log.known_damage import DamageNotes, remove_damage
from backends.log.reader.kept import is_over, read_history, read_kept
from backends.log.reader.opening import segment_indexes
from backends.log.status import Status, status_of_writer
from backends.log.writer.compacted import Anew, CompactedSnapshot, remove_unfinished
from backends.log.writer.fence import WriterFence, fenced_by
from backends.log.writer.generation import CurrentGeneration, UnknownGeneration
from backends.log.writer.keeping import (
    add_to_history,
    give_up_oldest,
    given_up,
    history_bytes,
    keep_generation,
    make_room,
    not_kept,
    remove_kept,
    still_kept,
    tidy_history,
    with_room,
)
from backends.log.writer.lock import SoleWriter
from backends.log.writer.options import SMALL_FILES, LogOptions
from backends.log.writer.recovery import remove_obsolete_files, remove_older
from backends.log.writer.segment import CutShort, Segment
from backends.log.writer.segments import Segments
from backends.log.writer.snapshot import next_generation, snapshot_space, write_snapshot
from backends.storage.base import FileFenced, Space, Storage, is_full
from backends.storage.unreachable import reaching
from backends.system.commits import commits

_T = TypeVar("_T")

_TIDY_EVERY = 3600.0
"""Seconds between two checks for a kept generation that is too old."""


class Writer:
    """An open log, which goes on in `segment` after `position`. Made by `Backup.open`.

    After a failed append or snapshot it refuses all further ones: only opening the backup again shows what is there.
    """

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        segment: Segment,
        position: Position,
        fence: WriterFence,
        lock: SoleWriter,
        report: Report,
        options: LogOptions,
        names: Sequence[str],
    ) -> None:
        self.storage, self.position = storage, position
        """`position` is where the log ends now: what the next `db_write` call is compared with."""
        self._fence, self._lock, self._report, self._options = fence, lock, report, options
        self.failure: BackupError | None = None
        """Set once nothing may be appended any more; every later append raises it."""
        self._new_session = True
        self._foreign_keys = True
        self._slow = threading.Lock()
        self._current = CurrentGeneration(storage, manifest, fence.check)
        self._segments = Segments(
            storage,
            manifest.segment_header(segment.index),
            segment,
            self._slow,
            options,
            fence.check,
            lambda: fenced_by(storage),
        )
        self.damage = DamageNotes(storage, lambda: self.manifest.generation)
        self._snapshot_bytes = 0
        self._space: Space | None = None  # as of the last call of `space`: a status must not wait for the destination
        self._trouble: str | None = None
        self._next_tidying = 0.0
        self._aged = time.monotonic()
        self._closed = False
        self._history = 0
        """How many generations are kept for their history, as far as known."""
        self._history_bytes = self._history_oldest = 0
        self._tidied = True
        """Whether what a compaction made needless is gone."""
        self._measure(names)

    # The commit path

    def append(self, change: Change) -> None:
        """Append a change, which is durable when this returns. Raises WriteFailed, Fenced, or the earlier `failure`."""
        if self.failure is not None:
            raise self.failure
        flags = (Flag.ADVANCES if change.advances else 0) | (Flag.SESSION if self._new_session else 0)
        flags |= 0 if self._foreign_keys else Flag.FOREIGN_KEYS_OFF
        raw = self._encoded(change)
        commits.begin()
        try:
            self.position = self._appended(flags, change, raw)
        except BaseException as error:
            self._fail(error)
            if isinstance(error, Exception):
                raise self.failure or error from error
            raise
        finally:
            commits.end(self._segments.current.end)
        self._new_session = False
        if not change.advances and (setting := foreign_keys_setting(change.statements)) is not None:
            self._foreign_keys = setting

    def _appended(self, flags: int, change: Change, raw: bytes) -> Position:
        """Append the record, and return the position after it. Raises OSError, Fenced or FileFenced."""
        segment = self._segments.current
        if segment.full or not segment.fits(len(raw)):
            segment = self._segments.for_record(len(raw))
        record = self.position, flags, change.data_version, time_now(), change.database, raw
        try:
            return segment.append(*record)
        except CutShort:
            return self._segments.for_record(len(raw)).append(*record)

    def _encoded(self, change: Change) -> bytes:
        try:
            raw = change.encode()
            if len(raw) > MAX_CHANGE:
                raise ValueError(f"it has {len(raw)} bytes of SQL, and readers accept no more than {MAX_CHANGE}")
        except ValueError as error:  # UnicodeEncodeError is one
            self._fail(error)
            raise self.failure or error from error
        return raw

    def _fail(self, error: BaseException) -> None:
        """Set `failure`. After a failed write or sync nobody knows what the disk holds: no retry, no further append."""
        if isinstance(error, BackupError):
            self.failure = error
            return
        if isinstance(error, FileFenced):
            self.failure = fenced_by(self.storage)
            return
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        # A ValueError means that no destination could hold the change, so it is not blamed on this one.
        remedy = "Report this" if isinstance(error, ValueError) else "Fix that (space, disk, mount, server)"
        self.failure = WriteFailed(
            f"the change could not be saved at {self.storage.describe()}: {reason}. lightningd has not committed it, "
            f"and everything up to version {self.position.data_version} is safe. {remedy}, then start the node again"
        )

    # A new generation

    def take_snapshot(
        self, source: SnapshotSource, reason: str, announce: Announce | None = None, *, encrypt: DataKey | None = None
    ) -> None:
        """Begin a new generation with this database. `announce` is called right before it is published.

        The old generation is kept for KEEP_FOR seconds, or until the new one is replaced in this way. With `encrypt`,
        the backup is encrypted under that key from now on, and nothing of what was there before is kept: everybody
        could read it. After a failure this writer refuses everything; the old generation is whole and still the current
        one.
        """
        if self.failure is not None:
            raise self.failure
        try:
            with self._slow:
                self._take_snapshot(source, reason, announce, encrypt)
        except BaseException as error:
            self._fail(error.error if isinstance(error, UnknownGeneration) else error)
            if isinstance(error, Exception):
                raise self.failure or error from error
            raise
        with reaching(self.storage):
            self._measure(self.storage.names())
            self._fence.begin_generation(self.manifest)
            self._fence.note(self.position)

    def _take_snapshot(
        self, source: SnapshotSource, reason: str, announce: Announce | None, encrypt: DataKey | None
    ) -> None:
        old, position, current = self.manifest, self.position, self._current
        new_key = None if encrypt is None or encrypt.id == old.key else encrypt.id
        key = new_key or old.key
        generation = next_generation(self.storage, old.generation)
        file = replace(old.snapshot_header(generation), key=key)
        self._make_room(snapshot_space(source.size, self._options))
        # A random checksum, to which no record of the old log chains: it exposes a copy that mixes both logs.
        checksum = secrets.randbits(32)
        base = Base(position.sequence, source.data_version, checksum, source.foreign_keys)
        written = self._write_snapshot(file, base, source)
        current.publish_snapshot(written, generation)
        if new_key is not None:
            self._segments.encrypt(new_key)
        first = self._with_room(self._segments.prepare)
        if new_key is None:
            ended = Kept(old, self._segments.current.index, position.data_version, time_now())
            self._add_to_history(ended)  # a generation that everybody can read is not kept
            self._keep_if_disagreeing(ended, source.data_version)
        if announce is not None:
            announce(Position(source.data_version, position.sequence, checksum))
        if new_key is not None:
            # Before the manifest: readers do not believe a plain marker once the manifest says that all is encrypted.
            self._fence.encrypt(new_key)
        self._with_room(partial(current.publish, generation, base, first.index, reason, source.node_id, key))
        self._segments.begin_generation()
        self.position = Position(source.data_version, position.sequence, checksum, time_now())
        remove_damage(self.storage)
        names = self.storage.names()
        remove_obsolete_files(self.storage, self.manifest, first.index, self._fence.check, names, self._options.keep)

    def _write_snapshot(self, file: FileHeader, base: Base, source: SnapshotSource) -> str:
        """Write the snapshot, and return its temporary name. What is kept for its history is given up for it if it
        fills the destination, provided that the source can be read again."""

        def write() -> str:
            return write_snapshot(self.storage, file, base, source.pieces, self._options, size=source.size)

        return write() if isinstance(source.pieces, Iterator) else self._with_room(write)

    def _with_room(self, work: Callable[[], _T]) -> _T:
        """What `work` returns: it is repeated after giving up what is kept for its history, while it lacks space."""
        return with_room(self.storage, lambda: self.manifest, self._fence.check, self._report, work)

    def begin_segment(self) -> int:
        """Let the log go on in a new segment, and return its index: a generation may begin there later.

        Raises OSError or Fenced; then the log goes on as before.
        """
        with self._slow:
            if self.failure is not None:
                raise self.failure
            self._segments.prepare()
            return self._segments.go_on().index

    def publish_compaction(self, compacted: CompactedSnapshot, anew: Anew | None = None) -> None:
        """Publish the generation that was made beside the running log, and remove what it makes obsolete. A compaction
        made it, or, with `anew`, it was made of the node's database, and heals the backup.

        Raises BackupError. Then the current generation, be it the old or the new one, is whole, and the log goes on.
        """
        with reaching(self.storage):
            try:
                with self._slow, self._unless_unknown():
                    self._publish_compaction(compacted, anew)
            except BaseException:
                with suppress(OSError, BackupError):  # the first error is the one to report
                    self._measure(self.storage.names())
                raise
            self._fence.begin_generation(self.manifest)
            self._measure(self.storage.names())

    def _publish_compaction(self, compacted: CompactedSnapshot, anew: Anew | None) -> None:
        if compacted.replaces != self.manifest.generation or self.failure is not None:
            raise BackupError("the compaction was overtaken by a new snapshot; it will start over when it is needed")
        self._make_room(SMALL_FILES)
        self._current.publish_snapshot(compacted.written, compacted.generation)
        old, base = self.manifest, compacted.base
        self._fence.check()
        if anew is None:
            ended = Kept(old, compacted.first_segment, base.data_version, time_now(), base.sequence)
        else:  # its log begins with a segment of its own
            ended = Kept(old, compacted.first_segment - 1, anew.ended, time_now())
        self._add_to_history(ended)
        if anew is not None:
            self._fence.check()  # of another writer's note, `still_kept` might think that it is invalid
            self._keep_if_disagreeing(ended, base.data_version)
        reason = COMPACTION if anew is None else anew.reason
        number, first = compacted.generation, compacted.first_segment
        publish = partial(self._current.publish, number, base, first, reason, None, old.key, anew=anew is not None)
        self._with_room(publish)
        # The generation is published. If it is in vain, the next look at the marker says so; and what could not be
        # tidied up is left for maintenance.
        self._tidied = False
        with suppress(Fenced, OSError):
            self._tidy_history()

    def _keep_if_disagreeing(self, ended: Kept, database: int) -> None:
        """Keep the current generation for a while, which ends like this, if the database at that version disagrees.

        One that is replaced only in doubt, at the same version, does not displace one that really disagreed. OSError.
        """
        if ended.data_version != database or still_kept(self.storage, ended.manifest) is None:
            self._with_room(partial(keep_generation, self.storage, ended))

    def _add_to_history(self, ended: Kept) -> None:
        """Note that the current generation, which ends like this, is kept for its history once the next one counts.

        The next one is worth more than the past: on a full disk older ones are given up for the note, and then this
        one, and the next one is published all the same. Raises Fenced, or OSError for another failure.
        """
        check, keep, lived = self._fence.check, self._options.keep, self._lived()
        while True:
            try:
                add_to_history(self.storage, self.manifest, ended, keep, lived, check)
                return
            except OSError as error:
                if not is_full(error):
                    raise
                oldest = give_up_oldest(self.storage, self.manifest, check)
                if oldest is None:
                    self._report("unusual", not_kept(self.storage, ended))
                    return
                self._report("unusual", given_up(self.storage, oldest))

    def _tidy_history(self) -> None:
        """Remove what is not to be kept any more of earlier generations."""
        names, check = self.storage.names(), self._fence.check
        size_of = cache(self._size_of)  # each size is needed twice, and may take a round trip
        history = tidy_history(self.storage, self.manifest, self._options.keep, names, check, size_of, self._lived())
        remove_older(self.storage, self.manifest, names, history, check)
        self._tidied = True
        self._history, self._history_oldest = len(history.generations), history.oldest
        self._history_bytes = history_bytes(history, self.manifest, names, size_of)

    def _lived(self) -> int:
        """Whole seconds since the last call, or since this writer was opened: what is kept ages by them."""
        lived = int(time.monotonic() - self._aged)
        self._aged += lived
        return lived

    def keep_history(self, keep: Keep | None) -> None:
        """Keep so much of the history from now on; None: what is noted in the backup. For URLs that come or go while
        the node runs."""
        self._options = replace(self._options, keep=keep)
        self._next_tidying = 0.0

    def give_up_history(self, free: int) -> None:
        """Remove generations that are kept for their history, the oldest first, until so many bytes are free.

        The node's next commits are worth more than its past. Raises OSError, or Fenced.
        """
        while self._history and self.storage.space().free < free:
            if not self.give_up_oldest():
                return

    def _make_room(self, needed: int) -> None:
        """Give up what is kept for its history, the oldest first, for a new generation that needs so many bytes.

        Once that is published, what was given up is struck off the list.
        """
        make_room(self.storage, self.manifest, needed, self._fence.check, self._report)

    def give_up_oldest(self) -> bool:
        """Remove the oldest generation that is kept for its history, for want of space; whether there was one.

        Raises OSError or BackupError.
        """
        with self._slow:
            if self.failure is not None:
                raise self.failure
            oldest = give_up_oldest(self.storage, self.manifest, self._fence.check)
            self._tidy_history()
        if oldest is not None:
            self._report("unusual", given_up(self.storage, oldest))
        return oldest is not None

    @contextmanager
    def _unless_unknown(self) -> Iterator[None]:
        """After UnknownGeneration, set `failure`: nobody knows to which generation an append would belong."""
        try:
            yield
        except UnknownGeneration as error:
            self._fail(error.error)
            raise error.error from None

    def discard_compaction(self) -> None:
        """Remove what a killed or useless compaction left behind. Raises BackupError or OSError."""
        with self._slow:
            if self.failure is None:
                self._fence.check()
                remove_unfinished(self.storage)

    # Maintenance, off the commit path

    def maintain(self) -> None:
        """The regular duties: preallocate, check the session marker, remove a kept generation that is too old.

        Raises nothing for a failed destination: the node's log says what is wrong.
        """
        trouble: str | None = None
        duties: list[Callable[[], None]] = [self.preallocate]
        duties.append(lambda: self._fence.look(lambda: self.position, self.check_generation))
        if time.monotonic() >= self._next_tidying:
            self._next_tidying = time.monotonic() + _TIDY_EVERY
            duties.append(self.remove_outdated)
        for duty in duties:
            if self.failure is not None:
                return
            try:
                duty()
            except Fenced as error:
                self.failure = error
                self._report("broken", str(error))
                return
            except OSError as error:  # the other duties are still done
                if is_full(error) and self._made_room():
                    continue
                why = error.strerror or error
                trouble = f"{self.storage.describe()} reports an error: {why}; every change until now is saved"
        if trouble is not None and trouble != self._trouble:
            self._report("unusual", trouble)
        self._trouble = trouble

    def _made_room(self) -> bool:
        """Whether a generation that was kept for its history was given up, because the destination is full: the next
        call of `maintain` tries again. A quota does not show in the number of free bytes."""
        if not self._history:
            return False
        try:
            return self.give_up_oldest()
        except (OSError, BackupError):
            return False  # the next round of duties says why

    def preallocate(self) -> None:
        """Preallocate, and make the next segment before this one is full. Raises Fenced or OSError.

        An OSError loses nothing: `append` does without what was not made ahead.
        """
        with self._slow:
            if self.failure is None:
                self._segments.maintain()

    def check_generation(self) -> None:
        """Raise Fenced if the manifest is not the one that this writer knows. Raises OSError from the storage."""
        with self._slow:
            self._current.check()

    def check_not_fenced(self) -> None:
        """Raise Fenced if another writer has taken the backup over. Raises OSError from the storage."""
        self._fence.check()

    def remove_outdated(self) -> None:
        """Remove kept generations that are too old, or too many. Raises OSError, or Fenced: then they are not ours to
        remove."""
        with self._slow:
            if self.failure is not None:
                return
            kept, history = read_kept(self.storage, self.manifest), read_history(self.storage, self.manifest)
            if kept is not None and is_over(kept):
                remove_kept(self.storage, kept, history, self._fence.check)
            if history.generations or not self._tidied:
                self._tidy_history()

    def note_node_id(self, node_id: str) -> None:
        """Record which node this backup belongs to; a new node's database says so only after some time."""
        self._fence.note_node_id(node_id)

    def note_trouble(self, trouble: str | None) -> None:
        """Record a sentence for everyone who looks at the backup; None when all is well again."""
        self._fence.note_trouble(trouble)

    # What there is to know

    @property
    def manifest(self) -> Manifest:
        """The manifest of the current generation."""
        return self._current.manifest

    @property
    def foreign_keys(self) -> bool:
        """Whether lightningd enforces foreign keys now, as far as the log tells: it switches them off to migrate."""
        return self._foreign_keys

    @property
    def node_id(self) -> str | None:
        """The public key (hex) of the node that this backup belongs to; None if not known yet."""
        return self.manifest.node_of(self._fence.session)

    @property
    def segment_index(self) -> int:
        """The index of the segment that is being written."""
        return self._segments.current.index

    def describe(self) -> str:
        """The place as a person would name it."""
        return self.storage.describe()

    def sizes(self) -> Sizes:
        """The sizes of the current generation; costs no I/O."""
        records = self.position.sequence - self.manifest.base.sequence
        segments = self._segments.bytes_since(self.manifest.first_segment)
        kept = self._history, self._history_bytes, self._history_oldest
        return Sizes(self._snapshot_bytes, segments, records, *kept)

    def space(self) -> Space:
        """The space at the destination."""
        with reaching(self.storage):
            self._space = self.storage.space()
            return self._space

    def status(self, url: str) -> Status:
        """The backup's status, from memory; asks the destination only for its space, and only the first time."""
        space = self._space or self.space()
        known = self.damage.remembered()
        return status_of_writer(
            url, self.manifest, self._fence.session, self.position, self.sizes(), space, known, self.failure
        )

    def _measure(self, names: Sequence[str]) -> None:
        """Get the sizes of the files that do not change any more. `names` are those of all files. Raises OSError."""
        snapshot = snapshot_name(self.manifest.generation)
        self._snapshot_bytes = sum(self._size_of(name) for name in names if is_part_of(name, snapshot))
        self._segments.set_retired_bytes(
            {
                index: self._size_of(segment_name(index))
                for index in segment_indexes(names, self.manifest)
                if index < self.segment_index
            }
        )

    def _size_of(self, name: str) -> int:
        with closing(self.storage.open(name)) as handle:
            return handle.size()

    # The end

    def close(self) -> None:
        """End the session, give back preallocated space, release the lock. Never raises for a failed destination."""
        if self._closed:
            return
        self._closed = True
        failed = self.failure is not None
        self.failure = self.failure or BackupError("this backup was closed; start the node again")
        try:
            with suppress(OSError, BackupError):
                with self._slow:
                    self._segments.close(failed=failed)
                if not failed:
                    self._fence.end(self.position)
        finally:
            self._lock.release()
