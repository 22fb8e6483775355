"""From an older backup to a database."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from backends.change import ahead
from backends.database.pulse import pulse
from backends.database.rebuild import BytesDone, Rebuilt, Room
from backends.database.replay import MemoryFailed, Replay, ReplayFailed, TooLarge
from backends.database.source import Corrupt, DatabaseState, inspect
from backends.errors import BackupError
from backends.older.backup import OlderBackup
from backends.older.changes import OlderChange
from backends.older.errors import OlderDamaged
from backends.older.file import Frame

_BETWEEN_CALLS = 200


def rebuild_older(
    backup: OlderBackup, target: Path, progress: BytesDone | None = None, *, to_version: int | None = None
) -> Rebuilt:
    """Write the backup's database to the new file `target`, checked and durable.

    With `to_version`, stops where that version was reached, and damage after it is no matter. Raises OlderDamaged, or
    BackupError when a node still writes the backup or `target` cannot be written; it is then worthless and the caller
    removes it.
    """

    def tell() -> None:
        if progress is not None:
            progress(backup.bytes_read(), backup.stored_bytes())

    backup.survey(progress)
    snapshot = backup.snapshot()
    if to_version is not None and snapshot is not None and ahead(snapshot.data_version, to_version) > 0:
        raise BackupError(
            f"{backup.path} goes back to version {snapshot.data_version}, not to {to_version}; nothing was restored"
        )
    _write_snapshot(backup, snapshot, target, tell)
    done, version = 0, backup.data_version
    with Replay(target) as replay:
        room = Room(replay, target.stat().st_size)
        try:
            for change in _up_to(backup, to_version):
                pulse.change = change.data_version
                room.grow(change.end - backup.begin)
                _execute(replay, backup, change)
                done, version = done + 1, change.data_version
                if done % _BETWEEN_CALLS == 0:
                    tell()
            foreign_keys = replay.foreign_keys
            pulse.change = None
            state = _finished(replay, backup)
        except TooLarge:
            raise room.exceeded() from None
    _check_version(backup, version, to_version, state)
    backup.refuse_if_written()
    if progress is not None:
        progress(backup.stored_bytes(), backup.stored_bytes())
    return Rebuilt(state, version, done, backup.last_time, foreign_keys, backup.torn)


def _write_snapshot(backup: OlderBackup, snapshot: Frame | None, target: Path, tell: Callable[[], None]) -> None:
    """Begin `target` with the snapshot, or empty, and see that it is what its record says."""
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        if snapshot is None:
            return
        for piece in backup.pieces(snapshot):
            file.write(piece)
            tell()
    try:
        state = inspect(target, writable=False)
    except Corrupt as error:
        raise OlderDamaged("its snapshot is no whole database", backup.path, snapshot.offset, None) from error
    if (state.data_version or 0) != snapshot.data_version:
        raise OlderDamaged(
            f"its snapshot of version {snapshot.data_version} holds version {state.data_version}",
            backup.path,
            snapshot.offset,
            None,
        )


def _up_to(backup: OlderBackup, to_version: int | None) -> Iterator[OlderChange]:
    version = backup.data_version
    try:
        for change in backup.changes():
            if version == to_version and change.advances:
                return
            yield change
            version = change.data_version
    except OlderDamaged:
        if version != to_version:
            raise


def _execute(replay: Replay, backup: OlderBackup, change: OlderChange) -> None:
    try:
        replay.execute(change.statements, change.data_version)
    except (ReplayFailed, MemoryFailed) as error:
        good = backup.good(change.database_stood_at)
        raise OlderDamaged(error.what, backup.path, change.offset, good) from error
    # lightningd switches foreign keys off for one transaction. Where it died before it switched them on again, the file
    # does not tell, but they were on at the next start.
    if change.advances and not replay.foreign_keys:
        replay.foreign_keys = True


def _finished(replay: Replay, backup: OlderBackup) -> DatabaseState:
    try:
        return replay.finish()
    except ReplayFailed as error:
        raise OlderDamaged(error.what, backup.path, backup.stored_bytes(), None) from error


def _check_version(backup: OlderBackup, version: int, to_version: int | None, state: DatabaseState) -> None:
    if (state.data_version or 0) != version:
        what = f"the database rebuilt from it says version {state.data_version}, and its last change {version}"
        raise OlderDamaged(what, backup.path, backup.stored_bytes(), None)
    if to_version is not None and version != to_version:
        raise BackupError(
            f"{backup.path} holds no version {to_version}, it ends with {version}; nothing was restored. Choose one up "
            "to that"
        )
