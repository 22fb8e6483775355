"""What a command keeps of an object store, for its next pass over the log and for the child process that it starts.

Objects never change, and what is listed of a chain only grows. So a small object is fetched once, and a chain that was
listed before is only asked for what was added. Whatever has gone meanwhile is noticed as in a file that stays open: the
object is not found, and the chain is listed again.
"""

import struct

from backends.storage.objects.chain import Layout, Part, extent_key, grow, piece_key, read_layout
from backends.storage.objects.store import ObjectStore
from backends.system.spool import Spool

_START = struct.Struct("<QqB")
"""The number of the next extent, the highest number, and whether there is a fence."""
_PART = struct.Struct("<QQQ")
"""The first and the last number, and the size."""


def kept_object(store: ObjectStore, key: str, spool: Spool) -> bytes | None:
    """A small object that was fetched before; None if it was not."""
    return spool.get(f"{store.describe()}\n{key}")


def keep_object(store: ObjectStore, key: str, data: bytes, spool: Spool) -> bool:
    """Keep a small object that was fetched. Returns whether it is kept."""
    return spool.put(f"{store.describe()}\n{key}", data)


def layout_of(store: ObjectStore, chain: str, spool: Spool) -> Layout:
    """The layout of a chain now. Raises OSError."""
    name = f"{store.describe()}\nlayout {chain}"
    stored = spool.get(name)
    before = None if stored is None else _decode(chain, stored)
    if before is not None and before.fenced:
        return before
    now = read_layout(store, chain) if before is None else grow(store, chain, before)
    if not now.incomplete and (encoded := _encode(now)) != stored:
        spool.put(name, encoded, again=True)
    return now


def _encode(layout: Layout) -> bytes:
    parts = b"".join(_PART.pack(part.first, part.last, part.size) for part in layout.parts)
    return _START.pack(layout.next, layout.highest, layout.fenced) + parts


def _decode(chain: str, data: bytes) -> Layout:
    next_number, highest, fenced = _START.unpack_from(data)
    layout = Layout([], next_number, bool(fenced), highest)
    for first, last, size in _PART.iter_unpack(data[_START.size :]):
        # A piece of one extent does not exist: merging takes two at least.
        key = extent_key(chain, first) if first == last else piece_key(chain, first, last)
        layout.parts.append(Part(key, first, last, size, layout.end))
    return layout
