"""A stopped node's database, read from its own file for a snapshot: no copy of it is written first.

SQLite's shared lock keeps every other process from writing to the file, and a transaction keeps that lock until the
snapshot is written. In the modes with a rollback journal, the file is the whole database then.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import apsw

from backends.base import Pieces, SnapshotSource
from backends.errors import BackupError
from backends.sqlite.check_beside import CheckBeside
from backends.sqlite.connection import (
    READ_WRITE,
    corrupt,
    one_row,
    opened,
    run,
    sqlite_errors,
)
from backends.sqlite.in_step import InStep, pieces_in_step
from backends.sqlite.source import state_of
from backends.sqlite_header import FILE_FORMAT, in_wal_mode


@contextmanager
def in_place(database: Path, *, beside: bool) -> Iterator[SnapshotSource | None]:
    """The database of a stopped node as a source for a new generation; None if it must be copied first.

    It must be copied in WAL mode, and if its file is longer than the database. A hot journal is rolled back, as
    lightningd itself would do. `beside`: the database is checked while it is read, and what is found is raised at the
    end of the pieces; otherwise it is checked first. Until the context ends, this process must not open and close the
    file in any other way, which would release SQLite's lock. Raises Busy, Corrupt or BackupError.
    """
    with ExitStack() as held:
        # Opened first, and so closed last: closing one releases the lock.
        descriptor, for_check = _opened(database, held), _opened(database, held)
        connection = held.enter_context(opened(database, READ_WRITE))
        run(connection, "BEGIN")
        run(connection, "SELECT count(*) FROM sqlite_schema")
        size = _size(connection)
        if in_wal_mode(os.pread(descriptor, FILE_FORMAT.stop, 0)) or os.fstat(descriptor).st_size != size:
            yield None
            return
        step = InStep()
        check = held.enter_context(CheckBeside(database, for_check, step if beside else None))
        if not beside:
            _require_whole(database, check)
            step.end_check()
        state = state_of(connection)
        pieces = Pieces(partial(_pieces, database, descriptor, size, check, step))
        yield SnapshotSource(pieces, state.data_version or 0, state.node_id, size=size)


def _opened(database: Path, held: ExitStack) -> int:
    try:
        descriptor = os.open(database, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BackupError(f"{database} cannot be read: {error.strerror}; check the path and try again") from error
    held.callback(os.close, descriptor)
    return descriptor


def _size(connection: apsw.Connection) -> int:
    """Bytes of the database."""
    (count,), (size,) = (one_row(connection, f"PRAGMA {name}") or (0,) for name in ("page_count", "page_size"))
    return int(str(count)) * int(str(size))


def _pieces(database: Path, descriptor: int, size: int, check: CheckBeside, step: InStep) -> Iterator[bytes]:
    """The database, piece by piece. Raises BackupError at the end if it is corrupt, or was written to meanwhile."""
    before, done = _looks(descriptor), 0
    try:
        for piece in pieces_in_step(descriptor, size, step):
            yield piece
            done += len(piece)
    except OSError as error:
        raise BackupError(
            f"{database} could not be read: {error.strerror}; nothing was written to it. Check its disk, then try again"
        ) from error
    _require_whole(database, check)
    if done < size or _looks(descriptor) != before:
        raise BackupError(
            f"{database} was written to while it was read, although SQLite's lock forbids that; nothing was saved of "
            "it. Stop whatever works on it (a lightningd on another machine?), then try again"
        )


def _require_whole(database: Path, check: CheckBeside) -> None:
    """Wait for the check. Raises Corrupt if the database is, and what else went wrong."""
    with sqlite_errors(database):
        what = check.result()
    if what is not None:
        raise corrupt(database, what)


def _looks(descriptor: int) -> tuple[int, int, bytes]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns, os.pread(descriptor, 100, 0)
