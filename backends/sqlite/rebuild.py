"""From a generation back to a database: the snapshot, then every change after it."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from backends.base import Position
from backends.errors import BackupError, Damaged
from backends.log.reader.generation import Reader
from backends.log.reader.passes import EndOfLog, StoredChange
from backends.log.reader.snapshot import SnapshotReader
from backends.sqlite import limits
from backends.sqlite.replay import Replay, TooLarge
from backends.sqlite.source import DatabaseState
from backends.system.pulse import pulse

BytesDone = Callable[[int, int], None]
"""Called with stored bytes read so far, and all of them."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild ended with."""

    state: DatabaseState
    data_version: int
    changes: int
    last_time: int  # when the last change was saved, seconds since 1970
    foreign_keys: bool
    torn: str | None
    end_unverified: str | None = None
    """In words, why nothing tells whether the end of the log is missing."""
    end: Position | None = None
    """The end of the log, where it came so far; None for an earlier version, and for an older plugin's file."""


def rebuild(
    reader: Reader,
    target: Path,
    progress: BytesDone | None = None,
    *,
    take: Callable[[StoredChange], bool] | None = None,
    enough: int | None = None,
    durable: bool = True,
) -> Rebuilt:
    """Write the generation's database to the new file `target`, checked and (unless it is not to stay) durable.

    Stops before the first change that `take` does not want. Damage is no matter once version `enough` is reached.
    Raises Damaged, ReplayFailed or BeyondLimits; the file is then worthless and the caller removes it.
    """
    total = reader.stored_bytes()
    limits.scale(total)
    show: BytesDone = progress or (lambda done, total: None)
    read = _write_snapshot(reader.snapshot, target, lambda done: show(done, total))
    with Replay(target) as replay:
        size_limit = SizeLimit(replay, target.stat().st_size)
        try:
            rebuilt = _replay(reader, replay, size_limit, lambda done: show(read + done, total), take, enough)
            show(total, total)  # the check of the whole result follows, and cannot say how far it is
            rebuilt = replace(rebuilt, state=replay.finish(durable=durable))
        except TooLarge:
            raise size_limit.exceeded() from None
    _check_version(rebuilt.data_version, rebuilt.state)
    return rebuilt


def _write_snapshot(snapshot: SnapshotReader, target: Path, tell: Callable[[int], None]) -> int:
    """Returns the stored bytes that were read; `tell` is called with them as they grow."""
    written = read = 0
    most = limits.allow_snapshot(snapshot.size())
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        for piece, read in snapshot.pieces():
            written += len(piece)
            if most is not None and written > most:
                raise limits.too_large(most)
            _write(file, piece, target)
            tell(read)
    return read


def _replay(
    reader: Reader,
    replay: Replay,
    size_limit: "SizeLimit",
    tell: Callable[[int], None],
    take: Callable[[StoredChange], bool] | None,
    enough: int | None,
) -> Rebuilt:
    """The changes, as far as they are wanted."""
    base, changes = reader.manifest.base, reader.changes()
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
            replay.execute(change.statements, change.data_version)
            done, version, last_time = done + 1, change.data_version, change.time
            if done % 200 == 0:
                tell(changes.bytes_read)
        else:
            end = changes.end()
    except Damaged:
        if enough is None or version != enough:
            raise
    pulse.change = None
    rebuilt = Rebuilt(_NOT_YET, version, done, last_time, replay.foreign_keys, None)
    if end is None:
        return rebuilt
    return replace(rebuilt, torn=end.torn, end_unverified=end.end_unverified, end=end.position)


_NOT_YET = DatabaseState(None, None, False, True)


class SizeLimit:
    """What a database under construction may grow to, as its changes are read."""

    def __init__(self, replay: Replay, snapshot: int) -> None:
        self._replay, self._snapshot = replay, snapshot
        self._most = limits.allow_file(snapshot, 0)
        self._granted = 0
        if self._most is not None:
            replay.grow_to(self._most)

    def grow(self, read: int) -> None:
        """So many stored bytes of changes were read."""
        if read - self._granted >= _GRANTED_AT_ONCE:
            self._granted = read
            self._most = limits.allow_file(self._snapshot, read)
            if self._most is not None:
                self._replay.grow_to(self._most)

    def exceeded(self) -> BackupError:
        """The error for a database that grew beyond it."""
        return limits.too_large(self._most or 0)


_GRANTED_AT_ONCE = 1 << 17
"""Stored bytes; what comes of them before they count fits into what a database may always have."""


def _write(file: IO[bytes], piece: bytes, target: Path) -> None:
    """An error here is the target's, and not the destination's that is read from."""
    try:
        file.write(piece)
        file.flush()
    except OSError as error:
        raise BackupError(
            f"{target} could not be written: {error.strerror or error}; nothing was replaced. "
            "Free some space or check the disk, then try again"
        ) from error


def _check_version(version: int, state: DatabaseState) -> None:
    """The database itself says which version it is; only very old ones cannot."""
    if (state.data_version or 0) != version:
        raise Damaged(f"the rebuilt database says version {state.data_version}, and the log {version}", "the log", 0)
