"""The members of a running node's backup: which are in sync, what happens when one fails, and when one is back."""

import errno
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from backends.base import Position
from backends.errors import BackupError, Fenced
from backends.log.backup import Backup
from backends.log.format.attachments import ATTACHMENTS
from backends.log.format.documents import MANIFEST, SESSION, Manifest
from backends.log.format.keys import KEYS
from backends.log.format.members import MEMBERS, Member, OutOfSync
from backends.log.known_damage import DAMAGE
from backends.log.reader.opening import read_manifest
from backends.log.writer.compacted import Anew, CompactedSnapshot
from backends.log.writer.pace import Pace
from backends.log.writer.recovery import seal_segments
from backends.log.writer.writer import Writer
from backends.members.catching_up import CatchingUp
from backends.members.epochs import Epochs, clause
from backends.members.events import Events
from backends.members.examine import Obstacle, seen_as_foreign
from backends.members.files import remove_readable
from backends.members.giving import give_snapshot
from backends.members.levelling import copy_to_others, spread_keys
from backends.members.newest import newest
from backends.members.survey import look_at
from backends.places.base import Place
from backends.storage.base import FileFenced, Space
from backends.storage.mirror.in_sync import Options
from backends.storage.mirror.storage import Differs, MirrorStorage
from backends.storage.mirror.workers import Late, Workers
from backends.system.commits import commits
from backends.system.locks import Locked

BUSY = 1.0
"""Seconds since the last commit during which copying leaves half of the time to commits."""

STOP_WITHIN = 2.0
"""Seconds that catching up has to stop when the node stops."""

EXAMINED_WITHIN = 5.0
"""Seconds that a member may take to show who wrote to it last."""


class RunningMembers:
    """The members of the backup of one node, for the one process that writes to it.

    Its `mirror` is what the log is written to. `at_source` is the name of the member that holds the newest state;
    `missing` says of members that are not in sync why, as a clause.
    """

    def __init__(
        self,
        epochs: Epochs,
        places: Mapping[str, Place],
        in_sync: Collection[str],
        at_source: str,
        events: Events,
        missing: Mapping[str, str],
        workers: Workers | None = None,
    ) -> None:
        self.epochs, self.places, self.events = epochs, dict(places), events
        order = [at_source, *(name for name in in_sync if name != at_source)]
        settings = epochs.settings
        self.mirror = MirrorStorage(
            {name: places[name].storage for name in order},
            Options(settings.grace, settings.need),
            self.on_failure,
            workers,
        )
        self.mirror.level = self._level
        self.mirror.publishing = self._publishing
        self.mirror.by_others = frozenset({KEYS, DAMAGE, *ATTACHMENTS})
        self.lost_at_start: dict[str, Exception] = {}
        """The members that failed before the backup was open, each with its error."""
        self.structure = threading.Lock()
        self.spaces: dict[str, Space] = {}
        """The space at each member, as of the last look."""
        self.catching_up: dict[str, CatchingUp] = {}
        self.reached: dict[str, Position] = {}
        """For each member that is not in sync: up to where it holds the log, since this process knows."""
        self.obstacles: dict[str, tuple[Obstacle, str]] = {}
        """For each member that cannot be caught up now: what stands in the way."""
        self._dropped_at: dict[str, Position] = {}
        self._went_out: dict[str, int] = {}
        self._missing = missing
        self.changing = threading.RLock()
        self._catches_up = False
        self._broken: OSError | None = None
        self._begun = False
        self.writer: Writer | None = None
        self._last_commit = self._last_pause = 0.0
        self._last_position: Position | None = None

    @property
    def in_sync_as_named(self) -> tuple[str, ...]:
        """The members in sync, in the order in which they were configured: for people. The mirror's own order is that
        in which they are read from, and differs from start to start."""
        in_sync = self.mirror.in_sync
        return tuple(member.name for member in self.epochs.settings.members if member.name in in_sync)

    # When a member fails

    def on_failure(self, failed: Mapping[str, Exception]) -> None:
        """Put these members out of sync: see `OnFailure` in backends/storage/mirror."""
        if not self._begun:
            self.lost_at_start.update({name: error for name, error in failed.items() if not isinstance(error, Locked)})
            return
        with self.changing:
            if self._broken is not None:
                raise self._broken
            lost = {name: error for name, error in failed.items() if name in self.mirror.in_sync}
            if not lost:
                return
            for name, error in lost.items():
                if not isinstance(error, Late) and self._is_foreign(name):
                    raise FileFenced(name)
            if len(self.mirror.in_sync) - len(lost) < self.epochs.settings.need:
                raise self._too_few(lost)
            with self.mirror.failing(lost):
                also = self.change(self.mirror.in_sync.keys() - lost.keys(), lost)
            self.dropped({**lost, **also})

    def _is_foreign(self, name: str) -> bool:
        """Whether another node has taken this member over. One that does not answer has only failed."""
        storage, note = self.mirror.in_sync[name], self.epochs.note
        found, _ = self.mirror.attempt({name: lambda: seen_as_foreign(storage, note, in_sync=True)}, EXAMINED_WITHIN)
        return found.get(name, False)

    def _too_few(self, lost: Mapping[str, Exception]) -> OSError:
        """The error when the node cannot go on without these members."""
        name, error = next(iter(lost.items()))
        code = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
        need, left = self.epochs.settings.need, len(self.mirror.in_sync) - len(lost)
        return OSError(code, f"{clause(error)} (member {name}; {need} must be in sync, and only {left} would be left)")

    def change(self, in_sync: Collection[str], why: Mapping[str, Exception]) -> Mapping[str, Exception]:
        """Begin an epoch with these members. After a failure nothing is acknowledged any more."""
        try:
            return self.epochs.change(in_sync, self.publish, {name: clause(error) for name, error in why.items()})
        except (BackupError, OSError) as error:
            self._broken = OSError(errno.EIO, clause(error))
            raise self._broken from error

    def publish(self, documents: Mapping[str, bytes]) -> Mapping[str, Exception]:
        """Write these members' documents: see `Publish` in backends/members/epochs.py.

        Raises FileFenced if another node has taken one of them over: its document must stay.
        """
        works = {name: partial(self._publish_at, name, data) for name, data in documents.items()}
        failed = self.mirror.attempt(works, self.mirror.options.grace)[1]
        for error in failed.values():
            if isinstance(error, FileFenced):
                raise error
        return failed

    def _publish_at(self, name: str, document: bytes) -> None:
        """Raises FileFenced for a member that another node has taken over, and Differs for one whose directory was
        replaced: an old copy would count as the newest state."""
        storage, ours = self.places[name].storage, self.mirror.wrote(SESSION)
        if seen_as_foreign(storage, self.epochs.note, in_sync=True):
            raise FileFenced(name)
        there = storage.read_small(SESSION)
        replaced = ours is not None and there != ours and ours == self.mirror.wrote(SESSION)  # not written just now
        if replaced or any(handle.is_fenced_at(name) for handle in self.mirror.open_files()):
            raise Differs("its directory was replaced while this node wrote to it")
        storage.publish(MEMBERS, document)

    def dropped(self, lost: Mapping[str, Exception]) -> None:
        """These members are out of sync, durably: say so, and begin to catch them up."""
        with self.mirror.failing(lost):
            pass
        for name, error in lost.items():
            self.reached[name] = self._dropped_at[name] = self.position()
            self._went_out[name] = self.times_out(name) + 1
            self.mirror.unlock(name)
            self._tell_out_of_sync(self.member(name), clause(error))
            self.catch_up(name)

    def _tell_out_of_sync(self, member: Member, why: str) -> None:
        out = self.epochs.note.out.get(member.name) or OutOfSync(int(time.time()), why)
        self.events.out_of_sync(member, out.since, out.why, self.in_sync_as_named, self.epochs.settings.need)

    # When a backup is opened

    def _level(self) -> None:
        """Make the members equal, after the previous writer has been fenced at each of them, and begin an epoch."""
        self.mirror.each(lambda _, storage: seal_segments(storage, 0, storage.names()))
        backup_id = self.epochs.note.backup_id
        seen = self.mirror.each(lambda name, _: look_at(Backup(self.places[name]), backup_id, name))
        source = newest(list(seen.values()))
        if not self.epochs.note.knows(source.document.epoch) and source.document.epoch != self.epochs.note.epoch:
            raise Fenced(
                f"another node has just taken over the member {source.name}: two nodes with the same keys lose money. "
                "Nothing was committed; stop one of them for good, then start the other again"
            )
        self.mirror.read_first(source.name)
        original = self.mirror.in_sync[source.name]
        spread_keys(self.mirror)
        copy_to_others(self.mirror, source.name)
        manifest = read_manifest(original)
        self.mirror.each(lambda _, storage: remove_readable(storage, manifest))
        self.epochs.key = manifest.key
        failed = self.epochs.change(self.mirror.in_sync.keys(), self.publish, self._missing)
        with self.mirror.failing(failed):
            pass
        self._begun = True
        self.mirror.settle()

    @contextmanager
    def _publishing(self, name: str, data: bytes) -> Iterator[None]:
        """The log publishes a document. If that makes the backup encrypted, the members' own documents are sealed
        first: from the moment at which a manifest says that the backup is encrypted, nobody can read them.
        """
        key = Manifest.decode(data).key if name == MANIFEST else self.epochs.key
        changes = key != self.epochs.key
        if changes:
            with self.changing:
                self.epochs.key = key
                failed = self.change(self.mirror.in_sync.keys(), {})
                if failed:
                    self.dropped(failed)
        yield
        if changes:
            self.mirror.each(lambda _, storage: remove_readable(storage, Manifest.decode(data)))

    def begin(self, writer: Writer, *, catch_up: bool) -> None:
        """The backup is open for writing. With `catch_up`, begin to catch up the members that are not in sync."""
        self.writer, self._catches_up = writer, catch_up
        for member in self.epochs.settings.members:
            if member.name not in self.mirror.in_sync:
                if catch_up and not member.trailing:
                    self._tell_out_of_sync(member, "it was not there")
                self.catch_up(member.name)

    def catch_up(self, name: str) -> None:
        """Begin to bring this member, which is not in sync, up to the others."""
        if not self._catches_up:
            return
        member = self.member(name)
        before = self.catching_up.get(name)
        if before is not None:
            before.stop()
        self.catching_up[name] = CatchingUp(member, self.places[name], self)
        self.catching_up[name].start()

    def member(self, name: str) -> Member:
        """The configured member of that name."""
        return self.epochs.settings.member(name)

    # What catching up needs (`Host`)

    def position(self) -> Position:
        """Where the log ends."""
        return Position(0, 0, 0) if self.writer is None else self.writer.position

    def pause(self, copied: int) -> None:
        """Leave half of the time to commits, while there are any."""
        now, position = time.monotonic(), self.position()
        if position != self._last_position:
            self._last_position, self._last_commit = position, now
        if copied and now - self._last_commit < BUSY:
            time.sleep(min(max(now - self._last_pause, 0.001), 0.05))
        self._last_pause = time.monotonic()

    def check_not_fenced(self) -> None:
        """Raise Fenced if another node has taken the backup over."""
        if self.writer is not None:
            self.writer.check_not_fenced()

    def obstructed(self, name: str, obstacle: Obstacle, why: str, sources: Collection[str] = ()) -> None:
        """The member cannot be caught up now. Said once for each obstacle; `sources` would pass on what is damaged."""
        before = self.obstacles.get(name)
        self.obstacles[name] = obstacle, why
        if before is None or before[0] is not obstacle:
            mount = self.epochs.note.mounts.get(name)
            others = tuple(sources) or self.in_sync_as_named
            self.events.obstructed(self.member(name), obstacle, why, mount, others)

    def copied_to(self, name: str, position: Position, space: Space) -> None:
        """A pass has ended."""
        self.obstacles.pop(name, None)
        self.reached[name], self.spaces[name] = position, space

    def join(self, name: str) -> None:
        """Begin an epoch with the member that the mirror has just adopted."""
        with self.changing:
            if name not in self.mirror.in_sync:
                raise OSError(errno.EIO, "it failed again before it had joined")
            since = self.epochs.note.out.get(name)
            failed = self.change(self.mirror.in_sync.keys(), {})
            if failed:
                self.dropped(failed)
            if name in failed:
                raise failed[name]
            self.reached.pop(name, None)
            dropped_at = self._dropped_at.pop(name, None)
        lacked = None if dropped_at is None else self.position().sequence - dropped_at.sequence
        began = None if since is None else since.since
        self.events.in_sync(self.member(name), began, lacked, self.in_sync_as_named)

    # For the maintenance thread

    def to_compact(self) -> tuple[str, str]:
        """The name and the URL of the member that is to be compacted: the first one in sync."""
        name = next(iter(self.mirror.in_sync))
        return name, self.member(name).url

    def times_out(self, name: str) -> int:
        """How often this member went out of sync since the start: what was made at it before may be gone."""
        return self._went_out.get(name, 0)

    def publish_compaction(
        self, writer: Writer, compacted: CompactedSnapshot, name: str | None = None, anew: Anew | None = None
    ) -> None:
        """Give the snapshot that was made at the member `name` to every other one, then publish it at all of them.

        Without a name, it was made at the member that is read from; `anew` as for the writer. Raises BackupError or
        OSError: then the old generation is still the current one, or the new one is everywhere.
        """
        with self.structure:  # so that no member joins without it
            name = next(iter(self.mirror.in_sync)) if name is None else name
            source = self.mirror.in_sync.get(name)
            if source is None:
                raise BackupError(f"the member {name}, at which it was made, is out of sync")
            others = {other: storage for other, storage in self.mirror.in_sync.items() if other != name}
            give_snapshot(source, others, compacted.written, Pace(commits))
            writer.publish_compaction(compacted, anew)

    def damaged(self, name: str, what: str) -> bool:
        """A file of this member is damaged: put it out of sync, so that the others mend it. False if none could."""
        if name not in self.mirror.in_sync or len(self.mirror.in_sync) - 1 < self.epochs.settings.need:
            return False
        self.on_failure({name: OSError(f"it is damaged: {what}")})
        return True

    def look_at_space(self) -> None:
        """Look how much space each member has, in the maintenance thread. Raises OSError."""
        self.spaces.update(self.mirror.each(lambda _, storage: storage.space()))

    def forget(self, name: str) -> None:
        """The member was removed from the backup: it can be unmounted, or added again."""
        each = self.catching_up.pop(name, None)
        if each is not None:
            each.stop()
        for handle in self.mirror.open_files():
            self.mirror.workers.leave(name, partial(handle.drop, name))  # it may hang: nothing waits for it
        self.mirror.unlock(name)
        for known in (self.reached, self.obstacles, self.spaces, self._dropped_at):
            known.pop(name, None)

    # The end

    def hurry(self) -> None:
        """The node is stopping: from now on, wait for no member longer than in a commit."""
        options = self.mirror.options
        self.mirror.options = replace(options, bulk=min(options.bulk, options.grace))

    def close(self) -> None:
        """Stop catching up. What does not stop soon is stuck at its member, and ends with the process."""
        for each in self.catching_up.values():
            each.stop()
        until = time.monotonic() + STOP_WITHIN
        for each in self.catching_up.values():
            each.ended.wait(max(until - time.monotonic(), 0.0))
