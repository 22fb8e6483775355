"""`integrity_check` of a database that is larger than the memory for its pages, reading each of them about once.

SQLite goes through all trees, and then through all rows of all tables: 2 x the database. Here it checks one table after
another, and a large one in parts (`table_tree`), so that the second look at a page finds it in memory. Everything that
SQLite checks is checked by SQLite, but for what no single one of these checks sees: that each page is in use exactly
once (`page_ledger`), that the parts of a table follow one another, and that its indexes have as many entries as it has
rows. Nothing is reported from here. Whatever is not exactly as expected is left to the check of the whole in one go.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice

import apsw

from backends.sqlite.checked_tables import Table, Unexpected, number, tables_of
from backends.sqlite.connection import (
    CHECK_CACHE_KIB,
    STEPS_BETWEEN_CALLS,
    integrity_errors,
    one_row,
    run,
)
from backends.sqlite.foreign_keys import ForeignKeys
from backends.sqlite.in_step import InStep
from backends.sqlite.names import quoted
from backends.sqlite.page_ledger import Discrepancy, PageLedger, PageSet, runs
from backends.sqlite.recorded_pages import RecordedPages, database_pages
from backends.sqlite.sparing import Sparing, reading_pages, sparing
from backends.sqlite.table_tree import (
    NotDivisible,
    Pages,
    Part,
    Tangled,
    empty_leaf,
    entries,
    key,
    root_of,
    table_tree,
)

Stops = Callable[[], bool]
"""Called now and then while SQLite works; true ends the work with apsw.InterruptError."""

_SIZE = 24 << 20
"""Bytes of a part: with what SQLite keeps in memory itself, it then asks for most pages only once."""

_MAX_INDEXES = 3
"""A table is not divided if that has SQLite look at more bytes of its indexes than this, times the table's own. Then
there is so little memory that the indexes do not stay there."""

_MAX_TABLES = 500
"""Each is checked over a connection of its own, which reads the whole schema: the time grows with their square. A node
has about a hundred."""

_MANY = 200
"""Faults. SQLite ends a check after 100."""

_ROWIDS = ("rowid", "_rowid_", "oid")


def whole_errors(
    connection: apsw.Connection,
    *,
    cache_kib: int = CHECK_CACHE_KIB,
    stops: Stops | None = None,
    step: InStep | None = None,
    keys: ForeignKeys | None = None,
) -> str | None:
    """`integrity_errors` of a connection of `opened_sparingly`, in parts if it reads sparingly.

    `stops` is the connection's progress handler, if it has one of its own. `step`: somebody reads the file meanwhile.
    `keys` gets what is found out about foreign keys: nothing if the database is checked in one go. Raises apsw.Error,
    and what `stops` raises.
    """
    try:
        found = sparing(connection)
        if found is not None and _proven(connection, found, _How(cache_kib, stops, step, keys)):
            return None
    finally:
        if step is not None:
            step.end_check()
    return integrity_errors(connection, cache_kib=cache_kib)


@dataclass(frozen=True, slots=True)
class _How:
    """See `whole_errors`."""

    cache_kib: int
    stops: Stops | None
    step: InStep | None
    keys: ForeignKeys | None


def _proven(connection: apsw.Connection, found: Sparing, how: _How) -> bool:
    """Whether the database is whole; False also if that cannot be told in this way. Raises apsw.InterruptError."""
    try:
        run(connection, "BEGIN")  # so that nobody writes to it in between
        try:
            run(connection, "SELECT count(*) FROM sqlite_schema")
            _Check(connection, found, how).run()
        finally:
            run(connection, "ROLLBACK")
    except apsw.InterruptError:
        raise
    except (Unexpected, NotDivisible, Tangled, Discrepancy, apsw.Error, OSError, UnicodeDecodeError, MemoryError):
        return False  # what is noted of the pages here may need more memory than SQLite alone
    return True


class _Check:
    def __init__(self, connection: apsw.Connection, found: Sparing, how: _How) -> None:
        self._found, self._how, self._keys_make_sense = found, how, True
        self._pages = database_pages(found.descriptor)
        self._room = found.keep // 3 * 5 // 4
        """Bytes of a table whose pages certainly stay in memory while it is checked."""
        self._ledger = PageLedger(self._pages)
        self._inner = 0
        """How many inner pages of tables there were so far."""
        self._tables = tables_of(connection)
        if len(self._tables) > _MAX_TABLES:
            raise Unexpected

    def run(self) -> None:
        """Raises Unexpected, NotDivisible, Discrepancy or apsw.Error unless the database is whole; OSError."""
        self._ledger.use(self._whole("sqlite_schema") | _bits(self._pages, 1))
        for table in self._tables:
            self._divide(table)
        parts = [(part, table) for table in self._tables for part in table.parts]
        parts.sort(key=lambda each: each[0].highest, reverse=self._how.step is None)  # the file's end may be in memory
        for part, table in parts:
            if self._how.step is not None:
                self._how.step.wait_until_read(part.highest * self._pages.size, self._room // 2)
            self._check_part(table, part)
        if self._how.step is not None:
            self._how.step.end_check()
        for table in self._tables:
            if table.tree is None:
                self._ledger.use(self._whole(table.name))
            else:
                self._check_counts(table)
        self._ledger.close()
        if self._how.keys is not None:
            self._how.keys.complete = self._keys_make_sense

    def _whole(self, name: str) -> int:
        """Check this table with its indexes, and return their pages."""
        with self._opened({}) as (connection, pages):
            if _faults(connection, name) != ["ok"]:
                raise Unexpected
            used = pages.seen.bits()
            self._look_at_keys(connection, name)
            return used

    def _divide(self, table: Table) -> None:
        """Cut a large table into parts, if that pays, and check what is above them, and the indexes' trees."""
        try:
            tree = table_tree(self._pages, table.root)
        except NotDivisible:
            return
        self._inner += len(tree.above) + len(tree.cut)
        if self._inner > self._pages.count:
            raise Unexpected
        if tree.size < (self._room if self._how.step is None else self._room // 2):
            return
        masked = dict.fromkeys((cut.page.number for cut in tree.cut), empty_leaf(self._pages))
        with self._opened(masked) as (connection, pages):
            faults = list[str]()
            # SQLite goes through all trees, and expects a row below each inner page only when it goes through the rows.
            with suppress(apsw.CorruptError):
                for fault in _each_fault(connection, table.name):
                    faults.append(fault)
            self._require_only_counts(table, faults)
            used = pages.seen.bits()
        above = _bits(self._pages, *tree.above)
        if used & above != above:
            raise Unexpected
        not_rows = used & ~above
        # With each part, SQLite looks at the whole indexes again.
        indexes = not_rows.bit_count() * self._pages.size
        size = max(min(self._room, _SIZE), indexes)
        parts = list(tree.parts(min(size, self._room), None if self._how.step is None else self._room, size // 2))
        if len(parts) * indexes > _MAX_INDEXES * tree.size:
            return
        self._ledger.use(used)
        table.tree, table.not_rows, table.parts = tree, not_rows, parts

    def _check_part(self, table: Table, part: Part) -> None:
        assert table.tree is not None
        table.tree.check_height(part)
        with self._opened({table.root: root_of(self._pages, part)}) as (connection, pages):
            self._require_only_counts(table, _faults(connection, table.name))
            rows = pages.seen.bits() & ~table.not_rows
            self._check_order(connection, table, part)
            if not table.refers_to_itself:
                self._look_at_keys(connection, table.name)
            table.rows += number(one_row(connection, f"SELECT count(*) FROM {quoted(table.name)} NOT INDEXED"))
        self._ledger.use(rows)
        self._forget(rows)

    def _check_order(self, connection: apsw.Connection, table: Table, part: Part) -> None:
        """Raise Unexpected unless all keys of the part are between those of its neighbours."""
        columns = run(connection, "SELECT lower(name) FROM pragma_table_xinfo(?)", (table.name,))
        rowid = next((name for name in _ROWIDS if (name,) not in columns), None)
        if rowid is None:
            raise Unexpected
        ends = (f"(SELECT {end}({rowid}) FROM {quoted(table.name)} NOT INDEXED)" for end in ("min", "max"))
        least, largest = one_row(connection, f"SELECT {', '.join(ends)}") or (None, None)
        last = part.pages[-1].bound
        if not isinstance(least, int) or not isinstance(largest, int):
            raise Unexpected
        if (part.after is not None and least <= key(part.after)) or (last is not None and largest > key(last)):
            raise Unexpected

    def _look_at_keys(self, connection: apsw.Connection, table: str) -> None:
        """Look at the foreign keys of the rows that the connection shows of this table, if that is wanted."""
        if self._how.keys is not None and not table.startswith("sqlite_"):
            try:
                self._how.keys.look_at(connection, table)
            except apsw.SQLError:  # they make no sense, which is told by the one who looks at them again
                self._keys_make_sense = False

    def _check_counts(self, table: Table) -> None:
        """Raise Unexpected unless each index has as many entries as the parts together have rows."""
        if table.refers_to_itself:
            with self._opened({}) as (connection, _):
                self._look_at_keys(connection, table.name)
        if any(entries(self._pages, root) != table.rows for root in table.indexes.values()):
            raise Unexpected

    @staticmethod
    def _require_only_counts(table: Table, faults: list[str]) -> None:
        """Raise Unexpected if anything is wrong but that the indexes have more entries than there are rows.

        If SQLite words that differently one day, no table is checked in parts, and a test says so.
        """
        if not set(faults) <= {"ok", *(f"wrong # of entries in index {index}" for index in table.indexes)}:
            raise Unexpected

    @contextmanager
    def _opened(self, instead: dict[int, bytes]) -> Iterator[tuple[apsw.Connection, "RecordedPages"]]:
        """A connection that knows the schema, has no page in memory, and gets other bytes for the pages `instead`."""
        if self._how.stops is not None and self._how.stops():
            raise apsw.InterruptError
        pages = RecordedPages(self._found.descriptor, self._pages, instead)
        with reading_pages(self._found.path, pages) as connection:
            if self._how.stops is not None:
                connection.set_progress_handler(self._how.stops, STEPS_BETWEEN_CALLS)
            run(connection, f"PRAGMA cache_size = -{self._how.cache_kib}")
            run(connection, "SELECT count(*) FROM sqlite_schema")
            run(connection, "PRAGMA shrink_memory")
            pages.seen.clear()
            yield connection, pages
            if pages.leads_back:
                raise Unexpected

    def _forget(self, rows: int) -> None:
        """Have the kernel keep these pages no longer."""
        with suppress(OSError):  # then it is slower
            for start, end in runs(self._pages, rows):
                os.posix_fadvise(self._found.descriptor, start, end - start, os.POSIX_FADV_DONTNEED)


def _faults(connection: apsw.Connection, table: str) -> list[str]:
    return list(_each_fault(connection, table))


def _each_fault(connection: apsw.Connection, table: str) -> Iterator[str]:
    for (fault,) in islice(connection.execute(f"PRAGMA integrity_check({quoted(table)})"), _MANY):
        yield str(fault)


def _bits(pages: Pages, *numbers: int) -> int:
    found = PageSet(pages)
    for page in numbers:
        found.add(page)
    return found.bits()
