"""SQLite files opened through APSW: never trusted, never waited for long, and every failure a sentence.

Only APSW: two SQLite libraries that open one file in one process take each other's locks away.
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
"""The oldest without a hole known that a database file or a statement reaches; setup.cfg says the same of APSW.

Before 3.54.0 a `count(*)` of a long list of rows runs off the stack (CVE-2026-119591), before 3.53.2 and 3.50.2 memory
is overwritten (CVE-2026-11822 and -11824, CVE-2025-6965), and up to 3.46.0 a hot journal deletes any file.
"""

Value = int | float | str | bytes | None
"""What SQLite keeps in a column."""

READ_ONLY = apsw.SQLITE_OPEN_READONLY
READ_WRITE = apsw.SQLITE_OPEN_READWRITE

STEPS_BETWEEN_CALLS = 1_000_000
"""Virtual-machine steps between two calls of a progress handler: 7 ms here."""

BUSY_TIMEOUT = 2000
"""Milliseconds to wait for another process's lock: lightningd holds one that matters only while it writes to disk."""

STATEMENTS_KEPT = 64
"""Prepared statements that a connection keeps: in a recorded node, half of all texts come again within 32 others."""

_SLOTS = (4800, 400)
"""Bytes and number of a connection's own pieces of memory. SQLite's usual 40 are taken by the statements kept; with
enough of them for these, a replay takes a sixth less time."""

MEMORY = 256 << 20
"""Bytes that SQLite may have from this process. All that is done here needs a fifth of it; without a limit, one short
statement of a backup from a stranger's disk (`randomblob(999999000)`) takes what the machine has."""

_MEMORY_FOR_A_BYTE = 6
"""More of them for each byte of the largest value that may be met: putting it into an index takes 5.2, measured."""

_LARGEST_VALUE = 1_000_000_000
"""Bytes; SQLite's own limit, also for a statement."""

_COMPANIONS = ("-journal", "-wal", "-shm")


def _set_up() -> None:
    """What SQLite takes for a whole process, and only before its first connection."""
    if apsw.connections():
        return  # somebody else's: all works without, only slower
    apsw.shutdown()
    with suppress(TypeError):  # before 3.54, APSW cannot say it
        apsw.config(apsw.SQLITE_CONFIG_LOOKASIDE, *_SLOTS)
    apsw.initialize()


_set_up()
apsw.hard_heap_limit(MEMORY)


MoreMemory = Callable[[int, int], None]
"""Called with the bytes that SQLite may have from now on, and those of the value that they are for."""


class _Values:
    """How large a value may be in this process, and who wants to know when SQLite gets more memory for one."""

    largest = _LARGEST_VALUE
    tell: MoreMemory | None = None


def limit_values(largest: int, tell: MoreMemory) -> None:
    """From now on, SQLite gets memory for values of `largest` bytes at most; `tell` is called before it gets more."""
    _Values.largest, _Values.tell = min(largest, _LARGEST_VALUE), tell


def raise_memory_limit(size: int) -> None:
    """A database or a statement of this many bytes: SQLite may have the memory that one value of its size takes."""
    value = min(size, _Values.largest)
    wanted = MEMORY + _MEMORY_FOR_A_BYTE * value
    if wanted > apsw.hard_heap_limit(-1):
        if _Values.tell is not None:
            _Values.tell(wanted, value)
        apsw.hard_heap_limit(wanted)


def refuse_old_sqlite() -> None:
    """BackupError when the SQLite that APSW came with, or that the system gave it, is one with known holes."""
    found = apsw.sqlite_lib_version()
    if tuple(map(int, found.split(".")[:3])) < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        raise BackupError(
            f"the SQLite library here is {found}, and a backup from a hostile place could use holes that were closed "
            f"up to {needed}; nothing was opened and nothing changed. Install APSW with its own SQLite, in this "
            "Python environment: pip install --upgrade --only-binary apsw apsw"
        )


class Busy(BackupError):
    """Another process, most likely lightningd, is writing to the database file."""


class Corrupt(BackupError):
    """A database file is damaged, or no database at all."""


def connect(path: Path, flags: int, vfs: str | None = None) -> apsw.Connection:
    """Open an existing file, for one thread, so that nothing in it can do more than hold data.

    Raises apsw.Error, or BackupError for a name that SQLite cannot open, and for an old SQLite. SQLite looks into the
    file only when it is first read.
    """
    refuse_old_sqlite()
    if flags & READ_WRITE and vfs is None and names_super_journal(path):
        raise apsw.CorruptError(FOREIGN_JOURNAL)
    with suppress(OSError):  # SQLite says better what is wrong with it
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
        # A schema may name virtual tables; without their modules they are only names.
        connection.drop_modules(None)
        allow_only_known(connection)
        connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
        # Python sees a Ctrl-C only in Python code, and a check of a large file is one long call.
        connection.set_progress_handler(_go_on, STEPS_BETWEEN_CALLS)
        run(connection, "PRAGMA cell_size_check = ON")
        run(connection, "PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close(True)
        raise
    return connection


@contextmanager
def opened(path: Path, flags: int, shown: Path | None = None) -> Iterator[apsw.Connection]:
    """The same for a `with`: closed at its end, and apsw.Error from inside it raised as a BackupError.

    `shown` is the path for people when `path` is a copy that they don't know of.
    """
    if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises when a directory above may not be entered)
        raise BackupError(f"there is no database at {path}, or it may not be read; check the path and try again")
    try:
        connection = connect(path, flags)
        try:
            yield connection
        finally:
            connection.close(True)
    except apsw.Error as error:
        raise as_backup_error(error, shown or path) from error
    except UnicodeDecodeError as error:
        raise corrupt(shown or path, NOT_UTF8) from error


FEW = 1 << 16
"""Rows above which a list of them is none that a node's database gives: its tables and their columns are hundreds."""


def run(connection: apsw.Connection, sql: str, bindings: tuple[Value, ...] = ()) -> list[tuple[Value, ...]]:
    """Execute to the end; all rows, so only where they are few. Raises TooManyRows where they are not."""
    rows = list(islice(connection.execute(sql, bindings), FEW + 1))
    if len(rows) > FEW:
        raise TooManyRows(MANY_ROWS)
    return rows


def one_row(connection: apsw.Connection, sql: str, bindings: tuple[Value, ...] = ()) -> tuple[Value, ...] | None:
    """The only row of the result, or None. Raises TooManyRows for a second, before it asks for a third.

    A table that should have one row may have millions, and their values be made up by the schema.
    """
    rows = list(islice(connection.execute(sql, bindings), 2))
    if len(rows) > 1:
        raise TooManyRows(SEVERAL_ROWS)
    return rows[0] if rows else None


class TooManyRows(apsw.CorruptError):
    """A database that is whole to SQLite, and has more rows in some place than any lightningd's has."""


def integrity_errors(connection: apsw.Connection) -> str | None:
    """Read every page and index entry; the first few faults in SQLite's words, or None. Raises apsw.Error."""
    try:
        found = [str(row[0]) for row in islice(connection.execute("PRAGMA integrity_check(3)"), 3)]
    except UnicodeDecodeError:  # it names what has a fault
        return NOT_UTF8
    return None if found == ["ok"] else "; ".join(printable(" ".join(fault.split())) for fault in found)


_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
"""Also the last bytes of a journal that ends with the name of a super-journal, its length and its checksum."""

_SUPER_JOURNAL_TAIL = struct.Struct(">II8s")


def names_super_journal(path: Path) -> bool:
    """Whether a rollback journal lies beside the database that names a super-journal.

    SQLite writes one when a transaction changes several attached databases; lightningd attaches none, and opens a
    replica by itself. Even SQLite 3.54.1 deletes the file that is named when it looks like a super-journal.
    """
    try:
        descriptor = os.open(f"{path.resolve()}-journal", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, RuntimeError):  # none; or SQLite cannot read it either, and says what is wrong
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
    """A new empty file that only its owner can read. Raises BackupError when it cannot be made or is there."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise BackupError(
            f"{path} could not be created: {error.strerror}; nothing was changed. "
            "Make room for it there, or choose another place"
        ) from error


def sync(path: Path) -> None:
    """The file's contents are durable when this returns. Raises BackupError.

    Not for a file that SQLite has open in this process: closing it here would take SQLite's locks away.
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
    """The files that SQLite may keep beside a database."""
    return [path.with_name(path.name + suffix) for suffix in _COMPANIONS]


def remove(path: Path) -> None:
    """The file and what SQLite may have left beside it, as far as they are there."""
    for file in (path, *companions(path)):
        file.unlink(missing_ok=True)


def error_text(error: Exception) -> str:
    """SQLite's own words, as far as they may be shown to anybody."""
    return sqlite_words(error)


def as_backup_error(error: apsw.Error, path: Path) -> BackupError:
    """What an error of SQLite means to the person whose database this is."""
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return Busy(
            f"{path} is being written by another process, most likely lightningd; nothing was written. "
            "Stop the node, then repeat this"
        )
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return corrupt(path, error_text(error))
    if isinstance(error, FunctionRefused):
        return BackupError(
            f"{path} holds something (an index, a view, a trigger, a table's CHECK, DEFAULT or generated column) that "
            f"calls the function {error.name}, as no lightningd's does; nothing was written. If you made it, drop it "
            "with the node stopped, then repeat this; if not, the database was altered: start no node from it"
        )
    if isinstance(error, apsw.FullError):
        return BackupError(f"the disk is full beside {path}; nothing was replaced. Free some space and try again")
    if isinstance(error, apsw.ReadOnlyError):
        return BackupError(
            f"{path} was left in the middle of a write and cannot be recovered by reading alone; nothing was written. "
            "Stop the node, then repeat this"
        )
    if isinstance(error, apsw.NoMemError):
        return BackupError(
            f"{path} takes more memory to read than there is, or than any node's database does (over "
            f"{apsw.hard_heap_limit(-1) >> 20} MiB); nothing was replaced. Try it where more memory is free; if it "
            "fails there too, the database was altered or made by something else: start no node from it"
        )
    return BackupError(
        f"{path} could not be read or written: {error_text(error)}; nothing was replaced. "
        "Check the disk and the file's permissions, then try again"
    )


def corrupt(path: Path | str, what: str) -> Corrupt:
    """The error for a node's own database that is not whole."""
    return Corrupt(
        f"{path} is corrupt: {what}; nothing was written. Do not delete it; stop the node, and see what is safe to do: "
        "backup-cli check-config"
    )


def _go_on() -> bool:
    pulse.signs += 1
    return False
