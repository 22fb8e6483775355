"""A database rebuilt by executing the changes that made it.

A file under construction is worthless until it is complete, so SQLite keeps no journal and syncs nothing until the end.
A node's own database that is rolled forward in place is different: there each change is a durable transaction.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from types import TracebackType

import apsw

from backends.change import bumped_from, foreign_keys_setting
from backends.errors import BackupError
from backends.sqlite.authorizer import PLAIN, ReplayAuthorizer
from backends.sqlite.connection import (
    READ_WRITE,
    STEPS_BETWEEN_CALLS,
    as_backup_error,
    connect,
    create_private,
    error_text,
    one_row,
    raise_memory_limit,
    run,
    sync,
)
from backends.sqlite.error_text import NOT_UTF8, whole_words
from backends.sqlite.functions import FunctionRefused
from backends.sqlite.in_parts import whole_errors
from backends.sqlite.limits import file_refused
from backends.sqlite.replay_errors import (
    _ALTERED,
    _NOT_THE_NODES,
    MemoryFailed,
    OutOfTime,
    ReplayFailed,
    TooLarge,
    creates_unknown,
    fails_check,
    leads_elsewhere,
    memory_missing,
    unusable,
)
from backends.sqlite.schema import UnknownObjects, unknown_objects
from backends.sqlite.source import DatabaseState, state_of
from backends.sqlite.sparing import opened_sparingly
from backends.sqlite.statement_outline import outline
from backends.system.pulse import pulse
from backends.text import printable

CHANGES_PER_TRANSACTION = 500
"""With this many, the cost of COMMIT disappears; with one change per transaction, a replay takes a tenth longer."""

CACHE_KIB = 32 << 10
"""Size of SQLite's page cache: a third of the memory budget, enough for the pages that a large node changes often."""

_BUMP = "UPDATE vars SET intval = intval + 1 WHERE name = 'data_version' AND intval = ?"
"""The statement that ends nearly every change, each time with another number. Prepared once, it takes a third of the
time."""

_LONG = 1000
"""Characters. A statement of this length is rarely repeated word for word, so that looking it up in the cache of
prepared statements costs more than it saves."""

_NO_VIRTUAL = apsw.SQLITE_PREPARE_NO_VTAB
"""Without this flag, a statement that names a virtual table such as `pragma_...` or `json_each` makes SQLite create it,
although the connection has dropped all modules; `pragma_optimize` even runs statements of its own."""

_READS_PRAGMA_TABLE = "ALTER TABLE "
"""The beginning of a statement for which SQLite itself may need a virtual table: to add a column to a STRICT table, it
reads from `pragma_quick_check`. A single ALTER TABLE cannot name a table to read from, so allowing virtual tables is
harmless there; if the text may hold several statements, `ReplayAuthorizer` is asked."""

_HUGE = 1 << 20
"""Characters. For a statement of this length, SQLite's memory limit is raised first."""

MAX_WITHHELD = 1 << 16
"""Characters of a statement that are kept for an operator who asks to see it (--show-statements)."""
_FREE_SPACE = 16 << 20
"""Bytes. A disk with more than this free is not full."""

_OF_THIS_MACHINE = (apsw.FullError, apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError, apsw.BusyError)


class Replay:
    """A database file under construction. For one thread; nothing else may open the file until `close`.

    After any error the file is worthless: `close` it and remove it. `in_place` is different: each change is a
    transaction of its own, durable once `execute` has returned, and after an error the file holds the changes before.
    """

    def __init__(self, path: Path, *, in_place: bool = False, until: float = math.inf) -> None:
        """Continue from the snapshot at `path`, or from nothing when the file is empty or missing (created 0600).

        After `until` (by the monotonic clock) everything raises OutOfTime.
        Raises ReplayFailed when the file is not a database, and BackupError when it cannot be written.
        """
        self.path = path
        self._in_place, self._until = in_place, until
        self._changes_per_transaction = 1 if in_place else CHANGES_PER_TRANSACTION
        self._authorizer = ReplayAuthorizer(in_place=in_place)
        self._unknown: UnknownObjects | None = None  # in the schema before the first change; only `in_place`
        self._changes = 0  # in the open transaction
        self._most: int | None = None
        self._data_version: int | None = None
        if not path.exists():
            create_private(path)
        try:
            self._connection = _open_for_replay(path, self._settings())
        except apsw.Error as error:
            raise self._unusable(error) from error
        self._cursor = self._connection.cursor()
        self._connection.set_progress_handler(self._too_long, STEPS_BETWEEN_CALLS)

    def _settings(self) -> tuple[str, ...]:
        """PRAGMAs for the connection."""
        return _KEEPING if self._in_place else _BUILDING

    def __enter__(self) -> "Replay":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def foreign_keys(self) -> bool:
        """Whether foreign keys are enforced: ON at first, as in a database that lightningd has just opened."""
        return bool(self._connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, -1))

    @foreign_keys.setter
    def foreign_keys(self, on: bool) -> None:
        # On the node the setting took effect outside any transaction; inside one, SQLite ignores it.
        self._commit()
        self._connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, int(on))

    def grow_to(self, most: int) -> None:
        """Let the file have at most `most` bytes; a change that would make it larger raises TooLarge."""
        self._most = most
        try:
            (size,) = one_row(self._connection, "PRAGMA page_size") or (0,)
            run(self._connection, f"PRAGMA max_page_count = {max(most // (int(str(size)) or 4096), 1)}")
        except apsw.Error as error:
            raise self._unusable(error) from error

    def execute(self, statements: Iterable[str], data_version: int | None = None) -> None:
        """Execute one change; `data_version` names it in errors. Raises ReplayFailed, or BackupError for a full disk.

        A lone `PRAGMA foreign_keys = …` sets `foreign_keys`. Any iterable but a list is consumed one statement at a
        time, because a change may be larger than the memory there is for it.
        """
        self._data_version = data_version
        if not isinstance(statements, list):
            rest = iter(statements)
            begin = list(islice(rest, 2))  # enough to recognise a lone PRAGMA
            if len(begin) == 2:
                self._execute_change(chain(begin, rest), None)
                return
            statements = begin
        alone = len(statements) == 1
        if alone and (setting := foreign_keys_setting(statements)) is not None:
            self.foreign_keys = setting
            return
        bump = bumped_from(statements[-1]) if statements else None
        self._execute_change(statements if bump is None else statements[:-1], bump, alone=alone)

    def begins_with(self, header: bytes) -> bool:
        """Whether the file begins with `header`, after SQLite has rolled back any journal that a crash left beside it.

        For a file `in_place`, before the first `execute`. Raises BackupError.
        """
        try:
            self._cursor.execute("BEGIN IMMEDIATE")
            run(self._connection, "SELECT count(*) FROM sqlite_schema")
            found = self._connection.read("main", 0, 0, len(header))[1] if header else b""
            empty = self.path.stat().st_size == 0
            self._cursor.execute("ROLLBACK")
        except apsw.Error as error:
            raise self._unusable(error) from error
        return found == header and empty == (not header)

    def finish(
        self, *, durable: bool = True, check: Callable[[apsw.Connection], str | None] = whole_errors
    ) -> DatabaseState:
        """Check the database, make the file (not its name) durable, and return its state. Raises as `execute` does.

        A file that is only examined and then removed need not be `durable`: then most of it never reaches the disk.
        Foreign keys are not checked: a node may have violations of its own (see `foreign_key_violations`).
        """
        self._commit()
        self.close()
        if durable:
            sync(self.path)
        try:
            # On a new connection, so that the check reads the file and not a cache.
            with opened_sparingly(self.path) as connection:
                what = check(connection)
                if what is not None:
                    raise fails_check(what)
                return state_of(connection)
        except apsw.Error as error:
            raise self._unusable(error) from error
        except UnicodeDecodeError as error:
            raise self._unusable(apsw.CorruptError(NOT_UTF8)) from error

    def close(self) -> None:
        """Close the file, finished or not. Calling it again does nothing."""
        self._connection.close(True)

    def _execute_change(self, statements: Iterable[str], bump: int | None, *, alone: bool = False) -> None:
        """Execute one change: its statements, then the bump from version `bump`, unless that is None."""
        if not self._changes:
            self._begin()
        self._authorizer.begin_change(alone=alone)
        self._execute_all(statements if self._until == math.inf else self._in_time(statements))
        if bump is not None:
            self._execute_bump(bump)
        self._changes += 1
        if self._changes == self._changes_per_transaction:
            self._commit()

    def _in_time(self, statements: Iterable[str]) -> Iterator[str]:
        for statement in statements:
            if time.monotonic() > self._until:
                raise self._out_of_time()
            yield statement

    def _too_long(self) -> bool:
        pulse.signs += 1
        return self._authorizer.too_long() or time.monotonic() > self._until

    def _begin(self) -> None:
        try:
            self._cursor.execute("BEGIN IMMEDIATE" if self._in_place else "BEGIN")
            if self._in_place and self._unknown is None:
                self._unknown = unknown_objects(self._connection)
        except apsw.Error as error:
            raise self._failed("BEGIN", error) from error

    def _execute_all(self, statements: Iterable[str]) -> None:
        # With one cursor for all, this is as fast as joining a change's statements with ";". A joined text would be
        # parsed differently after a comment that is not closed, and would show in the schema.
        execute = self._cursor.execute
        for statement in statements:
            try:
                if len(statement) >= _HUGE:
                    raise_memory_limit(len(statement if statement.isascii() else statement.encode()))
                # Plain and certainly a single statement: after a semicolon, another one could follow.
                if statement.startswith(PLAIN) and (";" not in statement or statement.find(";", 0, -1) < 0):
                    flags = 0 if statement.startswith(_READS_PRAGMA_TABLE) else _NO_VIRTUAL
                    # Rows (RETURNING) come only after the statement has done its work, so they need not be fetched.
                    execute(statement, can_cache=len(statement) < _LONG, prepare_flags=flags)
                else:
                    self._execute_guarded(statement)
            except (apsw.Error, ValueError, OverflowError) as error:
                raise self._failed(statement, error) from error

    def _execute_bump(self, version: int) -> None:
        try:
            self._cursor.execute(_BUMP, (version,), prepare_flags=_NO_VIRTUAL)
        except (apsw.Error, OverflowError) as error:
            raise self._failed(_BUMP, error) from error

    def _execute_guarded(self, statement: str) -> None:
        # Rows are never fetched: Python would make objects of their values, and SQLite's limits do not count those.
        self._connection.set_authorizer(self._authorizer.may)
        flags = 0 if statement.startswith(_READS_PRAGMA_TABLE) else _NO_VIRTUAL
        self._cursor.execute(statement, can_cache=False, prepare_flags=flags)
        self._cursor.execute("")  # fails if rows are pending from a statement that is not the last of several
        self._connection.set_authorizer(None)

    def _commit(self) -> None:
        if not self._changes:
            return
        self._changes = 0
        try:
            if self._in_place:
                self._check_version()
            self._cursor.execute("COMMIT")  # by the same cursor: that drops any rows that were never fetched
        except apsw.Error as error:
            raise self._failed("COMMIT", error) from error

    def _check_version(self) -> None:
        """Check that a change to a node's own database has led to the version in the log, before it is committed.

        Raises ReplayFailed for another version and for unknown objects in the schema, and apsw.Error.
        """
        state = state_of(self._connection)
        if self._unknown is not None and state.unknown_objects != self._unknown:
            raise creates_unknown(self._data_version, state.unknown_objects)
        reached = state.data_version or 0
        if reached != self._data_version:
            raise leads_elsewhere(self._data_version, reached)

    def _failed(self, statement: str, error: Exception) -> BackupError:
        if isinstance(error, apsw.FullError) and self._is_at_its_limit():
            return TooLarge(f"the database would grow beyond {self._most} bytes")
        if isinstance(error, apsw.IOError) and (beyond := file_refused(self._connection.system_errno)) is not None:
            return beyond
        if isinstance(error, _OF_THIS_MACHINE):
            return as_backup_error(error, self.path)
        if isinstance(error, apsw.InterruptError) and self._authorizer.refused is None:
            return self._out_of_time()
        if isinstance(error, FunctionRefused):
            self._authorizer.refused = f"FUNCTION {error.name}"
        begins, whole = outline(statement), statement[:MAX_WITHHELD]
        change = "a change" if self._data_version is None else f"the change with data version {self._data_version}"
        if self._authorizer.refused is not None:
            refused = printable(self._authorizer.refused)
            return ReplayFailed(
                f"{change} contains what no node writes ({refused}), in: {begins}",
                f"{change} contains what no node writes",
                _ALTERED,
                whole,
            )
        if isinstance(error, apsw.NoMemError) and pulse.statement:
            return memory_missing(pulse.statement, self._data_version)
        if isinstance(error, apsw.NoMemError):
            failed = MemoryFailed(
                f"{change} needs more memory (over {apsw.hard_heap_limit(-1) >> 20} MiB) than anything that a node "
                f"writes, in: {begins}",
                _ALTERED,
            )
            failed.withheld = whole
            return failed
        return ReplayFailed(
            f"{change} cannot be executed: {error_text(error)}, in: {begins}",
            f"{change} cannot be executed ({type(error).__name__})",
            _NOT_THE_NODES,
            f"{whole_words(error)}, in: {whole}",
        )

    def _out_of_time(self) -> OutOfTime:
        return OutOfTime(f"time ran out before the change with data version {self._data_version} was done")

    def _is_at_its_limit(self) -> bool:
        """Whether SQLite found the database full because of `grow_to`, and not because the disk is full."""
        if self._most is None:
            return False
        disk = os.statvfs(self.path.parent)
        return disk.f_bavail * disk.f_frsize > _FREE_SPACE

    def _unusable(self, error: apsw.Error) -> BackupError:
        return unusable(error, self.path, in_place=self._in_place)


_BUILDING = (
    "page_size = 4096",  # of a new file
    "locking_mode = EXCLUSIVE",
    "journal_mode = OFF",
    "synchronous = OFF",
)
"""Settings for a file under construction: as fast as SQLite can write, because nobody misses the file after a crash."""

_KEEPING = (
    "page_size = 4096",
    "journal_mode = DELETE",
    "synchronous = EXTRA",  # syncs the directory too: or a power cut brings the journal back and undoes the commit
)
"""Settings for a node's own database: each COMMIT is durable, and a crash before it leaves what was there."""


def _open_for_replay(path: Path, settings: tuple[str, ...]) -> apsw.Connection:
    connection = connect(path, READ_WRITE)
    try:
        # A defensive connection cannot switch its journal off, so it is made defensive again only afterwards.
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        for setting in (
            *settings,
            f"cache_size = -{CACHE_KIB}",
            "temp_store = FILE",  # a migration may sort more for an index than fits into memory
        ):
            run(connection, f"PRAGMA {setting}")
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        # As in lightningd's SQLite: "text" in double quotes is a string where there is no column of that name.
        connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 1)
        connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 1)
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 1)
    except BaseException:
        connection.close(True)
        raise
    return connection
