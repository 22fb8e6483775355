"""The tree of a table, cut into parts that SQLite can check one after the other.

A part is some of the tree's lowest inner pages, in the order of their keys, with the leaves below them, and a root page
that is made here for them. To SQLite that is the table, with some of its rows (sqlite.org/fileformat2.html, "B-tree
Pages").
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

INNER, LEAF = 5, 13
"""The first byte of a page of a table's tree."""

INNER_OF_INDEX, LEAF_OF_INDEX = 2, 10

MIN_CUT = 4
"""Pages of the cut. A table with fewer (6 MB with pages of 4 KiB) is not worth it."""

CELLS, _CONTENT, RIGHTMOST, POINTERS = 3, 5, 8, 12
"""Offsets in an inner page: number of cells, start of their content, last page below, where the cells are. Each cell
begins with the number of a page."""

PAGE_NUMBER = struct.Struct(">I")
_MAX_CELL = 4 + 9
_POINTER = 2


class NotDivisible(Exception):
    """The tree is too small, is no table's, or has pages that make no sense: it is checked as a whole."""


class Tangled(Exception):
    """The tree has more pages than the database."""


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of a database file that nobody writes to."""

    descriptor: int
    size: int
    """Bytes of a page."""
    usable: int
    """Bytes of a page that SQLite uses."""
    count: int

    def read(self, number: int) -> bytes:
        """The page with this number, from 1. Raises OSError, NotDivisible."""
        data = os.pread(self.descriptor, self.size, (number - 1) * self.size) if 0 < number <= self.count else b""
        if len(data) != self.size:
            raise NotDivisible
        return data


@dataclass(frozen=True, slots=True)
class Lower:
    """A page below an inner one."""

    number: int
    bound: bytes | None
    """The largest key below it, as it is stored; None for the last page of a tree."""


@dataclass(slots=True)
class Part:
    """Some neighbouring pages of the cut, and what is below them."""

    pages: list[Lower] = field(default_factory=list)
    after: bytes | None = None
    """All keys are larger than this one; None for the first part."""
    leaves: int = 0
    lowest: int = 1 << 32
    highest: int = 0
    """The numbers of the first and the last leaf in the file."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One of a tree's lowest inner pages."""

    page: Lower
    leaves: int
    lowest: int
    highest: int
    """The numbers of its first and its last leaf in the file."""


@dataclass(slots=True)
class TableTree:
    """A table's tree above and at its cut."""

    above: list[int]
    """The numbers of all pages above the cut; the first is the root."""
    cut: list[Cut]
    pages: Pages

    @property
    def size(self) -> int:
        """Bytes of all leaves."""
        return sum(cut.leaves for cut in self.cut) * self.pages.size

    def check_height(self, part: Part) -> None:
        """Raise NotDivisible unless there are leaves below the part's first page; or OSError.

        SQLite checks that its other pages are at the same height.
        """
        if self.pages.read(children(self.pages.read(part.pages[0].number), INNER)[0])[0] != LEAF:
            raise NotDivisible

    def parts(self, size: int, span: int | None, least: int) -> Iterator[Part]:
        """The tree in parts of about `size` bytes each at most.

        With `span`, parts are smaller where their leaves are scattered over more than so many bytes of the file, down
        to `least` bytes, and to a sixteenth of the table.
        """
        room = (self.pages.usable - POINTERS) // (_MAX_CELL + _POINTER)
        fewest = max(self.size // 16, least) // self.pages.size
        part, rest = Part(), len(self.cut)
        for cut in self.cut:
            part.pages.append(cut.page)
            part.leaves += cut.leaves
            part.lowest, part.highest = min(part.lowest, cut.lowest), max(part.highest, cut.highest)
            rest -= 1
            scattered = span is not None and (part.highest - part.lowest) * self.pages.size >= span
            full = part.leaves * self.pages.size >= size or (scattered and part.leaves >= fewest)
            # An inner page has two pages below it, at least.
            if (len(part.pages) >= 2 and rest != 1 and (full or len(part.pages) >= room - 1)) or not rest:
                yield part
                part = Part(after=cut.page.bound)


def table_tree(pages: Pages, root: int) -> TableTree:
    """The tree with this root, cut. Raises OSError, NotDivisible, Tangled."""
    above, level = list[int](), [Lower(root, None)]
    while pages.read(children(pages.read(level[0].number), INNER)[0])[0] != LEAF:
        above += [page.number for page in level]
        level = [lower for page in level for lower in below_inner(pages.read(page.number), page.bound)]
        if len(level) + len(above) > pages.count:
            raise Tangled
    if len(level) < MIN_CUT:
        raise NotDivisible
    cut = []
    for page in level:
        leaves = children(pages.read(page.number), INNER)
        cut.append(Cut(page, len(leaves), min(leaves), max(leaves)))
    return TableTree(above, cut, pages)


def root_of(pages: Pages, part: Part) -> bytes:
    """A root page that has just the pages of this part below it."""
    page, end = bytearray(pages.size), pages.usable
    *others, last = part.pages
    for index, lower in enumerate(others):
        assert lower.bound is not None  # only the last page of the tree has none
        cell = lower.number.to_bytes(4, "big") + lower.bound
        end -= len(cell)
        page[end : end + len(cell)] = cell
        at = POINTERS + _POINTER * index
        page[at : at + _POINTER] = end.to_bytes(2, "big")
    page[0] = INNER
    page[CELLS : CELLS + 2] = len(others).to_bytes(2, "big")
    page[_CONTENT : _CONTENT + 2] = (end & 0xFFFF).to_bytes(2, "big")
    page[RIGHTMOST : RIGHTMOST + 4] = last.number.to_bytes(4, "big")
    return bytes(page)


def below_inner(page: bytes, bound: bytes | None) -> list[Lower]:
    """The pages below this inner page of a table's tree, whose own bound is `bound`. Raises NotDivisible."""
    *numbers, last = children(page, INNER)
    keys = (stored_key(page, at + 4) for at in _cells(page))
    return [*(Lower(number, key) for number, key in zip(numbers, keys, strict=True)), Lower(last, bound)]


def children(page: bytes, kind: int) -> list[int]:
    """The numbers of the pages below this inner page, in the order of their keys: at least two. Raises NotDivisible."""
    if page[0] != kind:
        raise NotDivisible
    try:
        found = [PAGE_NUMBER.unpack_from(page, at)[0] for at in _cells(page)]
    except struct.error:
        raise NotDivisible from None
    if not found:
        raise NotDivisible
    return [*found, PAGE_NUMBER.unpack_from(page, RIGHTMOST)[0]]


def _cells(page: bytes) -> tuple[int, ...]:
    """Where the cells of an inner page are. Raises NotDivisible."""
    count = int.from_bytes(page[CELLS : CELLS + 2], "big")
    try:
        return struct.unpack_from(f">{count}H", page, POINTERS)
    except struct.error:
        raise NotDivisible from None


def stored_key(page: bytes, at: int) -> bytes:
    """The variable-length integer that begins here: up to 9 bytes, of which the last but a ninth one is below 128."""
    end = at
    while end < min(at + 8, len(page)) and page[end] >= 0x80:
        end += 1
    return page[at : end + 1]


def key(stored: bytes) -> int:
    """The value of a variable-length integer, which is a signed one of 64 bits. Raises NotDivisible."""
    if not stored or (len(stored) < 9 and stored[-1] >= 0x80):
        raise NotDivisible
    value = 0
    for byte in stored[:8]:
        value = value << 7 | byte & 0x7F
    if len(stored) == 9:
        value = value << 8 | stored[8]
    return value - (1 << 64) if value >= 1 << 63 else value


def empty_leaf(pages: Pages) -> bytes:
    """A leaf of a table without rows."""
    page = bytearray(pages.size)
    page[0] = LEAF
    page[_CONTENT : _CONTENT + 2] = (pages.usable & 0xFFFF).to_bytes(2, "big")
    return bytes(page)


def entries(pages: Pages, root: int) -> int:
    """How many entries the index with this root has. SQLite has checked its tree. Raises OSError, NotDivisible."""
    found, waiting, seen = 0, [root], 0
    while waiting:
        page = pages.read(waiting.pop())
        seen += 1
        cells = int.from_bytes(page[CELLS : CELLS + 2], "big")
        if seen > pages.count or page[0] not in (INNER_OF_INDEX, LEAF_OF_INDEX):
            raise NotDivisible
        found += cells
        if page[0] == INNER_OF_INDEX:
            waiting += children(page, INNER_OF_INDEX)
    return found
