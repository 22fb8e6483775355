"""A database rebuilt from a legacy backup."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backends.change import ahead
from backends.errors import BackupError
from backends.legacy.backup import LegacyBackup
from backends.legacy.changes import LegacyChange
from backends.legacy.errors import LegacyDamaged
from backends.legacy.file import Frame
from backends.legacy.history import LegacyChanges, LegacyEnd, remarks
from backends.sqlite.rebuild import BytesDone, Rebuilt, SizeLimit
from backends.sqlite.replay import MemoryFailed, Replay, ReplayFailed, TooLarge
from backends.sqlite.source import Corrupt, DatabaseState, inspect
from backends.system.pulse import pulse

_BETWEEN_CALLS = 200


@dataclass(frozen=True, slots=True)
class RebuiltLegacy:
    """The outcome of rebuilding a legacy backup's database."""

    rebuilt: Rebuilt
    left_out: list[int]
    """Versions of the changes that were left out: they were never committed, and were sent again."""
    remarks: list[str]
    """What a person should know about the backup, a sentence each."""


def rebuild_legacy(
    backup: LegacyBackup, target: Path, progress: BytesDone | None = None, *, to_version: int | None = None
) -> RebuiltLegacy:
    """Write the backup's database to the new file `target`, checked and durable.

    With `to_version`, stops once that version is reached, and damage after it is ignored. Raises LegacyDamaged, or
    BackupError when a node is still writing to the backup or `target` cannot be written; `target` is then worthless and
    the caller removes it.
    """
    size = backup.stored_bytes()
    show: BytesDone = progress or (lambda done, total: None)  # half for the first scan, half for reading
    backup.survey(lambda seen: show(seen // 2, size))
    snapshot = backup.snapshot()
    if to_version is not None and snapshot is not None and ahead(snapshot.data_version, to_version) > 0:
        raise BackupError(
            f"{backup.path} goes back to version {snapshot.data_version}, not to {to_version}; nothing was restored"
        )

    def tell(read: int) -> None:
        show((size + read) // 2, size)

    _write_snapshot(backup, snapshot, target, tell)
    changes = backup.changes()
    with Replay(target) as replay:
        size_limit = SizeLimit(replay, target.stat().st_size)
        try:
            done, version, end = _replay(backup, changes, replay, size_limit, tell, to_version)
            foreign_keys = replay.foreign_keys
            pulse.change = None
            state = _finished(replay, backup)
        except TooLarge:
            raise size_limit.exceeded() from None
    _check_version(backup, version, to_version, state)
    backup.refuse_if_written()
    show(size, size)
    torn = None if end is None else end.torn
    rebuilt = Rebuilt(state, version, done, backup.last_time, foreign_keys, torn)
    return RebuiltLegacy(rebuilt, changes.left_out(), remarks(changes.left_out(), torn))


def _write_snapshot(backup: LegacyBackup, snapshot: Frame | None, target: Path, tell: Callable[[int], None]) -> None:
    """Create `target` with the snapshot, or empty, and check that the snapshot has the version that its record says."""
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        if snapshot is None:
            return
        for piece, read in backup.pieces(snapshot):
            file.write(piece)
            tell(read)
    try:
        state = inspect(target, writable=False)
    except Corrupt as error:
        raise LegacyDamaged("its snapshot is not an intact database", backup.path, snapshot.offset, None) from error
    if (state.data_version or 0) != snapshot.data_version:
        raise LegacyDamaged(
            f"the record of its snapshot says version {snapshot.data_version}, but the snapshot is at version "
            f"{state.data_version}",
            backup.path,
            snapshot.offset,
            None,
        )


def _replay(
    backup: LegacyBackup,
    changes: LegacyChanges,
    replay: Replay,
    size_limit: SizeLimit,
    tell: Callable[[int], None],
    to_version: int | None,
) -> tuple[int, int, LegacyEnd | None]:
    """Replay the changes; return how many, the version reached, and how they end (None if it stopped earlier)."""
    done, version, each = 0, changes.data_version, iter(changes)
    while True:
        try:
            change = next(each, None)
        except LegacyDamaged:  # found while reading on; a change that fails to execute is damage in any case
            if version != to_version:
                raise
            return done, version, None
        if change is None:
            return done, version, changes.end()
        if version == to_version and change.advances:
            return done, version, None
        pulse.change = change.data_version
        size_limit.grow(change.end - backup.begin)
        _execute(replay, backup, changes, change)
        done, version = done + 1, change.data_version
        if done % _BETWEEN_CALLS == 0:
            tell(change.end)


def _execute(replay: Replay, backup: LegacyBackup, changes: LegacyChanges, change: LegacyChange) -> None:
    try:
        replay.execute(change.statements, change.data_version)
    except (ReplayFailed, MemoryFailed) as error:
        good = changes.good(change.database_stood_at)
        raise LegacyDamaged(error.what, backup.path, change.offset, good) from error
    # lightningd switches foreign keys off for one transaction. If it died before it switched them on again, the file
    # does not show that, but they were on after the next start.
    if change.advances and not replay.foreign_keys:
        replay.foreign_keys = True


def _finished(replay: Replay, backup: LegacyBackup) -> DatabaseState:
    try:
        return replay.finish()
    except ReplayFailed as error:
        raise LegacyDamaged(error.what, backup.path, backup.stored_bytes(), None) from error


def _check_version(backup: LegacyBackup, version: int, to_version: int | None, state: DatabaseState) -> None:
    if (state.data_version or 0) != version:
        what = f"the database rebuilt from it is at version {state.data_version}, but its last change says {version}"
        raise LegacyDamaged(what, backup.path, backup.stored_bytes(), None)
    if to_version is not None and version != to_version:
        raise BackupError(
            f"{backup.path} does not hold version {to_version}: it ends at version {version}; nothing was restored. "
            f"Choose a version up to {version}"
        )
