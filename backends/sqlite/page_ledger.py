"""Which pages of a database are in use: each must be, or be free, and none twice.

SQLite checks that itself when it checks a whole database in one go, but not when it checks one table after another.
"""

import re
from collections.abc import Iterator

from backends.sqlite.free_list import COUNT, HEAD, number_at
from backends.sqlite.table_tree import Pages

_LOCKED_BYTE = 1 << 30
"""The byte that SQLite's locks are on. The page with it is never used."""

_ALL = b"\1"


class Discrepancy(Exception):
    """A page is in use twice, or neither in use nor free; or the list of free pages cannot be followed."""


class PageSet:
    """Some pages of a database: a byte for each, at the page's number."""

    def __init__(self, pages: Pages) -> None:
        self.marks = bytearray(pages.count + 1)

    def add(self, number: int) -> None:
        """Add this page; one beyond the end of the database is ignored."""
        if number < len(self.marks):
            self.marks[number] = 1

    def clear(self) -> None:
        """Remove all pages."""
        self.marks[:] = bytes(len(self.marks))

    def bits(self) -> int:
        """The set as a number, for `&`, `|` and `~`."""
        return int.from_bytes(self.marks, "big")


def runs(pages: Pages, bits: int) -> Iterator[tuple[int, int]]:
    """The pages of a set, as offset and end of each stretch of the file."""
    for found in re.finditer(b"\1+", bits.to_bytes(pages.count + 1, "big")):
        yield (found.start() - 1) * pages.size, (found.end() - 1) * pages.size


class PageLedger:
    """Every page of a database, and whether it has been accounted for."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._used = 0

    def use(self, bits: int) -> None:
        """These pages are in use. Raises Discrepancy if one of them was already."""
        if self._used & bits:
            raise Discrepancy
        self._used |= bits

    def close(self) -> None:
        """Raise Discrepancy unless each page is in use or free. The list's own trunk pages count as used. Or OSError.

        SQLite has checked the list itself.
        """
        free = PageSet(self._pages)
        for leaf in self._free_leaves():
            free.add(leaf)
        locked = _LOCKED_BYTE // self._pages.size + 1
        if locked <= self._pages.count:
            free.add(locked)
        self.use(free.bits())
        everything = int.from_bytes(b"\0" + _ALL * self._pages.count, "big")
        if self._used != everything:
            raise Discrepancy

    def _free_leaves(self) -> Iterator[int]:
        page = self._pages.read(1)
        trunk, left = number_at(page, HEAD), number_at(page, COUNT)
        while trunk:
            page = self._pages.read(trunk)
            count = number_at(page, 4)
            left -= count + 1
            if left < 0 or 8 + 4 * count > self._pages.usable:
                raise Discrepancy
            yield from (number_at(page, 8 + 4 * index) for index in range(count))
            trunk = number_at(page, 0)
        if left:
            raise Discrepancy
