"""The hidden names of removed and replaced files, kept for a while for whoever still reads them.

NFS knows no open files here (see `session41.py`), only handles that end when the last name of a file does.
"""

import math
import os
import time

from backends.storage.nfs.protocol import Attributes, Kind

HIDDEN = ".gone-"
"""Begins a hidden name; the time of the removal follows, in seconds since 1970."""

GRACE = 600.0
"""Seconds that a removed file can still be read to its end by whoever has opened it, as far as there is room."""

ROOM = 64 << 20
"""Bytes that removed files may take; as many as the files that are left, when those are larger."""


def hidden_name() -> str:
    """A new one."""
    return f"{HIDDEN}{time.time():.6f}-{os.urandom(4).hex()}"


def room_for(entries: list[tuple[str, Attributes]]) -> int:
    """Bytes that removed files may take, in a directory with these files."""
    return max(ROOM, sum(each.size for name, each in entries if each.kind is Kind.FILE and not _is_hidden(name)))


def to_forget(entries: list[tuple[str, Attributes]]) -> list[tuple[str, int]]:
    """The hidden files, with their sizes, that really go now: kept long enough, or too large together; oldest first."""
    now, room = time.time(), room_for(entries)
    kept = sorted((_gone_since(name), name, each.size) for name, each in entries if _is_hidden(name))
    size, due = sum(size for _, _, size in kept), []
    for since, name, its_size in kept:
        # Of a time to come: written while the clock stood wrong.
        if size > room or abs(now - since) > GRACE:
            due.append((name, its_size))
            size -= its_size
    return due


def hidden_bytes(entries: list[tuple[str, Attributes]]) -> int:
    """What the removed files take."""
    return sum(each.size for name, each in entries if _is_hidden(name))


def _is_hidden(name: str) -> bool:
    return name.startswith(HIDDEN)


def _gone_since(name: str) -> float:
    """When the file of this hidden name was removed; 0 when that is not to be read from it."""
    try:
        since = float(name.removeprefix(HIDDEN).partition("-")[0])
    except ValueError:
        return 0.0
    return since if math.isfinite(since) else 0.0
