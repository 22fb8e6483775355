"""A node's own database, read without changing it and without holding up lightningd."""

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import apsw

from backends.change import VERSIONS
from backends.errors import BackupError
from backends.sqlite.connection import (
    READ_ONLY,
    READ_WRITE,
    SMALL_CACHE_KIB,
    STEPS_BETWEEN_CALLS,
    Busy,
    Corrupt,
    Value,
    connect,
    corrupt,
    create_private,
    error_text,
    one_row,
    opened,
    remove,
    run,
)
from backends.sqlite.in_parts import whole_errors
from backends.sqlite.schema import NONE_UNKNOWN, UnknownObjects, unknown_objects
from backends.sqlite.sparing import opened_sparingly
from backends.sqlite_header import FILE_FORMAT, NOT_WAL, in_wal_mode

__all__ = ["Busy", "Corrupt", "DatabaseState", "copy_database", "inspect", "state_of"]

PAGES_PER_STEP = 1000
_PAGE = 4096


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """What a database says about itself."""

    data_version: int | None
    """None when the database has none: one from before lightningd had `vars.intval`, or a new, empty one."""

    node_id: str | None
    """The node's public key in hex; None when the database has none, as with older lightningds."""

    is_lightningd: bool
    """Whether it has `vars` and `version`, the two tables of every lightningd database."""

    empty: bool
    """Whether it has no tables at all: a node that never started."""

    unknown_objects: UnknownObjects = NONE_UNKNOWN
    """The objects in its schema that no lightningd creates."""


def inspect(path: Path, *, writable: bool) -> DatabaseState:
    """What the database at `path` says about itself; `writable` as for `copy_database`.

    Raises Busy, Corrupt, or BackupError when there is no such file or it cannot be read.
    """
    with opened(path, _flags(writable)) as connection:
        return state_of(connection)


def copy_database(
    path: Path, target: Path, *, writable: bool, progress: Callable[[int, int], None] | None = None
) -> DatabaseState:
    """Copy the database as of now to the new file `target` (mode 0600, not yet synced), check it, and return its state.

    With `writable`, SQLite first rolls back a hot journal or recovers a WAL, as lightningd itself would: only for a
    stopped node. Without it, the node may have a transaction open, which the copy does not contain; the node cannot
    commit until the copy is done. The copy is always in rollback-journal mode, with no journal or WAL beside it.

    `progress` is called with the pages copied and their total, and also now and then while the copy is checked. Memory
    does not grow with the database. Raises Busy, Corrupt or BackupError, and whatever `progress` raises; `target` is
    then removed.
    """
    with opened(path, _flags(writable)) as source:
        # One read transaction around all steps: otherwise a commit between two of them would restart the copy.
        run(source, "BEGIN")
        run(source, "SELECT count(*) FROM sqlite_schema")
        create_private(target)
        try:
            _copy_pages(source, target, progress)
            run(source, "COMMIT")
            _leave_wal(target)
            with opened_sparingly(target) as copy:
                stops = None if progress is None else _going_on(progress, target)
                if stops is not None:
                    copy.set_progress_handler(stops, STEPS_BETWEEN_CALLS)
                what = whole_errors(copy, cache_kib=SMALL_CACHE_KIB, stops=stops)
                if what is not None:
                    raise corrupt(path, what)
                return state_of(copy)
        except (apsw.FullError, apsw.IOError) as error:
            remove(target)
            raise BackupError(
                f"copying {path} to {target} failed: {error_text(error)}; the database is unchanged. "
                "Free some space or check the disk, then try again"
            ) from error
        except BaseException:
            remove(target)
            raise


_KEY = 64
"""Upper limit, in bytes, for a node's public key (which has 33)."""

_TABLES = "SELECT name FROM sqlite_schema WHERE rootpage > 0 AND name IN ('vars', 'version')"
"""Selects only tables with pages of their own: a view or virtual table of that name is not lightningd's."""


def state_of(connection: apsw.Connection) -> DatabaseState:
    """What an open database says about itself. Raises apsw.Error."""
    tables = {str(name) for (name,) in run(connection, _TABLES)}
    empty = one_row(connection, "SELECT 1 FROM sqlite_schema LIMIT 1") is None
    columns = _columns(connection, "vars") if "vars" in tables else set()
    version = node_id = None
    if {"name", "intval"} <= columns:
        version = _var(connection, "intval", "integer", "data_version")
    if {"name", "blobval"} <= columns:
        node_id = _var(connection, "blobval", "blob", "node_id")
    return DatabaseState(
        data_version=version % VERSIONS if isinstance(version, int) else None,
        node_id=node_id.hex() if isinstance(node_id, bytes) and len(node_id) <= _KEY else None,
        is_lightningd={"name", "val"} <= columns
        and "version" in tables
        and "version" in _columns(connection, "version"),
        empty=empty,
        unknown_objects=unknown_objects(connection),
    )


def _columns(connection: apsw.Connection, table: str) -> set[str]:
    known = "('name', 'val', 'intval', 'blobval', 'version')"  # any other name may not be UTF-8
    found = run(connection, f"SELECT name FROM pragma_table_info('{table}') WHERE name IN {known}")
    return {str(name) for (name,) in found}


def _var(connection: apsw.Connection, column: str, kind: str, name: str) -> Value:
    query = f"SELECT {column} FROM vars WHERE name = ? AND typeof({column}) = '{kind}'"
    row = one_row(connection, query, (name,))
    return row[0] if row is not None else None


def _flags(writable: bool) -> int:
    return READ_WRITE if writable else READ_ONLY


def _copy_pages(source: apsw.Connection, target: Path, progress: Callable[[int, int], None] | None) -> None:
    with closing(connect(target, READ_WRITE)) as copy:
        # The copy is worthless until it is complete, so it needs no journal.
        copy.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        run(copy, "PRAGMA journal_mode = OFF")
        run(copy, "PRAGMA synchronous = OFF")
        with copy.backup("main", source, "main") as backup:
            while not backup.done:
                backup.step(PAGES_PER_STEP)
                if progress is not None:
                    progress(backup.page_count - backup.remaining, backup.page_count)


def _going_on(progress: Callable[[int, int], None], target: Path) -> Callable[[], bool]:
    """A progress handler for the check of the copy: it calls `progress`, which may end the check by an exception."""
    pages = target.stat().st_size // _PAGE

    def go_on() -> bool:
        progress(pages, pages)
        return False

    return go_on


def _leave_wal(target: Path) -> None:
    """Mark the copy as not in WAL mode. The backup API copies the header page, and with it the original's mode."""
    descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC)
    try:
        if in_wal_mode(os.pread(descriptor, FILE_FORMAT.stop, 0)):
            os.pwrite(descriptor, NOT_WAL, FILE_FORMAT.start)
    finally:
        os.close(descriptor)
