"""The copy of a database that follows a backup: always a whole state of the node, whatever kills this process.

Each transaction holds whole changes, and in the same transaction the copy notes which change it holds last: the
checksum of that record, in the `user_version` of SQLite's header, which lightningd leaves at 0. With the data version
that names the change, and no second file can disagree. A power cut may take the last transactions back. Then the copy
is an earlier state of the same history, says so itself, and goes on from there.

Until it is promoted, the `application_id` in the header says what it is, and the plugin refuses to start a node on it.
The file is read-only (0400) as well: it may be behind, and a node that runs from an old state can lose its channels.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import apsw

from backends.change import DATABASE_HEADER, FOLLOWING, is_following
from backends.errors import BackupError
from backends.sqlite.connection import (
    READ_WRITE,
    as_backup_error,
    connect,
    one_row,
    run,
    sync,
)
from backends.sqlite.error_text import NOT_UTF8
from backends.sqlite.names import quoted
from backends.sqlite.replay import Replay
from backends.sqlite.replay_errors import creates_unknown, leads_elsewhere
from backends.sqlite.schema import unknown_objects
from backends.sqlite.source import DatabaseState, state_of
from backends.sqlite_header import MAGIC
from backends.text import printable

_SETTINGS = (
    "page_size = 4096",
    "journal_mode = DELETE",
    "synchronous = FULL",  # a power cut may take back a transaction, but leaves a whole state
)
READ_ONLY_MODE = 0o400
_NEVER = 1 << 62


class NoCopy(BackupError):
    """The file is no copy that `backup-cli follow` has made."""

    kind = "no_copy"


class HeldUp(BackupError):
    """Another process reads the copy for so long that nothing can be written to it."""

    kind = "held_up"


class FollowingCopy(Replay):
    """A copy, open for replaying more changes into it. For one thread.

    After an error, close it: what was not committed is rolled back, and the file holds a whole earlier state.
    """

    def __init__(self, path: Path, *, accept_unknown: bool = False) -> None:
        """Roll back what a killed process has left, and go on from there.

        Unless `accept_unknown`, a change is refused that makes something in the schema that no lightningd makes.
        Raises NoCopy, HeldUp, ReplayFailed or another BackupError.
        """
        _refuse_foreign(path)
        _writable(path)
        super().__init__(path)
        self._changes_per_transaction = _NEVER
        self._accepts = accept_unknown
        self._tables: Iterator[str] = iter(())
        try:
            with self._own_errors():
                ours = one_row(self._connection, "PRAGMA application_id") == (FOLLOWING,)
                self._schema, self._known = self._schema_version(), unknown_objects(self._connection)
                if not ours:
                    raise NoCopy(f"{path} is not a copy that follows a backup")
            path.chmod(READ_ONLY_MODE)
            self._inode = path.stat().st_ino
        except BaseException:
            self.close()
            raise

    def _settings(self) -> tuple[str, ...]:
        return _SETTINGS

    @property
    def data_version(self) -> int | None:
        """The database's version; None if it has none."""
        with self._own_errors():
            return state_of(self._connection).data_version

    @property
    def checksum(self) -> int:
        """The checksum of the record of the change that the copy holds last."""
        with self._own_errors():
            row = one_row(self._connection, "PRAGMA user_version")
        return int(str(row[0])) % (1 << 32) if row else 0

    def commit(self, checksum: int, data_version: int) -> None:
        """Commit the changes since the last commit; the last of them is that of the record with this checksum.

        Raises ReplayFailed if they have not led to that version, and HeldUp.
        """
        if not self._changes:  # a lone PRAGMA, which runs outside any transaction
            self._begin()
        self._data_version = data_version
        with self._own_errors():
            self._check_outcome(data_version)
            run(self._connection, f"PRAGMA user_version = {_signed(checksum)}")
            self._cursor.execute("COMMIT")  # by the cursor of the changes: see Replay
        self._changes = 0

    def check_next_table(self) -> bool:
        """Check one more table and its indexes, page by page. Returns whether that was the last: then a next pass
        begins. Raises ReplayFailed for a fault: then the file is worthless."""
        with self._own_errors():
            table = next(self._tables, None)
            if table is None:
                self._tables = iter(self._tables_now())
                table = next(self._tables, None)
            if table is not None:
                self._check_table(table)
            rest = list(self._tables)
        self._tables = iter(rest)
        return not rest

    def is_where_it_was(self) -> bool:
        """Whether the file still has its name: somebody may have moved it away, or put another one there."""
        try:
            return self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def close(self) -> None:
        with suppress(apsw.Error):
            if self._changes:
                self._cursor.execute("ROLLBACK")
        super().close()

    # Inside

    def _begin(self) -> None:
        with self._own_errors():
            self._cursor.execute("BEGIN IMMEDIATE")

    def _commit(self) -> None:
        assert not self._changes, "changes are committed with the checksum of the last of them"

    def _check_outcome(self, data_version: int) -> None:
        schema = self._schema_version()
        state: DatabaseState | None = None
        if schema != self._schema:
            state = state_of(self._connection)
            if not self._accepts and state.unknown_objects != self._known:
                raise creates_unknown(data_version, state.unknown_objects)
            self._schema, self._known = schema, state.unknown_objects
        reached = (state or state_of(self._connection)).data_version
        if reached not in (None, data_version):
            raise leads_elsewhere(data_version, reached)

    def _schema_version(self) -> object:
        row = one_row(self._connection, "PRAGMA schema_version")
        return row[0] if row else None

    def _tables_now(self) -> list[str]:
        query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 ORDER BY name"
        return ["sqlite_schema", *(str(name) for (name,) in run(self._connection, query))]

    def _check_table(self, table: str) -> None:
        found = [str(row[0]) for row in run(self._connection, f"PRAGMA integrity_check({quoted(table)})")]
        if found != ["ok"]:
            damaged = f"the copy {self.path.name} fails SQLite's integrity check"
            what = "; ".join(printable(" ".join(fault.split())) for fault in found[:3])
            raise CopyDamaged(f"{damaged}: {what}")

    def _own_errors(self) -> "_OwnErrors":
        return _OwnErrors(self.path)

    def _failed(self, statement: str, error: Exception) -> BackupError:
        return _of_the_copy(error, self.path) or super()._failed(statement, error)

    def _unusable(self, error: apsw.Error) -> BackupError:
        return _of_the_copy(error, self.path) or super()._unusable(error)


class CopyDamaged(BackupError):
    """The copy itself is damaged, by this machine's disk or memory; that says nothing about the backup."""

    exit_code = 3
    kind = "copy_damaged"


class _OwnErrors:
    """A `with` block around SQLite: its errors are raised as BackupErrors about the copy."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if isinstance(error, UnicodeDecodeError):
            raise CopyDamaged(f"the copy {self._path} is damaged: {NOT_UTF8}") from error
        if isinstance(error, apsw.Error):
            raise _of_the_copy(error, self._path) or as_backup_error(error, self._path) from error


def _of_the_copy(error: Exception, path: Path) -> BackupError | None:
    """The error for what concerns the copy and not the backup: it is damaged, or somebody else reads it."""
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return CopyDamaged(f"the copy {path} is damaged, on this machine's disk or in its memory")
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return HeldUp(f"another process reads {path} for so long that nothing can be written to it")
    return None


def mark_copy(path: Path, checksum: int) -> DatabaseState:
    """Make a database that was just rebuilt a copy that follows a backup: it holds the change of the record with this
    checksum. Durable when this returns. Returns its state. Raises BackupError."""
    state = _set(path, FOLLOWING, checksum)
    path.chmod(READ_ONLY_MODE)
    return state


def release_copy(path: Path) -> DatabaseState:
    """Make a copy an ordinary database again, which a node may run from, and return its state.

    Durable when this returns. Raises BackupError.
    """
    return _set(path, 0, 0)


def _set(path: Path, application_id: int, user_version: int) -> DatabaseState:
    _refuse_link(path)
    _writable(path)
    try:
        with closing(connect(path, READ_WRITE)) as connection:
            # Once the file has another name, a journal that a power cut brings back would not be found any more.
            run(connection, "PRAGMA synchronous = EXTRA")
            run(connection, "BEGIN IMMEDIATE")
            run(connection, f"PRAGMA application_id = {application_id}")
            run(connection, f"PRAGMA user_version = {_signed(user_version)}")
            run(connection, "COMMIT")
            state = state_of(connection)
    except apsw.Error as error:
        raise _of_the_copy(error, path) or as_backup_error(error, path) from error
    sync(path)
    return state


def _signed(number: int) -> int:
    """SQLite's header fields are signed."""
    return number - (1 << 32) if number >= 1 << 31 else number


def _refuse_link(path: Path) -> None:
    """Raise NoCopy unless `path` is a regular file with no other name: SQLite would write to somebody else's file, and
    not find the journal that belongs to it."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        raise NoCopy(f"there is no copy at {path}") from None
    if not stat.S_ISREG(there.st_mode) or there.st_nlink > 1:
        raise NoCopy(f"{path} is a link, has a second name (a hard link), or is not a regular file")


def _refuse_foreign(path: Path) -> None:
    """Raise NoCopy for another file than a copy, before anything touches it: it may be a node's database.

    Raises CopyDamaged if it is no database at all.
    """
    _refuse_link(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        header = os.pread(descriptor, DATABASE_HEADER, 0)
    except OSError as error:
        raise BackupError(
            f"the copy {path} cannot be read: {error.strerror}. The backup is not at fault, and nothing was changed. "
            "Check this machine's disk; if it has lost the copy, move that away: a new one is built then"
        ) from error
    finally:
        os.close(descriptor)
    if not header.startswith(MAGIC):
        raise CopyDamaged(f"the copy {path} is damaged: it does not begin as a database does")
    if not is_following(header):
        raise NoCopy(f"{path} is not a copy that follows a backup")


def _writable(path: Path) -> None:
    """Let SQLite open the copy for writing, and the journal that a killed process has left beside it."""
    for file in (path, path.with_name(f"{path.name}-journal")):
        with suppress(FileNotFoundError):
            file.chmod(0o600)
