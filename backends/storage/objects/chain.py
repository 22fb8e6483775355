"""A chain: the bytes of one file as a row of objects, `data/ID/NNNNNNNNNNNN`, called extents.

They are numbered from 0 without gaps, and each is created once and never changed. Only the process that began a chain
adds to it. An empty extent ends the chain for ever: it is the fence. Whoever takes the file over puts it there, and the
old writer's next extent is refused, because there is an object with its number.

`data/ID/FIRST-LAST` is a piece: it holds the bytes of the extents FIRST to LAST, which may be gone. Pieces only hold
whole other pieces, so of those that begin with the same number the longest holds everything that the others hold.
"""

import errno
import re
import secrets
import time
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from backends.storage.objects.store import Exists, Listed, ObjectStore

DATA = "data/"
_ATTEMPTS = 50
_LISTINGS, _PAUSE = 5, 0.2
_AHEAD = 8
_KEY = re.compile(r"data/([0-9a-f]{32})/([0-9]{12})(?:-([0-9]{12}))?")


def new_chain() -> str:
    """The id of a new chain, which nobody else has."""
    return secrets.token_hex(16)


def chain_prefix(chain: str) -> str:
    """What the keys of all objects of a chain begin with."""
    return f"{DATA}{chain}/"


def extent_key(chain: str, number: int) -> str:
    """The key of one extent."""
    return f"{DATA}{chain}/{number:012d}"


def piece_key(chain: str, first: int, last: int) -> str:
    """The key of a piece."""
    return f"{DATA}{chain}/{first:012d}-{last:012d}"


@dataclass(frozen=True, slots=True)
class Part:
    """An extent or a piece: the extents `first` to `last`, `size` bytes from byte `start` of the file."""

    key: str
    first: int
    last: int
    size: int
    start: int = 0

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.start + self.size


def parse(listed: Listed) -> tuple[str, Part] | None:
    """The id of the chain that an object of a listing belongs to, and the object; None for one that is not ours."""
    found = _KEY.fullmatch(listed.key)
    if found is None:
        return None
    first = int(found[2])
    return found[1], Part(listed.key, first, int(found[3] or first), listed.size)


@dataclass(slots=True)
class Layout:
    """Which objects hold which bytes of a file."""

    parts: list[Part] = field(default_factory=list)
    next: int = 0
    """The number of the first extent that does not exist, or of the fence."""
    fenced: bool = False
    highest: int = -1
    """The highest number of any extent that holds bytes. It is `next` or more only after a gap."""

    @property
    def end(self) -> int:
        """How many bytes there are."""
        return self.parts[-1].end if self.parts else 0

    def add(self, listing: Iterable[Listed]) -> None:
        """Go on with the objects that come next in a listing."""
        longest: dict[int, Part] = {}
        for each in listing:
            found = parse(each)
            if found is None:
                continue
            part = found[1]
            if part.size:
                self.highest = max(self.highest, part.last)
            if part.first not in longest or part.last > longest[part.first].last:
                longest[part.first] = part
        while not self.fenced and (part_here := longest.get(self.next)) is not None:
            if part_here.size == 0:
                self.fenced = True
                break
            self.parts.append(Part(part_here.key, part_here.first, part_here.last, part_here.size, self.end))
            self.next = part_here.last + 1

    @property
    def gap(self) -> bool:
        """Whether there are extents after a missing one."""
        return not self.fenced and self.incomplete

    @property
    def incomplete(self) -> bool:
        """Whether an extent is missing and later ones are there. A fence does not hide that: it may be in the gap."""
        return self.highest >= self.next

    def within(self, start: int, stop: int) -> list[Part]:
        """The parts that hold the bytes from `start` to `stop`."""
        number, found = max(bisect_right(self.parts, start, key=lambda part: part.start) - 1, 0), []
        while number < len(self.parts) and (part := self.parts[number]).start < stop:
            if part.end > start:
                found.append(part)
            number += 1
        return found


def read_layout(store: ObjectStore, chain: str) -> Layout:
    """The layout of a chain now. Raises OSError."""
    for attempt in range(_LISTINGS):
        time.sleep(max(attempt - 1, 0) * _PAUSE)
        layout = Layout()
        layout.add(store.list(chain_prefix(chain)))
        if not layout.gap:
            break  # a gap: extents were merged between two pages of the listing, or one was deleted
    return layout


def grow(store: ObjectStore, chain: str, layout: Layout) -> Layout:
    """The layout now, if `layout` is what it was a while ago: only what was added is listed. Raises OSError.

    Merging leaves the extent with the highest number where it is. So if some of what was added was merged into a piece
    that begins earlier, and is not in this listing, the listing shows a gap.
    """
    if layout.fenced or layout.next == 0 or layout.gap:
        return read_layout(store, chain)
    grown = Layout(list(layout.parts), layout.next, highest=layout.highest)
    grown.add(store.list(chain_prefix(chain), after=extent_key(chain, layout.next - 1)))
    return read_layout(store, chain) if grown.gap else grown


def fence(store: ObjectStore, chain: str) -> None:
    """End a chain for ever: from now on its writer can add nothing to it. Raises OSError.

    A writer that is still at work would always be faster than a listing and a request: the number that was free is
    taken by then. So a second fence is put some numbers ahead. The writer stops there, and then the end is found.
    """
    stopped = False
    for attempt in range(_ATTEMPTS):
        layout = read_layout(store, chain)
        if layout.fenced:
            return
        if attempt and not stopped:
            stopped = _create_empty(store, extent_key(chain, layout.next + _AHEAD * attempt))
        if _create_empty(store, extent_key(chain, layout.next)):
            return
    raise OSError(errno.EIO, "another process adds to this file so fast that it cannot be taken over")


def _create_empty(store: ObjectStore, key: str) -> bool:
    """Whether nothing had this number. (After a lost answer it may have been this call; listing again tells.)"""
    try:
        store.create(key, b"")
    except Exists:
        return False
    return True
