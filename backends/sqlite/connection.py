"""SQLite files opened through APSW: never trusted, never waited for long, every failure reported in a sentence.

Only APSW: two SQLite libraries that open the same file in one process release each other's locks.
"""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import apsw

from backends.errors import BackupError
from backends.sqlite.error_text import FOREIGN_JOURNAL, MANY_ROWS, NOT_UTF8, SEVERAL_ROWS, sqlite_words
from backends.sqlite.functions import FunctionRefused, allow_only_known
from backends.system.pulse import pulse
from backends.text import printable

OLDEST_SQLITE = (3, 54, 0)
"""The oldest version without a known hole that a database file or a statement can reach; setup.cfg requires the
matching APSW.

Before 3.54.0, a `count(*)` of a long list of rows overflows the stack (CVE-2026-119591); before 3.53.2 and 3.50.2,
memory is overwritten (CVE-2026-11822 and -11824, CVE-2025-6965); up to 3.46.0, a hot journal can delete any file.
"""

Value = int | float | str | bytes | None
"""A value that SQLite can store in a column."""

READ_ONLY = apsw.SQLITE_OPEN_READONLY
READ_WRITE = apsw.SQLITE_OPEN_READWRITE

STEPS_BETWEEN_CALLS = 1_000_000
"""Virtual-machine steps between two calls of a progress handler: 7 ms on the machine where it was measured."""

BUSY_TIMEOUT = 2000
"""Milliseconds to wait for another process's lock: lightningd's blocks a reader only while it writes to disk."""

STATEMENTS_KEPT = 64
"""Prepared statements that a connection keeps: in a node's recording, half of all texts return within 32 others."""

_SLOTS = (4800, 400)
"""Size in bytes, and number, of a connection's lookaside slots. The prepared statements that are kept use up SQLite's
usual 40; with enough slots for them, a replay takes a sixth less time."""

MEMORY = 256 << 20
"""Bytes that SQLite may allocate in this process. Everything done here needs a fifth of that; without a limit, one
short statement in a backup from a stranger's disk (`randomblob(999999000)`) takes all the memory of the machine."""

_MEMORY_FOR_A_BYTE = 6
"""Further bytes for each byte of the largest value that may occur: inserting it into an index takes 5.2, measured."""

_LARGEST_VALUE = 1_000_000_000
"""Bytes of the largest value; SQLite's own limit, also for a statement."""

_COMPANIONS = ("-journal", "-wal", "-shm")


def _set_up() -> None:
    """Configure SQLite for this process, which is possible only before its first connection."""
    if apsw.connections():
        return  # other code has opened one; everything works without the setting, only slower
    apsw.shutdown()
    with suppress(TypeError):  # APSW before 3.54 has no such setting
        apsw.config(apsw.SQLITE_CONFIG_LOOKASIDE, *_SLOTS)
    apsw.initialize()


_set_up()
apsw.hard_heap_limit(MEMORY)


MoreMemory = Callable[[int, int], None]
"""Called with the bytes that SQLite may allocate from now on, and the bytes of the value that needs them."""


class _Values:
    """How large a value may be in this process, and what to call when SQLite gets more memory for one."""

    largest = _LARGEST_VALUE
    tell: MoreMemory | None = None


def limit_values(largest: int, tell: MoreMemory) -> None:
    """From now on, allow SQLite memory for values of at most `largest` bytes; `tell` is called before it gets more."""
    _Values.largest, _Values.tell = min(largest, _LARGEST_VALUE), tell


def largest_value() -> int:
    """Bytes of the largest value, or statement, for which SQLite gets memory in this process."""
    return _Values.largest


def raise_memory_limit(size: int) -> None:
    """Allow SQLite the memory that a value of `size` bytes takes: as large as a whole database or statement."""
    value = min(size, _Values.largest)
    wanted = MEMORY + _MEMORY_FOR_A_BYTE * value
    if wanted > apsw.hard_heap_limit(-1):
        if _Values.tell is not None:
            _Values.tell(wanted, value)
        apsw.hard_heap_limit(wanted)


def refuse_old_sqlite() -> None:
    """Raise BackupError when the SQLite that APSW uses, its own or the system's, has known holes."""
    found = apsw.sqlite_lib_version()
    if tuple(map(int, found.split(".")[:3])) < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        raise BackupError(
            f"the SQLite library here is {found}; a hostile backup could exploit holes that are fixed in {needed}. "
            "Nothing was opened, and nothing changed. Install APSW with its own SQLite in this Python environment: "
            "pip install --upgrade --only-binary apsw apsw"
        )


class Busy(BackupError):
    """Another process, most likely lightningd, is writing to the database file."""


class Corrupt(BackupError):
    """A database file is damaged, or is not a database at all."""


def connect(path: Path, flags: int, vfs: str | None = None) -> apsw.Connection:
    """Open an existing file, for one thread, in such a way that nothing in it can run or reach anything else.

    Raises apsw.Error, or BackupError for a name that SQLite cannot open, and for an old SQLite. SQLite examines the
    file's contents only when it first reads from it.
    """
    refuse_old_sqlite()
    if flags & READ_WRITE and vfs is None and names_super_journal(path):
        raise apsw.CorruptError(FOREIGN_JOURNAL)
    with suppress(OSError):  # SQLite will say what is wrong with the file
        raise_memory_limit(path.stat().st_size)
    flags |= apsw.SQLITE_OPEN_NOMUTEX
    if os.fsencode(path).decode(errors="replace") != str(path):
        raise BackupError(f"{path} has a name that is not in UTF-8, which SQLite cannot open; choose another name")
    connection = apsw.Connection(str(path.absolute()), flags=flags, vfs=vfs, statementcachesize=STATEMENTS_KEPT)
    try:
        connection.set_busy_timeout(BUSY_TIMEOUT)
        connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0)
        # A schema may declare virtual tables; without their modules, those cannot do anything.
        connection.drop_modules(None)
        allow_only_known(connection)
        connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
        # Python notices Ctrl-C only while it runs Python code, and the check of a large file is one long call.
        connection.set_progress_handler(_go_on, STEPS_BETWEEN_CALLS)
        run(connection, "PRAGMA cell_size_check = ON")
        run(connection, "PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close(True)
        raise
    return connection


@contextmanager
def opened(path: Path, flags: int, shown: Path | None = None) -> Iterator[apsw.Connection]:
    """`connect` for a `with` block: closed at its end, and an apsw.Error from inside it is raised as a BackupError.

    `shown` is the path to name in errors when `path` is a temporary copy. Raises BackupError, Busy or Corrupt.
    """
    if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises when a directory above may not be entered)
        raise BackupError(f"there is no database at {path}, or it may not be read; check the path and try again")
    with sqlite_errors(shown or path):
        connection = connect(path, flags)
        try:
            yield connection
        finally:
            connection.close(True)


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Raise an apsw.Error from inside the `with` block as a BackupError, Busy or Corrupt, about the database `path`."""
    try:
        yield
    except apsw.Error as error:
        raise as_backup_error(error, path) from error
    except UnicodeDecodeError as error:
        raise corrupt(path, NOT_UTF8) from error


FEW = 1 << 16
"""Rows. No list asked for here is longer in a node's database: it has some hundreds of tables and columns."""


def run(connection: apsw.Connection, sql: str, bindings: tuple[Value, ...] = ()) -> list[tuple[Value, ...]]:
    """Execute `sql` to the end and return all rows, where few are expected. Raises TooManyRows above FEW."""
    rows = list(islice(connection.execute(sql, bindings), FEW + 1))
    if len(rows) > FEW:
        raise TooManyRows(MANY_ROWS)
    return rows


def one_row(connection: apsw.Connection, sql: str, bindings: tuple[Value, ...] = ()) -> tuple[Value, ...] | None:
    """The only row of the result, or None. Raises TooManyRows if there is a second; a third is never asked for.

    In a hostile database, a table that should have one row may have millions, with values that the schema computes.
    """
    rows = list(islice(connection.execute(sql, bindings), 2))
    if len(rows) > 1:
        raise TooManyRows(SEVERAL_ROWS)
    return rows[0] if rows else None


class TooManyRows(apsw.CorruptError):
    """A database that SQLite finds intact, but with more rows in some table than lightningd ever writes there."""


CHECK_CACHE_KIB = 32 << 10
"""Page cache for checking a database. With SQLite's own 2 MiB, the check of 1 GiB reads 5.7 times as much, and 10 times
as much with 4 GiB; with this, twice."""

SMALL_CACHE_KIB = 6 << 10
"""The same where a running node's plugin checks: its whole process takes less than 40 MiB."""


def integrity_errors(connection: apsw.Connection, *, cache_kib: int = CHECK_CACHE_KIB) -> str | None:
    """Read every page and index entry; return the first three faults as SQLite words them, or None.

    Raises apsw.Error.
    """
    run(connection, f"PRAGMA cache_size = -{cache_kib}")
    return faults(connection, "PRAGMA integrity_check(3)")


def faults(connection: apsw.Connection, check: str) -> str | None:
    """The first three faults that the PRAGMA `check` finds, as SQLite words them, or None. Raises apsw.Error."""
    try:
        found = [str(row[0]) for row in islice(connection.execute(check), 3)]
    except UnicodeDecodeError:  # SQLite names the faulty table or index, and the name is not UTF-8
        return NOT_UTF8
    return None if found == ["ok"] else "; ".join(printable(" ".join(fault.split())) for fault in found)


_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
"""The first bytes of a rollback journal, and also the last bytes of one that ends with the name of a super-journal,
the length of that name and its checksum."""

_SUPER_JOURNAL_TAIL = struct.Struct(">II8s")


def names_super_journal(path: Path) -> bool:
    """Whether the rollback journal beside the database `path` names a super-journal.

    SQLite writes such a name when a transaction changes several attached databases; lightningd attaches none, and
    opens a replica on a connection of its own. Even SQLite 3.54.1 deletes the named file if it looks like a
    super-journal.
    """
    try:
        descriptor = os.open(f"{path.resolve()}-journal", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, RuntimeError):  # there is none; or SQLite cannot read it either and will say what is wrong
        return False
    try:
        start = os.fstat(descriptor).st_size - _SUPER_JOURNAL_TAIL.size
        tail = os.pread(descriptor, _SUPER_JOURNAL_TAIL.size, max(start, 0))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return tail.endswith(_JOURNAL_MAGIC) and start > 0


def create_private(path: Path) -> None:
    """Create an empty file that only its owner can read. Raises BackupError when it exists or cannot be created."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise BackupError(
            f"{path} could not be created: {error.strerror}; nothing was changed. "
            "Free some space there, or choose another path"
        ) from error


def sync(path: Path) -> None:
    """Make the file's contents durable. Raises BackupError.

    Not for a file that SQLite has open in this process: closing it here would release SQLite's locks.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BackupError(
            f"{path} could not be made durable: {error.strerror}; nothing was replaced. Check the disk, then try again"
        ) from error


def companions(path: Path) -> list[Path]:
    """The names of the files that SQLite may keep beside the database `path`."""
    return [path.with_name(path.name + suffix) for suffix in _COMPANIONS]


def remove(path: Path) -> None:
    """Remove the database `path` and whatever SQLite has left beside it. Missing files are no error."""
    for file in (path, *companions(path)):
        file.unlink(missing_ok=True)


def error_text(error: Exception) -> str:
    """SQLite's own message, without what must not be shown to everybody (see `sqlite_words`)."""
    return sqlite_words(error)


def as_backup_error(error: apsw.Error, path: Path) -> BackupError:
    """An error of SQLite as an error for people: what happened to the database `path`, and what to do about it."""
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return Busy(
            f"{path} is being written by another process, most likely lightningd; nothing was written. "
            "Stop the node, then try again"
        )
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return corrupt(path, error_text(error))
    if isinstance(error, FunctionRefused):
        return BackupError(
            f"{path} holds something (an index, a view, a trigger, a table's CHECK, DEFAULT or generated column) that "
            f"calls the function {error.name}, which no lightningd database does; nothing was written. If you added "
            "it, stop the node, drop it, then try again; if not, somebody altered the database: do not start a node "
            "from it"
        )
    if isinstance(error, apsw.FullError):
        return BackupError(f"the disk with {path} is full; nothing was replaced. Free some space and try again")
    if isinstance(error, apsw.ReadOnlyError):
        return BackupError(
            f"{path} was left in the middle of a write, and cannot be recovered without writing to it; nothing was "
            "written. Stop the node, then try again"
        )
    if isinstance(error, apsw.NoMemError):
        return BackupError(
            f"{path} takes more memory to read than there is, or than any node's database does (over "
            f"{apsw.hard_heap_limit(-1) >> 20} MiB); nothing was replaced. Try again where more memory is free; if "
            "that fails too, the database was altered, or not made by lightningd: do not start a node from it"
        )
    return BackupError(
        f"{path} could not be read or written: {error_text(error)}; nothing was replaced. "
        "Check the disk and the file's permissions, then try again"
    )


def corrupt(path: Path | str, what: str) -> Corrupt:
    """The error for a node's own database that is damaged; `what` is what was found."""
    return Corrupt(
        f"{path} is corrupt: {what}; nothing was written. Do not delete it. Stop the node; to see what is safe to do, "
        "run: backup-cli check-config"
    )


def _go_on() -> bool:
    pulse.signs += 1
    return False
