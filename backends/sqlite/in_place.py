"""A stopped node's database, read from its own file for a snapshot: no copy of it is written first.

SQLite's shared lock keeps every other process from writing to the file, and a transaction keeps that lock until the
snapshot is written. In the modes with a rollback journal, the file is the whole database then.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import apsw

from backends.base import Pieces, SnapshotSource
from backends.errors import BackupError
from backends.log.reader.snapshot import PIECE
from backends.sqlite.connection import (
    READ_WRITE,
    STEPS_BETWEEN_CALLS,
    corrupt,
    integrity_errors,
    one_row,
    opened,
    run,
    sqlite_errors,
)
from backends.sqlite.source import state_of
from backends.sqlite.sparing import forgetful, opened_sparingly
from backends.sqlite_header import FILE_FORMAT, in_wal_mode
from backends.system.pulse import pulse


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
        check = held.enter_context(_Check(database, for_check))
        if not beside:
            check.result()
        state = state_of(connection)
        pieces = Pieces(partial(_pieces, database, descriptor, size, check))
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


def _pieces(database: Path, descriptor: int, size: int, check: "_Check") -> Iterator[bytes]:
    """The database, piece by piece. Raises BackupError at the end if it is corrupt, or was written to meanwhile."""
    before, done, forget = _looks(descriptor), 0, forgetful(descriptor, size)
    try:
        while done < size and (piece := os.pread(descriptor, min(PIECE, size - done), done)):
            yield piece
            done += len(piece)
            forget(done)
    except OSError as error:
        raise BackupError(
            f"{database} could not be read: {error.strerror}; nothing was written to it. Check its disk, then try again"
        ) from error
    check.result()
    if done < size or _looks(descriptor) != before:
        raise BackupError(
            f"{database} was written to while it was read, although SQLite's lock forbids that; nothing was saved of "
            "it. Stop whatever works on it (a lightningd on another machine?), then try again"
        )


def _looks(descriptor: int) -> tuple[int, int, bytes]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns, os.pread(descriptor, 100, 0)


class _Check:
    """`integrity_check` in a thread of its own, over a connection of its own."""

    def __init__(self, database: Path, descriptor: int) -> None:
        self._database, self._descriptor = database, descriptor
        self._fault: str | None = None
        self._error: BaseException | None = None
        self._unwanted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="integrity check", daemon=True)

    def __enter__(self) -> "_Check":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._unwanted.set()
        self._thread.join()

    def result(self) -> None:
        """Wait for the check. Raises Corrupt if the database is, and what else went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        if self._fault is not None:
            raise corrupt(self._database, self._fault)

    def _run(self) -> None:
        try:
            with (
                sqlite_errors(self._database),
                opened_sparingly(self._database, self._descriptor) as connection,
            ):
                connection.set_progress_handler(self._stops, STEPS_BETWEEN_CALLS)
                self._fault = integrity_errors(connection)
        except BaseException as error:
            self._error = error

    def _stops(self) -> bool:
        pulse.signs += 1
        return self._unwanted.is_set()
