"""Reading a whole database that is larger than the memory for its pages: each page as seldom as possible.

`integrity_check` follows the trees of a database, whose pages lie scattered in the file, and it follows each table
twice. The kernel reads ahead in the file's order, throws most of that away again, and has forgotten the first pages
when the second pass begins: 4.7 GiB were read to check 1.05 GiB with 400 MiB of memory. Here SQLite gets its pages from
a descriptor without read-ahead, and what it will ask for next is read ahead in its own order: an inner page of a tree
names the pages below it. Table pages that were dealt with are forgotten at once, but for those at the file's end, which
stay for the second pass. So they stay instead of pages that nobody needs.
"""

import itertools
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import apsw

from backends.sqlite.connection import READ_ONLY, connect
from backends.sqlite.table_tree import CELLS, INNER, INNER_OF_INDEX, PAGE_NUMBER, POINTERS, RIGHTMOST
from backends.system.room import fits, room_for_pages

MAX_AHEAD = 4 << 20
"""Bytes that are read ahead at a time, at most. With pages of 4 KiB an inner page names at most 2.4 MB."""

FORGOTTEN_AT_ONCE = 4 << 20
"""Bytes of a file that is read from its beginning to its end."""

_LARGEST_FOLIO = 4 << 20
"""Bytes. The kernel keeps no more than this as one piece, and drops whole pieces only."""

_MAX_VAIN = 8
"""So many times in a row, most of what was read ahead was not asked for: then reading ahead is left, until it pays."""

_AS_SQLITE_SAYS = "disk I/O error"
_number = itertools.count()


@dataclass(frozen=True, slots=True)
class Sparing:
    """How the pages behind a connection are read."""

    path: Path
    descriptor: int
    keep: int
    """How many bytes at the file's end stay in memory."""


_sparing: dict[str, Sparing] = {}
"""By the name of a connection's VFS."""


def sparing(connection: apsw.Connection) -> Sparing | None:
    """How this connection reads; None if it reads as usual, because the whole database fits in memory."""
    return _sparing.get(connection.open_vfs)


def kept_in_memory(size: int) -> int | None:
    """How many bytes at the end of a file of `size` bytes are to stay in memory; None if all of it fits."""
    room = room_for_pages()
    return None if room is None or fits(size, room) else room // 5 * 3


def forgetful(descriptor: int, size: int) -> Callable[[int], None]:
    """What to call with the offset up to which a file was read, from its beginning on, while SQLite reads it, too.

    What was read does not stay in memory then, unless it fits or is at the file's end, which is needed again.
    """
    keep = kept_in_memory(size)
    done = 0

    def forget(until: int) -> None:
        nonlocal done
        if keep is not None and done + FORGOTTEN_AT_ONCE <= until <= size - keep:
            with suppress(OSError):  # then it is slower
                start = max(done - _LARGEST_FOLIO, 0)  # the kernel drops no part of a folio
                os.posix_fadvise(descriptor, start, until - start, os.POSIX_FADV_DONTNEED)
            done = until

    return forget


@contextmanager
def opened_sparingly(path: Path, descriptor: int | None = None) -> Iterator[apsw.Connection]:
    """A connection that is to read the whole database at `path`, and does so sparingly if that does not fit in memory.

    Raises what `connect` raises. If this process has the file open elsewhere, a `descriptor` for this connection alone
    must be given, opened before SQLite opened the file, and closed afterwards: closing one releases SQLite's locks.
    """
    keep = kept_in_memory(_size(path))
    if keep is None:
        connection = connect(path, READ_ONLY)
        try:
            yield connection
        finally:
            connection.close(True)
        return
    with _described(path, descriptor) as reading, reading_sparingly(path, reading, keep) as connection:
        yield connection


@contextmanager
def reading_sparingly(path: Path, descriptor: int, keep: int) -> Iterator[apsw.Connection]:
    """A connection to the database at `path` whose pages are read from `descriptor`; `keep` bytes stay in memory."""
    read_in_tree_order(descriptor)
    with suppress(OSError):
        if (rest := os.fstat(descriptor).st_size - keep) > 0:
            os.posix_fadvise(descriptor, 0, rest, os.POSIX_FADV_DONTNEED)
    with reading_pages(path, PageReader(descriptor, keep)) as connection:
        _sparing[connection.open_vfs] = Sparing(path, descriptor, keep)
        try:
            yield connection
        finally:
            del _sparing[connection.open_vfs]


def read_in_tree_order(descriptor: int) -> None:
    """Have the kernel read ahead through this descriptor only what it is told to."""
    with suppress(OSError):  # then it reads ahead as it likes
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)


@contextmanager
def reading_pages(path: Path, pages: "PageReader") -> Iterator[apsw.Connection]:
    """A connection to the database at `path` that gets its pages from `pages`."""
    vfs = _SparingVFS(pages)
    try:
        connection = connect(path, READ_ONLY, vfs.name)
        try:
            yield connection
        finally:
            connection.close(True)
    finally:
        vfs.unregister()


def _size(path: Path) -> int:
    with suppress(OSError):  # SQLite will say what is wrong with the file
        return path.stat().st_size
    return 0


@contextmanager
def _described(path: Path, descriptor: int | None) -> Iterator[int]:
    if descriptor is not None:
        yield descriptor
        return
    try:
        own = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise apsw.CantOpenError(str(error.strerror)) from error
    try:
        yield own
    finally:
        os.close(own)


class PageReader:
    """The pages of one database file, read in the order of its trees."""

    def __init__(self, descriptor: int, keep: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._forget_until = self._size - keep
        self._ahead: list[tuple[int, int]] = []  # of the table that is being read: the runs of pages, as offset and end
        self._expected = self._read = self._vain = 0
        self.leads_back = False
        """Whether an inner page has named page 1, which is the root of the schema's tree and below no other."""

    def read(self, amount: int, offset: int) -> bytes:
        """Up to `amount` bytes from `offset` on. Raises OSError."""
        data = os.pread(self._descriptor, amount, offset)
        while 0 < len(data) < amount and (more := os.pread(self._descriptor, amount - len(data), offset + len(data))):
            data += more
        self._read += 1
        # An overflow page begins with 0 in a database below 64 GiB. What a wrong guess reads ahead is wasted, no more.
        if len(data) >= 512 and data[0] in (INNER, INNER_OF_INDEX):
            self._look_ahead(data)
        return data

    def _look_ahead(self, page: bytes) -> None:
        """Have the pages below this one read, while SQLite deals with the first of them."""
        below, leads_back = _below(page, self._size)
        self.leads_back = self.leads_back or leads_back
        self._vain = 0 if self._read >= self._expected // 2 else self._vain + 1
        self._expected, self._read = len(below), 0
        if page[0] == INNER:
            self._advise((run for run in self._ahead if run[1] <= self._forget_until), os.POSIX_FADV_DONTNEED)
            self._ahead = []
        if self._vain > _MAX_VAIN:
            return
        runs = list(_runs(below, len(page)))
        if page[0] == INNER:
            self._ahead = runs
        self._advise(runs, os.POSIX_FADV_WILLNEED)

    def _advise(self, runs: Iterable[tuple[int, int]], advice: int) -> None:
        with suppress(OSError):  # then it is slower
            for start, end in runs:
                os.posix_fadvise(self._descriptor, start, end - start, advice)


def _below(page: bytes, size: int) -> tuple[list[int], bool]:
    """The numbers of the pages below this inner page, in the file's order, and whether page 1 is among them.

    There are none if the page makes no sense.
    """
    cells = int.from_bytes(page[CELLS : CELLS + 2], "big")
    try:
        where = struct.unpack_from(f">{cells}H", page, POINTERS)
        found = [PAGE_NUMBER.unpack_from(page, offset)[0] for offset in where]
    except struct.error:
        return [], False
    found.append(PAGE_NUMBER.unpack_from(page, RIGHTMOST)[0])
    pages = size // len(page)
    return sorted(number for number in found[: MAX_AHEAD // len(page)] if 0 < number <= pages), 1 in found


def _runs(numbers: list[int], page: int) -> Iterator[tuple[int, int]]:
    """Pages with these sorted numbers, as offset and end of each stretch of the file."""
    start = end = 0
    for number in numbers:
        if (number - 1) * page != end:
            if end:
                yield start, end
            start = (number - 1) * page
        end = number * page
    if end:
        yield start, end


class _SparingVFS(apsw.VFS):
    """SQLite's own VFS, but for how the database file is read."""

    def __init__(self, pages: PageReader) -> None:
        self.name = f"lightningd-backup-sparing-{next(_number)}"
        self._pages = pages
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        if flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            return _SparingFile(name, flags, self._pages)
        return super().xOpen(name, flags)


class _SparingFile(apsw.VFSFile):
    """SQLite's own file, with its locks, but for `xRead`."""

    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int], pages: PageReader) -> None:
        self._pages = pages
        super().__init__("", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        try:
            return self._pages.read(amount, offset)
        except OSError as error:
            raise apsw.IOError(_AS_SQLITE_SAYS) from error
