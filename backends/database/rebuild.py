"""From a generation back to a database: the snapshot, then every change after it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from backends.database.replay import Replay
from backends.database.source import DatabaseState
from backends.errors import BackupError, Damaged
from backends.log.generation import Generation, StoredChange

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
    unwitnessed: str | None = None
    """In words, why nothing tells whether the end of the log is missing."""


def rebuild(
    generation: Generation,
    target: Path,
    progress: BytesDone | None = None,
    *,
    take: Callable[[StoredChange], bool] | None = None,
    enough: int | None = None,
    durable: bool = True,
) -> Rebuilt:
    """Write the generation's database to the new file `target`, checked and (unless it is not to stay) durable.

    Stops before the first change that `take` does not want. Damage is no matter once version `enough` is reached.
    Raises Damaged or ReplayFailed; the file is then worthless and the caller removes it.
    """
    total, base = generation.stored_bytes(), generation.manifest.base
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        for piece in generation.snapshot:
            _write(file, piece, target)
            if progress is not None:
                progress(generation.bytes_read(), total)
    done, version, last_time = 0, base.data_version, generation.manifest.created
    replay = Replay(target)
    try:
        replay.foreign_keys = base.foreign_keys
        try:
            for change in generation.changes():
                if take is not None and not take(change):
                    break
                if change.begins_session:
                    replay.foreign_keys = True
                replay.execute(change.statements, change.data_version)
                done, version, last_time = done + 1, change.data_version, change.time
                if progress is not None and done % 200 == 0:
                    progress(generation.bytes_read(), total)
        except Damaged:
            if enough is None or version != enough:
                raise
        foreign_keys = replay.foreign_keys
        if progress is not None:  # the check of the whole result follows, and cannot say how far it is
            progress(total, total)
        state = replay.finish(durable=durable)
    finally:
        replay.close()
    _check_version(version, state)
    return Rebuilt(state, version, done, last_time, foreign_keys, generation.torn, generation.unwitnessed)


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
