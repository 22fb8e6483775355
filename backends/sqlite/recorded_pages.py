"""The pages of a database file as SQLite gets them: some of them replaced, and which were read is recorded."""

import os

from backends.sqlite.checked_tables import Unexpected
from backends.sqlite.page_ledger import PageSet
from backends.sqlite.sparing import PageReader
from backends.sqlite.table_tree import Pages
from backends.sqlite_header import MAGIC, in_wal_mode


class RecordedPages(PageReader):
    """The pages of a database file, some of them replaced; `seen` are those that were read from the file.

    Page 1 is none of them: SQLite reads it for every transaction.
    """

    def __init__(self, descriptor: int, pages: Pages, instead: dict[int, bytes]) -> None:
        super().__init__(descriptor, pages.size * pages.count)
        self._page, self._instead = pages.size, instead
        self.seen = PageSet(pages)
        self._marks, self._count = self.seen.marks, pages.count

    def read(self, amount: int, offset: int) -> bytes:
        """See PageReader."""
        page = offset // self._page + 1
        if page in self._instead and amount == self._page:
            return self._instead[page]
        if 1 < page <= self._count:
            self._marks[page] = 1
        return super().read(amount, offset)


def database_pages(descriptor: int) -> Pages:
    """The pages of the database. Raises Unexpected if it must be checked in one go; OSError."""
    header, length = os.pread(descriptor, 100, 0), os.fstat(descriptor).st_size
    size = int.from_bytes(header[16:18], "big")
    size = 1 << 16 if size == 1 else size
    count = int.from_bytes(header[28:32], "big")
    # Auto-vacuum keeps further pages about the others. Of the second field, only the check in one go tells a fault.
    moves_pages = any(header[52:56]) or any(header[64:68])
    if len(header) < 100 or not header.startswith(MAGIC) or in_wal_mode(header) or moves_pages:
        raise Unexpected
    if size < 512 or count * size != length:
        raise Unexpected
    return Pages(descriptor, size, size - header[20], count)
