"""Read SQLite's rollback journal: how the pages looked that the transaction under way changes.

Format: SQLite's page on its file format, "The Rollback Journal". A header fills one sector; each record is a page
number, the page as it was before the transaction, and a checksum that begins with the header's nonce. A large
transaction writes its pages into the database before it commits; then several headers follow one another, each with its
records. In the header of records that are not synced yet, the magic and the number of records are zeros.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAGIC = bytes.fromhex("d9d505f920a163d7")
_HEADER = struct.Struct(">8sIIIII")  # magic, records, nonce, pages of the database, sector size, page size
_TO_THE_END = 0xFFFFFFFF
"""The number of records in a journal that is never synced."""

_NUMBER, _CHECKSUM = 4, 4
_CHECKED_EVERY = 200
"""The checksum adds up one byte of so many."""


class NoJournal(Exception):
    """There is no journal that tells how the pages were: none at all, or one that cannot be read."""


@dataclass(frozen=True, slots=True)
class JournalHeader:
    """What a journal says first: how large the database was, in pages, and what it needs for its records."""

    pages: int
    page_size: int
    sector: int
    nonce: int
    records: int | None
    """None: all that follow."""
    hot: bool
    """Whether the transaction may have written into the database; before that, the journal is synced and marked."""


class RollbackJournal:
    """The journal beside a database, while its transaction waits for the hook: nothing is written to it then."""

    def __init__(self, database: Path) -> None:
        """Raises NoJournal, or OSError."""
        path = database.with_name(database.name + "-journal")
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NoJournal from None
        self._places: dict[int, tuple[int, JournalHeader]] = {}
        try:
            self._size = os.fstat(self._descriptor).st_size
            self.header = self._header(0)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """The number of each page in the journal, from 1, and what it held. Raises NoJournal, or OSError."""
        at = 0
        while at + _HEADER.size <= self._size:
            header = self._header(at)
            if (header.pages, header.page_size, header.sector) != self._shape:
                raise NoJournal
            at += header.sector
            size = _NUMBER + header.page_size + _CHECKSUM
            count = (self._size - at) // size if header.records is None else header.records
            for _ in range(count):
                number, page = self._record(at, header)
                self._places[number] = at, header
                yield number, page
                at += size
            if header.records is None:
                if at < self._size:  # a record that is cut off: not all of it is there yet
                    raise NoJournal
                return
            at = -(-at // header.sector) * header.sector

    def numbers(self) -> set[int]:
        """The numbers of the pages that `pages` has gone through."""
        return set(self._places)

    def page(self, number: int) -> bytes | None:
        """One of these pages again; None for any other. Raises NoJournal, or OSError."""
        place = self._places.get(number)
        return None if place is None else self._record(*place)[1]

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.header.pages, self.header.page_size, self.header.sector

    def _header(self, at: int) -> JournalHeader:
        data = os.pread(self._descriptor, _HEADER.size, at)
        if len(data) < _HEADER.size:
            raise NoJournal
        magic, records, nonce, pages, sector, page_size = _HEADER.unpack(data)
        open_end = records == _TO_THE_END if magic == _MAGIC else not any(magic) and records == 0
        if not (magic == _MAGIC or open_end) or not _is_size(sector, 32) or not _is_size(page_size, 512) or not pages:
            raise NoJournal
        return JournalHeader(pages, page_size, sector, nonce, None if open_end else records, magic == _MAGIC)

    def _record(self, at: int, header: JournalHeader) -> tuple[int, bytes]:
        size = header.page_size
        data = os.pread(self._descriptor, _NUMBER + size + _CHECKSUM, at)
        number, page = int.from_bytes(data[:_NUMBER], "big"), data[_NUMBER : _NUMBER + size]
        checksum = header.nonce + sum(page[size - _CHECKED_EVERY : 0 : -_CHECKED_EVERY])
        if not 0 < number <= header.pages or data[_NUMBER + size :] != (checksum & 0xFFFFFFFF).to_bytes(4, "big"):
            raise NoJournal
        return number, page


def has_hot_journal(path: Path) -> bool:
    """Whether the journal beside the database is hot: its transaction may have been partly written into the database.

    SQLite writes the first bytes of a journal only when all of it is on the disk, and touches the database only after
    that: while these bytes are zeros, the database file holds the last commit. OSError when the journal cannot be read.
    """
    try:
        descriptor = os.open(path.with_name(path.name + "-journal"), os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        return any(os.read(descriptor, len(_MAGIC)))
    finally:
        os.close(descriptor)


def _is_size(number: int, least: int) -> bool:
    return least <= number <= 65536 and number & (number - 1) == 0
