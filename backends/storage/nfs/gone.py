"""The hidden names of removed and replaced files. They are kept for a while for processes that still read the files.

No file is held open on the server (see `session41.py`): a handle stops working when the file's last name is removed.
"""

import math
import os
import time

from backends.storage.nfs.protocol import Attributes, Kind

HIDDEN = ".gone-"
"""The prefix of a hidden name. The time of the removal follows, in seconds since 1970."""

GRACE = 600.0
"""Seconds for which a removed file stays readable for processes that opened it before, if the space allows it."""

ROOM = 64 << 20
"""Bytes that removed files may take, or as many as the remaining files take if that is more."""


def hidden_name() -> str:
    """Make a new hidden name, for a file that is removed now."""
    return f"{HIDDEN}{time.time():.6f}-{os.urandom(4).hex()}"


def room_for(entries: list[tuple[str, Attributes]]) -> int:
    """Bytes that removed files may take in a directory with these entries."""
    return max(ROOM, sum(each.size for name, each in entries if each.kind is Kind.FILE and not _is_hidden(name)))


def to_forget(entries: list[tuple[str, Attributes]]) -> list[tuple[str, int]]:
    """The hidden files to delete now, with their sizes in bytes, oldest first.

    A file is deleted when its time is over, or when all hidden files together are too large.
    """
    now, room = time.time(), room_for(entries)
    kept = sorted((_gone_since(name), name, each.size) for name, each in entries if _is_hidden(name))
    size, due = sum(size for _, _, size in kept), []
    for since, name, its_size in kept:
        # A removal time in the future was written while the clock was wrong.
        if size > room or abs(now - since) > GRACE:
            due.append((name, its_size))
            size -= its_size
    return due


def hidden_bytes(entries: list[tuple[str, Attributes]]) -> int:
    """Bytes that the removed files among these entries take."""
    return sum(each.size for name, each in entries if _is_hidden(name))


def _is_hidden(name: str) -> bool:
    return name.startswith(HIDDEN)


def _gone_since(name: str) -> float:
    """When the file of this hidden name was removed, in seconds since 1970; 0 if the name does not tell."""
    try:
        since = float(name.removeprefix(HIDDEN).partition("-")[0])
    except ValueError:
        return 0.0
    return since if math.isfinite(since) else 0.0
