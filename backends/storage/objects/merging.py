"""Merging the many small extents of a chain into few large pieces, while others read it.

A piece is whole before the first extent that it holds is deleted, and a reader that finds an object gone lists the
chain again. The extent with the highest number stays although a piece holds its bytes, too: a reader that lists only
what was added since shall notice that something was (see `chain.grow`).
"""

import errno
from collections.abc import Iterator, Sequence

from backends.storage.objects.chain import Layout, Part, piece_key, read_layout
from backends.storage.objects.store import Exists, ObjectStore

MERGE_AT = 1000
"""With so many unmerged extents they are merged: a listing has at most 1,000 objects a page."""
PIECE = 8 << 20
"""The most bytes of a piece."""
_AT_ONCE = 4


def merge(store: ObjectStore, chain: str, first: int = 0, stop: int | None = None) -> None:
    """Merge the extents from number `first` up to `stop` (exclusive; None: to the end). Raises OSError.

    Killed at any moment, it leaves every byte of the file where a reader finds it.
    """
    layout = read_layout(store, chain)
    for group in _groups(layout, first, layout.next if stop is None else stop):
        _merge(store, chain, group, layout.highest)


def _groups(layout: Layout, first: int, stop: int) -> Iterator[list[Part]]:
    """Neighbours that fit into one piece."""
    group: list[Part] = []
    for part in layout.parts:
        if part.first < first or part.last >= stop:
            continue
        if group and part.end - group[0].start > PIECE:
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def _read(store: ObjectStore, keys: Sequence[str]) -> Iterator[bytes]:
    """The objects, few at a time: nobody waits for them, and the node keeps the memory of each thread that read one."""
    for start in range(0, len(keys), _AT_ONCE):
        yield from store.read_many(keys[start : start + _AT_ONCE])


def _merge(store: ObjectStore, chain: str, group: list[Part], highest: int) -> None:
    if len(group) < 2:
        return
    data = b"".join(_read(store, [part.key for part in group]))
    if len(data) != group[-1].end - group[0].start:
        raise OSError(errno.EIO, "the store returned another number of bytes than it has listed", group[0].key)
    key = piece_key(chain, group[0].first, group[-1].last)
    try:
        store.create(key, data)
    except Exists:
        if store.get(key).data != data:
            raise OSError(errno.EIO, "this object does not hold what it was made from", key) from None
    store.delete([part.key for part in group if part.first != highest])
