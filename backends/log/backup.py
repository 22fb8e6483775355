"""A backup as a directory of files: a manifest, a session marker, one snapshot and the segments after it."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial

from backends import keyring
from backends.base import LastWriter, Position, Report, SnapshotSource
from backends.errors import BackupError
from backends.keyring import DataKey
from backends.log.errors import making
from backends.log.facts import Facts
from backends.log.format.documents import MANIFEST, SESSION, Base, Kept, Manifest, Session
from backends.log.format.history import HISTORY, History
from backends.log.format.records import segment_index, time_now
from backends.log.known_damage import DamageNotes, read_damage
from backends.log.latency import measured_latency
from backends.log.reader.end import check_sequence
from backends.log.reader.generation import MISSING_SESSION, Reader
from backends.log.reader.kept import read_held, read_history, read_kept
from backends.log.reader.opening import open_generation, open_kept, read_manifest, read_session
from backends.log.reader.timeline import Found, state_at
from backends.log.status import Status, status_of_files
from backends.log.writer.compacted import CompactedSnapshot, remove_unfinished
from backends.log.writer.fence import WriterFence, unwritten_session
from backends.log.writer.keeping import history_bytes, make_room, size_of, with_room
from backends.log.writer.lock import SoleWriter
from backends.log.writer.options import DEFAULT_OPTIONS, SMALL_FILES, LogOptions
from backends.log.writer.recovery import recover, seal_segments, space_to_recover
from backends.log.writer.segment import Segment, create_next_segment, create_segment, first_checksum
from backends.log.writer.snapshot import publish_snapshot, snapshot_space, write_snapshot
from backends.log.writer.taking_over import marked, recovered
from backends.log.writer.writer import Writer
from backends.places.base import Place
from backends.storage.base import Closed, Space
from backends.storage.unreachable import closed_to_us, reaching
from backends.system.interrupts import deferred

StoreSlots = Callable[[DataKey], None]
"""Called with a new key before anything is encrypted with it. It must leave the key's slots in the backup, durably."""


def _new_key(backup_id: bytes, store: StoreSlots) -> str:
    key = DataKey.new(backup_id)
    keyring.add(key)
    store(key)
    return key.id


class Backup:
    """The backup at one place, whether it exists or not: the same class for every scheme.

    Anyone may read it, at any time. `create` and `open` are for the one writer. Every failure raises BackupError.
    """

    def __init__(self, place: Place, options: LogOptions = DEFAULT_OPTIONS) -> None:
        self.place, self.storage, self._options = place, place.storage, options
        self._lock = SoleWriter(self.storage)
        self.damage = DamageNotes(self.storage, lambda: read_manifest(self.storage).generation)
        """Notes of damage that was found in the current generation."""
        self.created = False
        """Whether `create` of this object made the backup."""

    def describe(self) -> str:
        """The place as a person would name it."""
        return self.place.describe()

    # Reading

    def id(self) -> str:
        """The backup's random id in hex. Raises NotABackup, FromTheFuture, Damaged or Unreachable."""
        self.place.check_present()
        with self._reaching():
            return read_manifest(self.storage).backup_id.hex()

    def node_id(self) -> str | None:
        """The public key (hex) of the node that this backup belongs to; None if not known yet."""
        return self.look().node_id

    def last_writer(self) -> LastWriter | None:
        """Who wrote this backup last; None if no node has written yet or the session marker cannot be read."""
        with self._reaching():
            session = self._session_if_readable()
        return None if session is None else session.last_writer

    def look(self) -> Facts:
        """What the backup says about itself now, each file read once. Changes nothing and disturbs no writer."""
        self.place.check_present()
        return Facts(self.storage)

    def end(self) -> Position:
        """Where the log ends. Raises Damaged."""
        return self.look().end

    def read(self) -> Reader:
        """Open the current generation for reading."""
        with self._reaching():
            return open_generation(self.storage)

    def kept(self) -> Kept | None:
        """Which generation is kept because the database disagreed with it; None if none is."""
        with self._reaching():
            return read_kept(self.storage, read_manifest(self.storage))

    def held(self) -> list[Kept]:
        """The generations that are kept in addition to the current one, for whatever reason, oldest first."""
        with self._reaching():
            return read_held(self.storage, read_manifest(self.storage))

    def history(self) -> History:
        """What is kept for its history, and how much is to be kept."""
        with self._reaching():
            return read_history(self.storage, read_manifest(self.storage))

    def history_bytes(self) -> int:
        """The bytes that are stored for the history alone."""
        with self._reaching():
            manifest = read_manifest(self.storage)
            return self._bytes_of(read_history(self.storage, manifest), manifest)

    def _bytes_of(self, history: History, manifest: Manifest) -> int:
        return history_bytes(history, manifest, self.storage.names(), partial(size_of, self.storage))

    def read_held(self, kept: Kept) -> Reader:
        """Open a generation that is kept for reading. Raises Damaged."""
        with self._reaching():
            return open_kept(self.storage, kept)

    def state_at(self, when: int, among: Sequence[Kept] | None = None) -> Found:
        """The state of the node at `when` (seconds since 1970), among all generations, or only among these kept ones.

        Raises NotHeld or Damaged.
        """
        held = self.held() if among is None else among
        generations: list[Callable[[], Reader]] = [partial(self.read_held, kept) for kept in held]
        if among is None:
            generations.append(self.read)
        with self._reaching():
            return state_at(generations, when)

    def status(self, url: str) -> Status:
        """The backup's status, found out by reading the headers of the log's records."""
        with self.read() as reader, self._reaching():
            known = read_damage(self.storage, reader.manifest.generation)
            kept = read_history(self.storage, reader.manifest)
            taken = self._bytes_of(kept, reader.manifest) if kept.generations else 0
            return status_of_files(url, reader, self.space(), known, (len(kept.generations), taken, kept.oldest))

    def space(self) -> Space:
        """The space at the destination."""
        with self._reaching():
            return self.storage.space()

    def space_to_open(self, snapshot: int | None = None) -> int:
        """Bytes that must be free at the destination so that `open` cannot run out of space.

        `snapshot` is the size of a database in bytes: with it, there is also space for a snapshot of that database.
        """
        last, _ = self.look().last
        with self._reaching():
            needed = space_to_recover(self.storage, last, self._options) + SMALL_FILES
        return needed if snapshot is None else needed + snapshot_space(snapshot, self._options)

    # For a URL that names a directory with backups in it, instead of a backup

    def list_backups(self) -> list[str]:
        """The names of the backups in the directory that the URL names."""
        with self._reaching():
            return self.storage.directories_with(MANIFEST)

    def closed(self) -> list[Closed]:
        """What keeps this user from a backup in the directory that the URL names, because other users own it."""
        return closed_to_us(self.storage)

    # Creating

    def check_new(self) -> None:
        """Raise BackupError unless a new backup can be made here. Leaves nothing behind."""
        self.place.check_writable()
        with making(self.storage):
            self.storage.make()
            self.storage.unmake()

    def create(self, source: SnapshotSource, encrypt: StoreSlots | None = None) -> Position:
        """Make a new backup that holds this database; after a failure everything is removed again.

        With `encrypt`, the backup is encrypted under a new key, which is in the keyring afterwards.
        """
        made = False
        with making(self.storage):
            try:
                with deferred():
                    self.storage.make()
                    made = True
                self._lock.acquire()  # so that nobody takes the unfinished backup for leftovers
                position = self._create(source, encrypt)
                self.created = True
                return position
            except BaseException:
                self._lock.release()  # an open file can keep its directory from being removed
                if made:
                    with deferred(), suppress(OSError):
                        self.storage.unmake()
                raise
            finally:
                self._lock.release()

    def _create(self, source: SnapshotSource, encrypt: StoreSlots | None) -> Position:
        backup_id = secrets.token_bytes(16)
        key = None if encrypt is None else _new_key(backup_id, encrypt)
        base = Base(0, source.data_version, first_checksum(backup_id), source.foreign_keys)
        manifest = Manifest(backup_id, 1, base, 1, time_now(), "init", source.node_id, key)
        file = manifest.snapshot_header()
        written = write_snapshot(self.storage, file, base, source.pieces, self._options, size=source.size)
        publish_snapshot(self.storage, written, 1)
        create_segment(self.storage, manifest.segment_header(1), self._options).handle.close()
        # The session marker before the manifest: a backup without a marker has lost it and says so, even if its log is
        # empty.
        self.storage.publish(SESSION, unwritten_session(base, key).encode())
        self.storage.publish(MANIFEST, manifest.encode())  # last: a directory without a manifest is not a backup
        return Position(base.data_version, base.sequence, base.checksum)

    def commit_latency(self) -> float:
        """Seconds that one durable write takes here, the median of several. For a backup that was just created."""
        with self._reaching():
            return measured_latency(self.storage)

    def remove(self) -> None:
        """Remove the whole backup, which a drill made for itself. A missing one is no error."""
        with self._reaching(), suppress(FileNotFoundError):
            self.storage.unmake()

    # Opening

    def open(
        self,
        report: Report,
        session_id: str | None = None,
        *,
        seen: Facts | None = None,
        compacted: CompactedSnapshot | None = None,
    ) -> Writer:
        """Become the writer: fence the previous writer, then read the end of the log and repair it.

        The log may end at another position than `end` returned, because another writer may have appended until now.
        `session_id` is the node's session; without it, this writer continues the last session (for offline work).
        `seen` is what `look` just returned, if the caller has it. `compacted` is a snapshot that waits to be published:
        it is not removed as the leftover of a killed compaction.
        """
        self.place.check_writable()
        for line in self.place.remarks():
            report("unusual", line)
        keep = None if compacted is None else compacted.written
        with self._opening():
            seen = seen or self.look()
            before, (last, position) = seen.session, seen.last  # raises Damaged: a damaged backup is not taken over
            noted, manifest = position, seen.manifest
            generation = manifest.generation
            if not self.storage.is_level():
                # The marker says what was once saved. A copy that lacks the last record, which was acknowledged only
                # if all have it, must not look damaged to whoever reads it before the copies are equal again.
                saved = (before.sequence, before.data_version, before.generation) if before else (0, 0, 1)
                noted, generation = replace(position, sequence=saved[0], data_version=saved[1]), saved[2]
            mark = partial(WriterFence, self.storage, session_id, before, generation, noted, self._options)
            fence = marked(self.storage, manifest, seen.names, report, mark)
            # From here on the previous writer acknowledges nothing: its mark is gone, and now its segment is sealed.
            names = self.storage.after_take_over(seal_segments(self.storage, last.index, seen.names))
            # Until now it may have appended, and may even have begun another generation.
            manifest = read_manifest(self.storage)
            fence.begin_generation(manifest)
            if HISTORY in names:
                needed = space_to_recover(self.storage, last, self._options) + SMALL_FILES
                if make_room(self.storage, manifest, needed, fence.check, report):
                    names = self.storage.names()
            recovering = partial(recover, self.storage, manifest, before, fence.check, self._options)
            names, (segment, position, torn) = recovered(
                self.storage, manifest, fence, names, report, lambda there: recovering(there, keep)
            )
            writer = self._writer(manifest, segment, position, fence, report, names)
        if before is None:
            report("unusual", f"at {self.describe()} {MISSING_SESSION}. It has been written again")
        if torn is not None:
            report("unusual", f"the end of the log was torn: {torn}")
        return writer

    def open_anew(self, report: Report, session_id: str) -> Writer:
        """Become the writer of a backup whose log is damaged. Only `take_snapshot` may follow."""
        self.place.check_writable()
        with self._opening():
            manifest, before = read_manifest(self.storage), self._session_if_readable()
            # Far beyond any record of the old log, and with a random checksum that none of them chains to.
            sequence = max(manifest.base.sequence, before.sequence if before else 0) + (1 << 32)
            check_sequence(sequence)
            position = Position(manifest.base.data_version, sequence, secrets.randbits(32))
            # The marker keeps the old sequence: the old log must not be blamed for losing what it never contained.
            noted = replace(position, sequence=before.sequence if before else manifest.base.sequence)
            generation = manifest.generation
            mark = partial(WriterFence, self.storage, session_id, before, generation, noted, self._options)
            fence = marked(self.storage, manifest, self.storage.names(), report, mark)
            names = self.storage.after_take_over(seal_segments(self.storage, 0, self.storage.names()))
            indexes = [index for name in names if (index := segment_index(name)) is not None]
            last = max(indexes, default=0)
            if HISTORY in names:
                make_room(self.storage, manifest, self._options.preallocated(0) + SMALL_FILES, fence.check, report)
            file = manifest.segment_header(last + 1)
            make = partial(create_next_segment, self.storage, file, fence.check, self._options)
            segment = with_room(self.storage, lambda: manifest, fence.check, report, make)
            return self._writer(manifest, segment, position, fence, report, [*names, segment.name])

    def _writer(
        self,
        manifest: Manifest,
        segment: Segment,
        position: Position,
        fence: WriterFence,
        report: Report,
        names: Sequence[str],
    ) -> Writer:
        try:
            return Writer(self.storage, manifest, segment, position, fence, self._lock, report, self._options, names)
        except BaseException:
            segment.handle.close()
            raise

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """Hold the lock while this becomes the writer; release it again on failure. OSErrors become BackupErrors."""
        with self._reaching():
            self._lock.acquire()
            try:
                yield
            except BaseException:
                self._lock.release()
                raise

    # The lock, for a command that reads before it opens the backup for writing

    def hold(self, what: str) -> bool:
        """Take the lock before `open` does, and keep it until the writer is closed or `let_go` is called.

        `what` names this process to others. Returns whether the place has locks. Raises InUse, which names the other
        process, when another process has the lock.
        """
        with self._reaching():
            self._lock.acquire(what)
            return self._lock.held

    def check_lock(self) -> None:
        """Raise what `hold` would raise if another process has the lock, but change nothing: for a dry run."""
        with self._reaching():
            self._lock.look()

    def let_go(self) -> None:
        """Release the lock, if nothing was opened or everything is closed again."""
        self._lock.release()

    def discard_compaction(self) -> None:
        """Remove what a killed or useless compaction left behind. The caller must hold the lock."""
        with self._reaching():
            remove_unfinished(self.storage)

    def _session_if_readable(self) -> Session | None:
        """The session marker; None if it is missing or damaged, for callers that go on without it."""
        try:
            return read_session(self.storage)
        except BackupError:
            return None

    def _reaching(self) -> AbstractContextManager[None]:
        return reaching(self.storage)
