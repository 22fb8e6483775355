"""One stretch of following: from where the copy is to the end of the log, and on as it grows.

It ends when the log goes on elsewhere, when the copy does not belong to this log, or when its time is over. The caller
then begins the next one. All that is known of the copy's place is in the copy itself, so a stretch may be killed at any
moment.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from backends.change import foreign_keys_setting
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.log.format.records import Flag, RecordHeader
from backends.log.reader.tail import Mark, Moved, NotThere, Tail, attach
from backends.sqlite import large_statements, limits
from backends.sqlite.following import FollowingCopy
from backends.sqlite.rebuild import SizeLimit
from backends.sqlite.replay_errors import TooLarge
from backends.storage.unreachable import reaching
from backends.system.pulse import pulse

AT_ONCE = 500
"""Changes in one transaction while the copy catches up."""

STRETCH = 600.0
"""Seconds of processor time after which a stretch ends: the process that works has a limit for all its life."""


class Ended(Enum):
    """Why a stretch has ended."""

    IN_STEP = "in_step"
    """The copy holds everything, and that was all that was wanted."""
    MOVED = "moved"
    """Another writer has taken over, or another generation was begun."""
    NOT_THERE = "not_there"
    """The log does not hold the change that the copy holds last: it has to be rebuilt."""
    AHEAD = "ahead"
    """As NOT_THERE, and the copy is at a later version than the backup."""
    TIME = "time"
    """It has taken much processor time."""
    GONE = "gone"
    """The copy has lost its name: somebody has moved it away, or put something else there."""


@dataclass(frozen=True, slots=True)
class News:
    """How far the copy is. Times are seconds since 1970."""

    backup_id: str
    key: str | None
    generation: int
    lineage: int
    """That of the generation (`Manifest.lineage`)."""
    sequence: int
    checksum: int
    data_version: int
    last_change: int
    """When the last change was saved in the backup; 0 if the copy has not got a change since it was opened."""
    lag: int
    """Changes that were in the log when it was opened, and that the copy lacks."""
    in_step: int
    """When the copy last held everything that the backup did; 0 if never in this stretch."""
    checked: int
    """When every table had been checked; 0 if not in this stretch."""
    changes: int
    """Changes replayed in this stretch."""
    torn: str | None
    end_unverified: str | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """How a stretch has ended; if the copy is not in the log, with the versions at which both end."""

    ended: Ended
    news: News | None
    copy_version: int = 0
    backup_version: int = 0


@dataclass(frozen=True, slots=True)
class Order:
    """What a stretch is to do."""

    backup_id: str
    """Whose changes the copy takes: another backup may come to be at the same place at any moment."""
    once: bool
    """End as soon as the copy is in step, and checked if that is due."""
    every: float
    """Seconds between two looks for more."""
    check_in: float
    """Seconds until the next check of all tables begins. Not a time of day: the clock may jump."""
    check_every: float
    """Seconds from one check to the next."""
    accept_unknown: bool
    """Whether objects in the schema are accepted that no lightningd makes."""
    lineage: int
    """That of the generation that the copy was built from. A copy of another lineage may hold something else, although
    the log holds its last change: a new snapshot has healed the backup meanwhile."""


def follow(backup: Backup, path: Path, order: Order, tell: Callable[[News], None]) -> Stretch:
    """Follow the backup with the copy at `path`; `tell` gets how far that is.

    Raises Damaged, ReplayFailed, CopyDamaged, NoCopy, HeldUp, BeyondLimits or another BackupError: the copy is then a
    whole earlier state.
    """
    storage = backup.storage
    backup.place.check_present()
    with closing(FollowingCopy(path, accept_unknown=order.accept_unknown)) as copy, reaching(storage):
        at = Mark(copy.checksum, copy.data_version)
        try:
            tail = attach(storage, at, bytes.fromhex(order.backup_id))
        except Moved:
            return Stretch(Ended.MOVED, None)
        except NotThere as error:
            ended = Ended.AHEAD if error.ahead else Ended.NOT_THERE
            return Stretch(ended, None, at.data_version or 0, error.end.data_version)
        with closing(tail):
            if tail.manifest.lineage != order.lineage:
                return Stretch(Ended.NOT_THERE, None, at.data_version or 0, tail.end.data_version)
            follower = _Follower(copy, tail, order, tell, at)
            try:
                return Stretch(follower.run(), follower.news())
            except Moved:
                return Stretch(Ended.MOVED, follower.news())
            except TooLarge:
                raise follower.limit.exceeded() from None
            except BackupError:
                if not copy.is_where_it_was():  # SQLite refuses to write to a file that has lost its name
                    return Stretch(Ended.GONE, follower.news())
                raise


class _Follower:
    def __init__(self, copy: FollowingCopy, tail: Tail, order: Order, tell: Callable[[News], None], at: Mark) -> None:
        self._copy, self._tail, self._order, self._tell = copy, tail, order, tell
        self._checksum, self._version, self._time = at.checksum, at.data_version or 0, 0
        self._sequence = tail.sequence
        self._in_step = self._checked = self._changes = self._bytes = 0
        self._until = time.process_time() + STRETCH
        limits.scale(tail.stored_bytes)
        self.limit = SizeLimit(copy, copy.path.stat().st_size)
        pulse.total = tail.stored_bytes

    def run(self) -> Ended:
        check_due, checking = time.monotonic() + self._order.check_in, False
        while True:
            news = self._catch_up()
            self._tail.check_unmoved()
            if not self._copy.is_where_it_was():
                return Ended.GONE
            self._in_step = int(time.time())
            self._tell(self.news())
            pulse.signs += 1
            if self._order.once:
                if time.monotonic() >= check_due:
                    self._check_all_tables()
                return Ended.IN_STEP
            if time.process_time() > self._until:
                return Ended.TIME
            if not news and (checking or time.monotonic() >= check_due):
                checking = not self._copy.check_next_table()
                if not checking:
                    self._checked = int(time.time())
                    check_due = time.monotonic() + self._order.check_every
            pulse.quiet = True
            time.sleep(self._order.every)
            pulse.quiet = False

    def _check_all_tables(self) -> None:
        while not self._copy.check_next_table():
            pulse.signs += 1
        self._checked = int(time.time())

    def news(self) -> News:
        manifest = self._tail.manifest
        return News(
            manifest.backup_id.hex(),
            manifest.key,
            manifest.generation,
            manifest.lineage,
            self._sequence,
            self._checksum,
            self._version,
            self._time,
            max(self._tail.end.sequence - self._sequence, 0),
            self._in_step,
            self._checked,
            self._changes,
            self._tail.torn,
            self._tail.end_unverified,
        )

    def _catch_up(self) -> bool:
        """Replay all that is there by now. Returns whether there was anything."""
        last: RecordHeader | None = None
        any_yet, pending = False, 0
        for header, statements in self._tail.changes():
            any_yet = True
            alone = _is_setting(header, statements)
            enforced = not header.flags & Flag.FOREIGN_KEYS_OFF
            if last is not None and (alone or enforced != self._copy.foreign_keys or pending >= AT_ONCE):
                self._commit(last, pending)
                last, pending = None, 0
            if not alone and enforced != self._copy.foreign_keys:
                self._copy.foreign_keys = enforced
            pulse.change = header.data_version
            self._bytes += header.length
            self.limit.grow(self._bytes)
            # The limits were set for the log as it was at the beginning, and it has grown since.
            pulse.total = self._tail.stored_bytes + self._bytes
            limits.allow_values(pulse.total)
            large_statements.allow(statements, header.data_version)
            self._copy.execute(statements, header.data_version)
            last, pending = header, pending + 1
            if alone:
                self._commit(last, pending)
                last, pending = None, 0
        if last is not None:
            self._commit(last, pending)
        pulse.change, pulse.statement = None, 0
        return any_yet

    def _commit(self, last: RecordHeader, changes: int) -> None:
        self._tail.check_unmoved()  # else what was read may be a fenced writer's, and never acknowledged
        self._copy.commit(last.checksum, last.data_version)
        self._sequence, self._checksum, self._version = last.sequence, last.checksum, last.data_version
        self._time = last.time
        self._changes += changes
        pulse.done = min(self._bytes, pulse.total)
        self._tell(self.news())


def _is_setting(header: RecordHeader, statements: Sequence[str]) -> bool:
    """Whether a change is a lone `PRAGMA foreign_keys = …`, which runs outside any transaction."""
    return not header.flags & Flag.ADVANCES and foreign_keys_setting(statements) is not None
