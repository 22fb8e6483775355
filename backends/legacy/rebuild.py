"""From an older backup to a database."""

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
    """What the rebuild of an older backup ended with."""

    rebuilt: Rebuilt
    left_out: list[int]
    """Versions of changes that were never committed and were sent again."""
    remarks: list[str]
    """What a person should know of it, a sentence each."""


def rebuild_legacy(
    backup: LegacyBackup, target: Path, progress: BytesDone | None = None, *, to_version: int | None = None
) -> RebuiltLegacy:
    """Write the backup's database to the new file `target`, checked and durable.

    With `to_version`, stops where that version was reached, and damage after it is no matter. Raises OlderDamaged, or
    BackupError when a node still writes the backup or `target` cannot be written; it is then worthless and the caller
    removes it.
    """
    size = backup.stored_bytes()
    show: BytesDone = progress or (lambda done, total: None)  # half of it for the first look, half for reading
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
    """Begin `target` with the snapshot, or empty, and see that it is what its record says."""
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        if snapshot is None:
            return
        for piece, read in backup.pieces(snapshot):
            file.write(piece)
            tell(read)
    try:
        state = inspect(target, writable=False)
    except Corrupt as error:
        raise LegacyDamaged("its snapshot is no whole database", backup.path, snapshot.offset, None) from error
    if (state.data_version or 0) != snapshot.data_version:
        raise LegacyDamaged(
            f"its snapshot of version {snapshot.data_version} holds version {state.data_version}",
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
    """How many changes were replayed, the version that they led to, and how they end, if so much was read."""
    done, version, each = 0, changes.data_version, iter(changes)
    while True:
        try:
            change = next(each, None)
        except LegacyDamaged:  # in what is read; a change that fails to execute is damage wherever it stops
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
    # lightningd switches foreign keys off for one transaction. Where it died before it switched them on again, the file
    # does not tell, but they were on at the next start.
    if change.advances and not replay.foreign_keys:
        replay.foreign_keys = True


def _finished(replay: Replay, backup: LegacyBackup) -> DatabaseState:
    try:
        return replay.finish()
    except ReplayFailed as error:
        raise LegacyDamaged(error.what, backup.path, backup.stored_bytes(), None) from error


def _check_version(backup: LegacyBackup, version: int, to_version: int | None, state: DatabaseState) -> None:
    if (state.data_version or 0) != version:
        what = f"the database rebuilt from it says version {state.data_version}, and its last change {version}"
        raise LegacyDamaged(what, backup.path, backup.stored_bytes(), None)
    if to_version is not None and version != to_version:
        raise BackupError(
            f"{backup.path} holds no version {to_version}, it ends with {version}; nothing was restored. Choose one up "
            "to that"
        )
