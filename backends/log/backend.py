"""A backup as a directory of files: a manifest, a session marker, one snapshot and the segments after it."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from backends.base import MAX_ROLL_FORWARD, Announce, Backend, Report, Sizes, SnapshotSource, Standing, Writer
from backends.change import Change
from backends.database.rebuild import BytesDone
from backends.errors import BackupError, Replaced
from backends.interrupts import deferred
from backends.log.documents import MANIFEST, SESSION, Base, Kept, Manifest, Session
from backends.log.folding import Folded, fold, remove_unfinished
from backends.log.format import is_part_of, segment_index, segment_name, snapshot_name, time_now
from backends.log.generation import MISSING_SESSION, Reader
from backends.log.keeping import read_kept
from backends.log.known_damage import KnownDamage, read_damage, write_damage
from backends.log.latency import measured_latency
from backends.log.look import look_at_files, look_from_inside
from backends.log.opening import open_generation, open_kept, read_manifest, read_session, segment_indexes
from backends.log.reaching import closed_to_us, making, reaching
from backends.log.recover import check_sequence, find_end, recover, room_to_recover, seal_segments
from backends.log.room import SMALL_FILES, most_compressed
from backends.log.segment import Segment, create_next_segment, create_segment, first_checksum, room_ahead
from backends.log.session import SessionMarker, unwritten_session
from backends.log.snapshot import publish_snapshot, write_snapshot
from backends.log.sole_writer import SoleWriter
from backends.log.writer import LogWriter
from backends.status import Status
from backends.storage.base import Closed, Space, Storage

_TIDY_EVERY = 3600.0
"""Seconds between two looks at what need not be kept any longer."""


class LogBackend(Backend):
    """The record log over a storage: the same for every kind of filesystem."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._writer: LogWriter | None = None
        self._marker: SessionMarker | None = None
        self._sole = SoleWriter(storage)
        self._report: Report = lambda level, line: None
        self._trouble: str | None = None
        self._damage: KnownDamage | None = None  # as last read or noted, perhaps of a generation that is over
        self._next_tidying = 0.0
        self._folded: str | None = None  # a compaction's snapshot, under its temporary name
        self._snapshot_bytes = 0
        self._space: Space | None = None  # as it was when last asked for: a status must not wait for the destination

    def describe(self) -> str:
        return self.storage.describe()

    # Reading

    def identify(self) -> str:
        with self._reaching():
            return read_manifest(self.storage).backup_id.hex()

    def inside(self) -> list[str]:
        with self._reaching():
            return self.storage.directories_with(MANIFEST)

    def closed(self) -> list[Closed]:
        return closed_to_us(self.storage)

    def read(self) -> Reader:
        with self._reaching():
            return open_generation(self.storage)

    def kept(self) -> Kept | None:
        with self._reaching():
            return read_kept(self.storage, read_manifest(self.storage))

    def read_kept(self) -> Reader | None:
        with self._reaching():
            kept = read_kept(self.storage, read_manifest(self.storage))
            return open_kept(self.storage, kept) if kept is not None else None

    # Creating and opening

    def check_new(self) -> None:
        with making(self.storage):
            self.storage.make()
            self.storage.unmake()

    def warnings(self, node_directory: Path) -> list[str]:
        if self.storage.shares_disk_with(node_directory):
            return [
                f"{self.describe()} lies on the same disk as the node's directory {node_directory}: when that disk "
                "dies, database and backup die together. Better take another disk, a USB stick or a NAS"
            ]
        return []

    def unwritable(self) -> str | None:
        with self._reaching():
            return self.storage.unwritable()

    def found(self) -> list[str]:
        with self._reaching():
            return self.storage.about()

    def commit_latency(self) -> float:
        with self._reaching():
            return measured_latency(self.storage)

    def create(self, source: SnapshotSource) -> Standing:
        made = False
        with making(self.storage):
            try:
                with deferred():
                    self.storage.make()
                    made = True
                self._sole.acquire()  # so that nobody takes what is there so far for left over
                standing = self._create(source)
                self.created = True
                return standing
            except BaseException:
                self._sole.release()  # a file that is open may keep its directory
                if made:
                    with deferred(), suppress(OSError):
                        self.storage.unmake()
                raise
            finally:
                self._sole.release()

    def _create(self, source: SnapshotSource) -> Standing:
        backup_id = secrets.token_bytes(16)
        written = write_snapshot(self.storage, backup_id, 1, source.data_version, source.pieces)
        publish_snapshot(self.storage, written, 1)
        create_segment(self.storage, backup_id, 1).handle.close()
        base = Base(0, source.data_version, first_checksum(backup_id), source.foreign_keys)
        manifest = Manifest(backup_id, 1, base, 1, time_now(), "init", source.node_id)
        # Before the manifest: a backup without it has lost it, and says so, however empty its log is.
        self.storage.publish(SESSION, unwritten_session(base).encode())
        self.storage.publish(MANIFEST, manifest.encode())  # last: a directory without it is no backup
        return Standing(base.data_version, base.sequence, base.checksum)

    def remove(self) -> None:
        with self._reaching(), suppress(FileNotFoundError):
            self.storage.unmake()

    def last_writer(self) -> Writer | None:
        with self._reaching():
            last = _if_readable(self.storage)
        if last is None or not last.session_id:  # no node has written to it yet
            return None
        return Writer(last.session_id, last.host, last.pid, last.started, last.closed)

    def peek(self) -> Standing:
        with self._reaching():
            _, standing = find_end(self.storage, read_manifest(self.storage), read_session(self.storage))
            return standing

    def room_to_open(self, snapshot: int | None = None) -> int:
        with self._reaching():
            last, _ = find_end(self.storage, read_manifest(self.storage), read_session(self.storage))
            needed = room_to_recover(self.storage, last) + SMALL_FILES
        return needed if snapshot is None else needed + most_compressed(snapshot) + room_ahead(0)

    def open(self, report: Report, session_id: str | None = None) -> Standing:
        self._report = report
        with self._opening():
            manifest, before = read_manifest(self.storage), read_session(self.storage)
            last, standing = find_end(self.storage, manifest, before)  # of damage nothing is taken over
            self._take_over(session_id, before, manifest.generation, standing, last.index)
            # Whoever wrote until now may have gone on, and may have begun another generation.
            manifest = read_manifest(self.storage)
            segment, standing, torn = recover(self.storage, manifest, before, self._checked, self._folded)
            self._go_on(manifest, segment, standing)
            self._measure()
        if before is None:
            report("unusual", f"at {self.describe()} {MISSING_SESSION}. It is there again from now on")
        if torn is not None:
            report("unusual", f"the end of the log was torn: {torn}")
        return standing

    def open_anew(self, session_id: str) -> None:
        with self._opening():
            manifest, before = read_manifest(self.storage), _if_readable(self.storage)
            # Far beyond any record of the old log, and a chain that none of them continues.
            sequence = max(manifest.base.sequence, before.sequence if before else 0) + (1 << 32)
            check_sequence(sequence)
            standing = Standing(manifest.base.data_version, sequence, secrets.randbits(32))
            # The old log must not be held to have lost what never was in it: it stays as good as it is.
            noted = replace(standing, sequence=before.sequence if before else manifest.base.sequence)
            self._take_over(session_id, before, manifest.generation, noted, 0)
            indexes = [index for name in self.storage.names() if (index := segment_index(name)) is not None]
            last = max(indexes, default=0)
            segment = create_next_segment(self.storage, manifest.backup_id, last + 1, self._checked)
            self._go_on(manifest, segment, standing)

    def _take_over(
        self, session_id: str | None, before: Session | None, generation: int, standing: Standing, segment: int
    ) -> None:
        """From here on the writer before gets nothing more acknowledged: its mark is gone, and then its segment is."""
        self._marker = SessionMarker(self.storage, session_id, before, generation, standing)
        seal_segments(self.storage, segment)

    def _checked(self) -> None:
        """Raises Replaced when another writer has taken over."""
        assert self._marker is not None
        self._marker.check()

    def _go_on(self, manifest: Manifest, segment: Segment, standing: Standing) -> None:
        self._writer = LogWriter(self.storage, manifest, segment, standing, self._checked)

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """While this becomes the writer: alone on this machine, and nothing stays open when it fails."""
        with self._reaching():
            self._sole.acquire()
            try:
                yield
            except BaseException:
                writer, self._writer, self._marker = self._writer, None, None
                if writer is not None:
                    writer.abandon()
                self._sole.release()
                raise

    def hold(self, what: str) -> bool:
        """Take the lock before `open` does, and keep it until `close` or `let_go`. Whether the place has locks.

        Raises BackupError, naming it, when another process has the lock.
        """
        with self._reaching():
            self._sole.acquire(what)
            return self._sole.held

    def look_at_lock(self) -> None:
        """Raise what `hold` would while another process has the lock, and change nothing: for a dry run."""
        with self._reaching():
            self._sole.look()

    def let_go(self) -> None:
        """Give the lock up, where nothing was opened."""
        if self._writer is None:
            self._sole.release()

    @property
    def _opened(self) -> LogWriter:
        if self._writer is None:
            raise BackupError(f"{self.describe()} is not open for writing")
        return self._writer

    @property
    def manifest(self) -> Manifest:
        """The current generation. After `open`."""
        return self._opened.manifest

    @property
    def standing(self) -> Standing:
        return self._opened.standing

    def node_id(self) -> str | None:
        if self._marker is not None:
            return self.manifest.node_id or self._marker.session.node_id
        with self._reaching():
            session = _if_readable(self.storage)
            return read_manifest(self.storage).node_id or (session.node_id if session else None)

    def learn_node_id(self, node_id: str) -> None:
        if self._marker is not None:
            self._marker.learn_node_id(node_id)

    def tell_trouble(self, trouble: str | None) -> None:
        if self._marker is not None:
            self._marker.tell_trouble(trouble)

    # Writing

    def append(self, change: Change) -> None:
        self._opened.append(change)

    def take_snapshot(self, source: SnapshotSource, reason: str, announce: Announce | None = None) -> None:
        writer = self._opened
        writer.take_snapshot(source, reason, announce)
        with self._reaching():
            self._measure()
            if self._marker is not None:
                self._marker.begin_generation(writer.manifest.generation)
                self._marker.note(writer.standing)

    def fold(
        self,
        scratch: Path,
        progress: BytesDone | None = None,
        *,
        sparing: bool = False,
        leave_out: int = MAX_ROLL_FORWARD,
    ) -> Folded | None:
        with self._reaching():
            return fold(self.storage, scratch, progress, sparing=sparing, leave_out=leave_out)

    def spare(self, folded: Folded) -> None:
        """Let `open` not take this one, which waits to be published, for what a killed compaction has left."""
        self._folded = folded.written

    def forget_folding(self) -> None:
        """Remove what a compaction that was killed, or gained nothing, has left at the destination.

        For the writer, or before `open` for whoever has the lock. Raises OSError or BackupError.
        """
        self._folded = None
        if self._writer is not None:
            self._writer.forget_folding()
            return
        with self._reaching():
            remove_unfinished(self.storage)

    def switch_generation(self, folded: Folded) -> None:
        with self._reaching():
            writer = self._opened
            try:
                writer.switch_generation(folded)
                if self._marker is not None:
                    self._marker.begin_generation(writer.manifest.generation)
            finally:
                self._measure()

    def upkeep(self) -> None:
        writer, marker = self._opened, self._marker
        if writer.finished is not None or marker is None:
            return
        trouble: str | None = None
        duties: list[Callable[[], None]] = [writer.make_room]
        duties.append(lambda: marker.look(lambda: writer.standing, writer.check_generation))
        if time.monotonic() >= self._next_tidying:
            self._next_tidying = time.monotonic() + _TIDY_EVERY
            duties.append(writer.remove_outdated)
        for duty in duties:
            try:
                duty()
            except Replaced as error:
                writer.finished = error
                self._report("broken", str(error))
                return
            except OSError as error:  # and the other duty is done all the same
                trouble = f"{self.describe()} gives trouble: {error.strerror or error}; so far every change is saved"
        if trouble is not None and trouble != self._trouble:
            self._report("unusual", trouble)
        self._trouble = trouble

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        failed = writer.finished is not None
        with suppress(OSError, BackupError):
            writer.close()
            if not failed and self._marker is not None:
                self._marker.end(writer.standing)
        self._sole.release()

    # Measuring

    def sizes(self) -> Sizes:
        writer = self._opened
        records = writer.standing.sequence - writer.manifest.base.sequence
        return Sizes(self._snapshot_bytes, writer.segment_bytes(), records)

    def status(self, url: str) -> Status:
        if self._writer is not None:
            session = self._marker.session if self._marker else None
            space, known = self._space or self.space(), self._known(self.manifest.generation)
            return look_from_inside(url, self._writer, session, self._snapshot_bytes, space, known)
        with self.read() as reader, self._reaching():
            known = read_damage(self.storage, reader.manifest.generation)
            return look_at_files(url, reader, self.space(), known)

    def known_damage(self) -> KnownDamage | None:
        with self._reaching():
            generation = self._generation()
            known = read_damage(self.storage, generation)
        self._damage = known or self._known(generation)  # what could not be written is known all the same
        return self._damage

    def note_damage(self, damage: KnownDamage) -> bool:
        with self._reaching():
            if damage.generation != self._generation():
                return False
            self._damage = damage
            write_damage(self.storage, damage)
            return damage.generation == self._generation()

    def _generation(self) -> int:
        return (self.manifest if self._writer is not None else read_manifest(self.storage)).generation

    def _known(self, generation: int) -> KnownDamage | None:
        damage = self._damage
        return damage if damage is not None and damage.generation == generation else None

    def space(self) -> Space:
        with self._reaching():
            self._space = self.storage.space()
            return self._space

    def _measure(self) -> None:
        """Ask the destination once for what does not change any more."""
        writer = self._opened
        snapshot = snapshot_name(writer.manifest.generation)
        self._snapshot_bytes = sum(self._size_of(name) for name in self.storage.names() if is_part_of(name, snapshot))
        writer.left_bytes = {
            index: self._size_of(segment_name(index))
            for index in segment_indexes(self.storage, writer.manifest)
            if index < writer.segment_index
        }

    def _size_of(self, name: str) -> int:
        with closing(self.storage.open(name)) as handle:
            return handle.size()

    def _reaching(self) -> AbstractContextManager[None]:
        return reaching(self.storage)


def _if_readable(storage: Storage) -> Session | None:
    """The session marker, for uses that a damaged one must not stop."""
    try:
        return read_session(storage)
    except BackupError:
        return None
