"""A copy of a node's database as it was at one commit, made while lightningd goes on committing.

SQLite's own ways to copy hold up lightningd's next commit until they are done, or begin again after each commit. This
one does neither. It rests on three facts:

1. While the hook has a change in its hands, the transaction is open: everything that it will change is in SQLite's
   rollback journal, as it was before. (Only page 1, with the change counter, may follow at the commit.)
2. lightningd commits nothing, and so changes no page for good, before the hook has answered.
3. Nobody but this lightningd writes to the file.

So the pages are copied in order, in a thread, and each call of the hook first saves the old pages that its transaction
is about to change, the first time that each is changed. What was saved counts, whether the page was copied already or
not: a large transaction writes pages before the hook is called, and the thread may have copied such a one.

Pages on the free list may change without a trace in the journal: they hold nothing. Where there is no such journal (WAL
mode, a filesystem with atomic writes), or the counter shows a commit that no call announced, the copy fails, and the
caller falls back on a way that holds lightningd up.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from backends.change import DATABASE_HEADER
from backends.errors import BackupError
from backends.sqlite.rollback_journal import NoJournal, RollbackJournal, is_hot

PORTION = 1 << 20
"""Bytes that are copied at once."""

MAX_WAITING = 32 << 20
"""Bytes of saved pages that may wait in memory for the thread; what comes then is written by the hook itself."""

_LOOK_EVERY = 0.01
"""Seconds."""

_COUNTERS = 1 << 32


def _counter(header: bytes) -> int:
    return int.from_bytes(header[24:28], "big")


class CopyFailed(BackupError):
    """The copy cannot be made, or cannot be trusted: nothing was lost by it."""


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
        self._saved = set[int]()
        """The pages whose old content is known, by their number from 1."""
        self._waiting: list[tuple[int, bytes]] = []
        self._waiting_bytes = 0
        self._pages = self._page_size = 0
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
                self._save_all(journal)
                self._save(1, self._read(1, 1))  # changed by each commit; it may come into the journal only then
        except (NoJournal, OSError, CopyFailed) as error:
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
                self._save_all(journal)
        except (NoJournal, OSError, CopyFailed) as error:
            self._fail(error)
        self._commits += 1

    def _check_counter(self, *, under_way: int) -> None:
        """Raise CopyFailed unless the announced commits were made and no others; so many of them may be under way."""
        while True:
            announced = self._commits
            reached = _counter(os.pread(self._source, DATABASE_HEADER, 0))
            if announced == self._commits:  # otherwise the hook was called meanwhile
                break
        if (self._counter + announced - reached) % _COUNTERS > under_way:
            raise CopyFailed("the database was changed by a commit that this plugin was not asked about")

    def _save_all(self, journal: RollbackJournal) -> None:
        for number, page in journal.pages():
            if number <= self._pages:
                self._save(number, page)

    def _save(self, number: int, page: bytes) -> None:
        with self._lock:
            if number in self._saved:
                return
            self._saved.add(number)
            if number == 1:
                self._counter = _counter(page)
            if self._waiting_bytes < MAX_WAITING:
                self._waiting.append((number, page))
                self._waiting_bytes += len(page)
                return
        with self._writing:
            self._write(number, page)

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
        except (OSError, CopyFailed) as error:
            self._fail(error)

    def _end(self, between: Callable[[int, int], bool]) -> None:
        """A transaction may have written pages before its call of the hook, and they were copied: wait for that call.

        Once no journal is hot, whatever was copied was saved by its call, or was not changed before it was copied.
        """
        while is_hot(self._database):
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
            changed = [number for number in range(first, first + len(data) // size) if number in self._saved]
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
            else:
                self.failure = CopyFailed("SQLite keeps no rollback journal that tells what a change changes")
        return self.failure

    def close(self) -> None:
        """Close the target; and the database, which must not be open through SQLite in this process: closing any
        descriptor of a file releases the locks that a process holds on it."""
        for descriptor in (self._source, self._target):
            with suppress(OSError):
                os.close(descriptor)
