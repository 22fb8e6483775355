"""From a generation back to a database: the snapshot, then every change after it."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

import apsw

from backends.base import Position
from backends.errors import BackupError, Damaged
from backends.log.reader.generation import Reader
from backends.log.reader.passes import EndOfLog, StoredChange
from backends.log.reader.snapshot import SnapshotReader
from backends.sqlite import large_statements, limits
from backends.sqlite.foreign_keys import ForeignKeys
from backends.sqlite.in_parts import whole_errors
from backends.sqlite.read_ahead import ReadLog, reading
from backends.sqlite.replay import Replay
from backends.sqlite.replay_errors import TooLarge
from backends.sqlite.source import DatabaseState
from backends.sqlite.sparing import kept_in_memory
from backends.sqlite.touched import ALWAYS_WHOLE, Touched
from backends.system.overlap import InTurn
from backends.system.pulse import pulse
from backends.system.room import fits, room_for_pages
from backends.times import UNKNOWN_TIME

BytesDone = Callable[[int, int], None]
"""Called with the stored bytes read so far, and their total."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The outcome of a rebuild."""

    state: DatabaseState
    data_version: int
    changes: int  # how many were replayed
    last_time: int  # when the last change was saved, seconds since 1970
    foreign_keys: bool
    torn: str | None  # for people: what follows the last complete change, if anything
    end_unverified: str | None = None
    """For people: why nothing can show that the end of the log is there; None when something does."""
    end: Position | None = None
    """The end of the log; None when the rebuild stopped at an earlier version, and for an older plugin's file."""
    all_checked: bool = True
    """Whether the whole database was checked; if not, what the replay touched was."""


def rebuild(
    reader: Reader,
    target: Path,
    progress: BytesDone | None = None,
    *,
    take: Callable[[StoredChange], bool] | None = None,
    enough: int | None = None,
    durable: bool = True,
    proven: bool = False,
    may_leave_check: bool = False,
    keys: ForeignKeys | None = None,
) -> Rebuilt:
    """Write the generation's database to the new file `target`, checked and (if `durable`) durable.

    Stops before the first change for which `take` is false. Damage after version `enough` is ignored. `proven` says
    that nobody but a writer of this project can have made the snapshot: if the database is large, only what the changes
    have touched is then checked. With `may_leave_check`, a database that does not fit in memory is not checked at all:
    who asks for that checks it before anything comes of it. `keys` gets what the check finds out about foreign keys.
    Raises Damaged, ReplayFailed or BeyondLimits; the file is then worthless and the caller removes it.
    """
    total = reader.stored_bytes()
    limits.scale(total)
    show: BytesDone = progress or (lambda done, total: None)
    read = _write_snapshot(reader.snapshot, target, lambda done: show(done, total), durable=durable)
    touched = Touched() if proven and target.stat().st_size > ALWAYS_WHOLE else None
    with Replay(target) as replay:
        size_limit = SizeLimit(replay, target.stat().st_size)
        try:
            with reading(reader) as changes:
                rebuilt = _replay(
                    reader, changes, replay, size_limit, lambda done: show(read + done, total), take, enough, touched
                )
            show(total, total)  # what follows, the check of the result, cannot report progress
            check = partial(whole_errors, keys=keys) if touched is None else touched.faults
            leaves = may_leave_check and kept_in_memory(target.stat().st_size) is not None
            state = replay.finish(durable=durable, check=_unchecked if leaves else check)
            all_checked = not leaves and (touched is None or touched.everything)
            rebuilt = replace(rebuilt, state=state, all_checked=all_checked)
        except TooLarge:
            raise size_limit.exceeded() from None
    _check_version(rebuilt.data_version, rebuilt.state)
    return rebuilt


def _unchecked(connection: apsw.Connection) -> None:
    """No check: it is left to the caller of `rebuild`."""


def _write_snapshot(snapshot: SnapshotReader, target: Path, tell: Callable[[int], None], *, durable: bool) -> int:
    """Write the snapshot to the new file `target`, and return the stored bytes read; `tell` gets them on the way."""
    written = read = synced = 0
    most = limits.allow_snapshot(snapshot.size())
    forgets = not fits(2 * snapshot.size(), room_for_pages())  # the database is at least as large, and read again
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with (
        os.fdopen(descriptor, "wb", buffering=0) as file,
        InTurn[bytes](lambda piece: _write(file, target, piece)) as writing,
        InTurn[int](lambda size: _sync(file, target), at_once=0) as syncing,
    ):
        for piece, read in snapshot.pieces(forgets=forgets):
            written += len(piece)
            if most is not None and written > most:
                raise limits.too_large(most)
            writing.give(piece)
            if durable and written - synced >= _SYNC_EVERY:
                synced = written
                syncing.give(written)  # so that the sync at the end has little left to do
            tell(read)
        writing.wait()
        syncing.wait()
    return read


_SYNC_EVERY = 64 << 20
"""Bytes of a restored database between two syncs, which go on while the next bytes are written."""


def _replay(
    reader: Reader,
    changes: ReadLog,
    replay: Replay,
    size_limit: "SizeLimit",
    tell: Callable[[int], None],
    take: Callable[[StoredChange], bool] | None,
    enough: int | None,
    touched: Touched | None,
) -> Rebuilt:
    """Replay the generation's changes, as far as `take` and `enough` of `rebuild` say."""
    base = reader.manifest.base
    done, version, last_time = 0, base.data_version, reader.manifest.created
    end: EndOfLog | None = None
    replay.foreign_keys = base.foreign_keys
    try:
        for change in changes:
            if take is not None and not take(change):
                break
            if change.begins_session:
                replay.foreign_keys = True
            pulse.change, pulse.segment = change.data_version, changes.segment
            size_limit.grow(changes.bytes_read)
            if touched is not None:
                touched.note(change.statements)
            large_statements.allow(change.statements, change.data_version)
            replay.execute(change.statements, change.data_version)
            done, version, last_time = done + 1, change.data_version, change.time
            if done % 200 == 0:
                tell(changes.bytes_read)
        else:
            end = changes.end()
    except Damaged:
        if enough is None or version != enough:
            raise
    pulse.change, pulse.statement = None, 0
    if not done and changes.base_time != UNKNOWN_TIME:
        last_time = changes.base_time  # a compaction's snapshot is of an earlier time than its manifest
    rebuilt = Rebuilt(_NOT_YET, version, done, last_time, replay.foreign_keys, None)
    if end is None:
        return rebuilt
    return replace(rebuilt, torn=end.torn, end_unverified=end.end_unverified, end=end.position)


_NOT_YET = DatabaseState(None, None, False, True)


class SizeLimit:
    """The size that a database under construction may grow to: more, the more bytes of changes have been read."""

    def __init__(self, replay: Replay, snapshot: int) -> None:
        self._replay, self._snapshot = replay, snapshot
        self._most = limits.allow_file(snapshot, 0)
        self._granted = 0
        if self._most is not None:
            replay.grow_to(self._most)

    def grow(self, read: int) -> None:
        """Raise the limit: `read` stored bytes of changes have been read so far."""
        if read - self._granted >= _GRANTED_AT_ONCE:
            self._granted = read
            self._most = limits.allow_file(self._snapshot, read)
            if self._most is not None:
                self._replay.grow_to(self._most)

    def exceeded(self) -> BackupError:
        """The error for a database that grew beyond this limit."""
        return limits.too_large(self._most or 0)


_GRANTED_AT_ONCE = 1 << 17
"""Stored bytes between two raises of the limit. What they can unpack to fits into `limits.FLOOR`, so that an honest
backup never meets the limit in between."""


def _write(file: IO[bytes], target: Path, piece: bytes) -> None:
    """Write `piece`. An OSError here comes from the target, not from the destination that is read, and says so."""
    try:
        rest = memoryview(piece)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise _unwritten(target, error) from error


def _sync(file: IO[bytes], target: Path) -> None:
    """Make durable what was written. No error is ignored: a later sync would report success."""
    try:
        os.fdatasync(file.fileno())
    except OSError as error:
        raise _unwritten(target, error) from error


def _unwritten(target: Path, error: OSError) -> BackupError:
    return BackupError(
        f"{target} could not be written: {error.strerror or error}; nothing was replaced. "
        "Free some space or check the disk, then try again"
    )


def _check_version(version: int, state: DatabaseState) -> None:
    """Raise Damaged unless the database says that it is at `version`. A very old one says none, which counts as 0."""
    if (state.data_version or 0) != version:
        what = f"the rebuilt database is at version {state.data_version}, but the backup says version {version}:"
        raise Damaged(what, "the log", 0)
