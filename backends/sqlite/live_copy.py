"""A copy of a node's database as it was at one commit, made while lightningd goes on committing.

SQLite's own ways to copy hold up lightningd's next commit until they are done, or begin again after each commit. This
one does neither. It rests on four facts:

1. While the hook has a change in its hands, the transaction is open: everything that it will change is in SQLite's
   rollback journal, as it was before. (Only page 1, with the change counter, may follow at the commit.)
2. lightningd commits nothing, and so changes no page for good, before the hook has answered.
3. Nobody but this lightningd writes to the file.
4. The exceptions to the first are the leaves of the free list: a page may be freed without being journalled, and is
   then used by a later transaction without being journalled (backends/sqlite/free_list.py).

So the pages are copied in order, in a thread, and each call of the hook first saves the old pages that its transaction
is about to change, the first time that each is changed, and those that the transaction before it freed. What was saved
counts, whether the page was copied already or not: a large transaction writes pages before the hook is called, and the
thread may have copied such a one. If a large transaction may have written over pages that the one before it freed, the
copy fails.

Pages that were free at the beginning hold nothing, and are zeros in the copy. Where there is no such journal (WAL mode,
a filesystem with atomic writes), where a commit moves pages after the call (auto-vacuum), or where the counter shows a
commit that no call announced, the copy fails, and the caller falls back on a way that holds lightningd up.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from backends.change import DATABASE_HEADER, change_counter
from backends.errors import BackupError
from backends.sqlite.free_list import FreeList, FreeListDamaged
from backends.sqlite.rollback_journal import NoJournal, RollbackJournal, has_hot_journal
from backends.sqlite_header import in_wal_mode
from backends.text import unexpected

PORTION = 1 << 20
"""Bytes that are copied at once."""

MAX_WAITING = 8 << 20
"""Bytes of saved pages that may wait in memory for the thread; what comes then is written by the hook itself."""

_LOOK_EVERY = 0.01
"""Seconds."""

_COUNTERS = 1 << 32
_AUTO_VACUUM = slice(52, 56)  # in page 1; zeros unless a database is in one of these modes


class CopyFailed(BackupError):
    """The copy cannot be made, or cannot be trusted: nothing was lost by it. `lasting`: for a reason that does not pass
    while lightningd runs."""

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


class LiveCopy:
    """One copy. `begin` and `capture` are called by the hook, `run` by another thread; each call may fail alone.

    `database` is the real path of the file, `target` a new one, which is as large at the end.
    """

    def __init__(self, database: Path, target: Path) -> None:
        """OSError when a file cannot be opened. The descriptor of the database stays open: see `close`."""
        self._database = database
        self._source = os.open(database, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._target = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except BaseException:
            os.close(self._source)
            raise
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        """Held from reading pages to writing them: what the hook writes by itself must come after that, or before."""
        self._saved = bytearray()
        """A bit for each page, by its number from 1, whose old content is known, or does not matter."""
        self._waiting: list[tuple[int, bytes]] = []
        self._waiting_bytes = 0
        self._pages = self._page_size = 0
        self._free = FreeList()
        self._changed = set[int]()
        """The pages in the journal of the last call."""
        self._commits = 0
        """Commits announced since the beginning."""
        self._counter = 0
        """The change counter of the commit that is copied."""
        self.failure: CopyFailed | None = None
        """Why this copy cannot be used."""

    @property
    def size(self) -> int:
        """Bytes of the copy."""
        return self._pages * self._page_size

    # In the hook

    def begin(self) -> None:
        """The database is to be copied as it is now, before the transaction of this call. Raises CopyFailed."""
        try:
            with closing(RollbackJournal(self._database)) as journal:
                self._pages, self._page_size = journal.header.pages, journal.header.page_size
                self._saved = bytearray(self._pages // 8 + 1)
                os.ftruncate(self._target, self.size)
                self._save(self._journalled(journal))
                first = self._before(journal, 1)
                self._counter = change_counter(first)
                if any(first[_AUTO_VACUUM]):  # it moves pages at the commit
                    raise CopyFailed("the database is in auto-vacuum mode", lasting=True)
                if not self._is_saved(1):  # each commit changes it, but it may come into the journal only then
                    self._save([(1, first)])
                self._mark_free(journal)
                self._changed = journal.numbers()
        except (NoJournal, FreeListDamaged, MemoryError, OSError, CopyFailed) as error:
            if isinstance(error, NoJournal) and in_wal_mode(os.pread(self._source, DATABASE_HEADER, 0)):
                error = CopyFailed("the database is in WAL mode, and so has no rollback journal", lasting=True)
            raise self._fail(error) from error
        self._commits = 1

    def capture(self, *, writes: bool) -> None:
        """Save what the transaction of this call changes; `writes` tells whether it changes anything. Never raises."""
        if self.failure is not None or not writes:
            return
        try:
            self._check_counter(under_way=0)
            with closing(RollbackJournal(self._database)) as journal:
                if journal.header.pages < self._pages or journal.header.page_size != self._page_size:
                    raise NoJournal
                self._save(self._journalled(journal))
                self._save(self._freed(journal))
                self._changed = journal.numbers()
        except Exception as error:  # whatever it is, the node goes on
            self._fail(error)
        self._commits += 1

    def _check_counter(self, *, under_way: int) -> None:
        """Raise CopyFailed unless the announced commits were made and no others; so many of them may be under way."""
        while True:
            announced = self._commits
            reached = change_counter(os.pread(self._source, DATABASE_HEADER, 0))
            if announced == self._commits:  # otherwise the hook was called meanwhile
                break
        if (self._counter + announced - reached) % _COUNTERS > under_way:
            raise CopyFailed("the database was changed by a commit that this plugin was not asked about")

    def _journalled(self, journal: RollbackJournal) -> Iterator[tuple[int, bytes]]:
        """The pages that the transaction under way changes."""
        return ((number, page) for number, page in journal.pages() if not self._is_saved(number))

    def _freed(self, journal: RollbackJournal) -> Iterator[tuple[int, bytes]]:
        """The pages that the last commit has freed: this transaction may be about to use them."""
        for number in self._free.named(lambda number: self._before(journal, number), self._changed):
            if not self._is_saved(number):
                if journal.header.hot:
                    raise CopyFailed("a large transaction may have written over pages that had just become free")
                yield number, self._read(number, 1)

    def _mark_free(self, journal: RollbackJournal) -> None:
        for number in self._free.named(lambda number: self._before(journal, number), ()):
            if not self._is_saved(number):
                self._mark(number)

    def _before(self, journal: RollbackJournal, number: int) -> bytes:
        """A page as it was before the transaction under way; not for leaves of the free list."""
        return journal.page(number) or self._read(number, 1)

    def _is_saved(self, number: int) -> bool:
        """Whether nothing of this page is to be saved any more, or it is not one of the copy."""
        return not 0 < number <= self._pages or bool(self._saved[number >> 3] >> (number & 7) & 1)

    def _mark(self, number: int) -> None:
        self._saved[number >> 3] |= 1 << (number & 7)

    def _save(self, pages: Iterable[tuple[int, bytes]]) -> None:
        """Save pages that are not saved yet: in memory or, once there are too many, by writing all others at once."""
        left = iter(pages)
        for number, page in left:
            if not self._let_wait(number, page):
                with self._writing:
                    self._write(number, page)
                    for other, its_page in left:
                        self._mark(other)
                        self._write(other, its_page)

    def _let_wait(self, number: int, page: bytes) -> bool:
        with self._lock:
            self._mark(number)
            waits = self._waiting_bytes < MAX_WAITING
            if waits:
                self._waiting.append((number, page))
                self._waiting_bytes += len(page)
            return waits

    # In its own thread

    def run(self, between: Callable[[int, int], bool]) -> None:
        """Copy all pages. Never raises: afterwards, `failure` says whether the copy is good.

        `between` is called after each portion with the bytes copied and their total; False ends the work.
        """
        try:
            step = max(PORTION // self._page_size, 1)
            for first in range(1, self._pages + 1, step):
                count = min(step, self._pages + 1 - first)
                with self._writing:
                    self._copy(first, self._read(first, count))
                self._write_waiting()
                if not between((first - 1 + count) * self._page_size, self.size):
                    raise CopyFailed("it was stopped")
                if self.failure is not None:
                    return
            self._end(between)
        except Exception as error:
            self._fail(error)

    def _end(self, between: Callable[[int, int], bool]) -> None:
        """A transaction may have written pages before its call of the hook, and they were copied: wait for that call.

        Once no journal is hot, whatever was copied was saved by its call, or was not changed before it was copied.
        """
        while has_hot_journal(self._database):
            if not between(self.size, self.size):
                raise CopyFailed("it was stopped")
            time.sleep(_LOOK_EVERY)
        self._write_waiting()
        self._check_counter(under_way=1)

    def _copy(self, first: int, data: bytes) -> None:
        """Write these pages, as they were read, but for those that were saved until now.

        One that is saved later is written again, by `_write_waiting` or by the hook, and its old content comes last.
        """
        size = self._page_size
        with self._lock:
            changed = [number for number in range(first, first + len(data) // size) if self._is_saved(number)]
        begin = first
        for end in (*changed, first + len(data) // size):
            if end > begin:
                self._write(begin, data[(begin - first) * size : (end - first) * size])
            begin = end + 1

    def _write_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        for number, page in waiting:
            self._write(number, page)

    def _read(self, first: int, count: int) -> bytes:
        data = os.pread(self._source, count * self._page_size, (first - 1) * self._page_size)
        if len(data) != count * self._page_size:
            raise CopyFailed("the database became smaller")
        return data

    def _write(self, first: int, data: bytes) -> None:
        at = (first - 1) * self._page_size
        while data:
            written = os.pwrite(self._target, data, at)
            data, at = data[written:], at + written

    def _fail(self, error: Exception) -> CopyFailed:
        if self.failure is None:
            if isinstance(error, CopyFailed):
                self.failure = error
            elif isinstance(error, OSError):
                self.failure = CopyFailed(f"the database could not be copied: {error.strerror or error}")
            elif isinstance(error, NoJournal):
                self.failure = CopyFailed("SQLite keeps no rollback journal that tells what a change changes")
            elif isinstance(error, FreeListDamaged):
                self.failure = CopyFailed("the database's list of free pages is damaged")
            else:
                self.failure = CopyFailed(f"the database could not be copied: {unexpected(error)}")
            with self._lock:  # nothing will be written any more
                self._waiting, self._waiting_bytes = [], 0
        return self.failure

    def close(self) -> None:
        """Close the target; and the database, which must not be open through SQLite in this process: closing any
        descriptor of a file releases the locks that a process holds on it."""
        for descriptor in (self._source, self._target):
            with suppress(OSError):
                os.close(descriptor)
