"""Deleting what nobody needs any more: the objects of removed files, and those that a piece holds, too.

They are deleted late, because a file that was removed stays readable for whoever has it open. A fence is never deleted:
the writer whose chain it ends may have been held up for days. Only the store's own clock counts.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from backends.storage.base import TEMPORARY
from backends.storage.objects.chain import DATA, Layout, parse
from backends.storage.objects.names import NAMES, Names, is_removed
from backends.storage.objects.store import Listed, ObjectStore

KEEP = 3600.0
"""For how many seconds after its last change a removed file stays readable."""
KEEP_NAME = 7 * 86400.0
"""For how many seconds a name object stays that says that its file was removed."""
_LOWER = 100
"""Names with a number this much lower than the highest one are never used again."""

_UNIQUE = re.compile(r".+-[0-9a-f]{8}" + re.escape(TEMPORARY))
"""A temporary name, which only one process ever uses (see `Storage.temporary`)."""
_NUMBERED = re.compile(r"(.+-)([0-9]{8})")


def sweep(store: ObjectStore, names: Names, written: Callable[[], Iterable[str]]) -> None:
    """Delete what nobody needs. `written` are the chains that this process has open for writing. Raises OSError.

    A chain is deleted only if no name points to it, both before and after all chains were listed: a file that was
    renamed while the names were read may have been missed once.
    """
    listed = list(store.list(NAMES))
    named = _chains(names) | set(written())
    now = max((each.modified for each in listed), default=0.0)
    unnamed: dict[str, tuple[float, list[str]]] = {}
    obsolete: list[tuple[float, str]] = []
    for chain, objects in _by_chain(store.list(DATA)):
        newest = max(each.modified for each in objects)
        now = max(now, newest)
        if chain not in named:
            unnamed[chain] = newest, [each.key for each in objects if each.size]
        else:
            obsolete += _held_twice(objects)
    keys = [key for modified, key in obsolete if modified < now - KEEP]
    candidates = {chain: keys for chain, (newest, keys) in unnamed.items() if keys and newest < now - KEEP}
    if candidates:
        named = _chains(names) | set(written())
        for chain, data in candidates.items():
            keys += data if chain not in named else []
    if keys:
        store.delete(keys)
    forgotten = list(_forgotten(listed, now))
    if forgotten:
        store.delete(forgotten)


def _chains(names: Names) -> set[str]:
    """The chains that names point to."""
    files = (names.look(name).file for name in names.all())
    return {file.chain for file in files if file is not None}


def _by_chain(listing: Iterable[Listed]) -> Iterator[tuple[str, list[Listed]]]:
    """The objects of each chain. Objects that are not ours are left alone."""
    ours = ((found[0], each) for each in listing if (found := parse(each)) is not None)
    for chain, group in groupby(ours, key=lambda one: one[0]):
        yield chain, [each for _, each in group]


def _held_twice(objects: list[Listed]) -> Iterator[tuple[float, str]]:
    """The extents and pieces that a longer piece holds, too, and when they were made.

    Merging deletes them. They are still there if it was killed, or if the request that made one came twice.
    """
    layout = Layout()
    layout.add(objects)
    used = {part.key for part in layout.parts}
    for each in objects:
        found = parse(each)
        assert found is not None
        part = found[1]
        if each.size and each.key not in used and part.last < layout.next and part.first != layout.highest:
            yield each.modified, each.key


def _forgotten(listed: list[Listed], now: float) -> Iterator[str]:
    """The name objects of removed files whose names are never used again."""
    highest: dict[str, int] = {}
    for each in listed:
        found = _NUMBERED.fullmatch(each.key)
        if found is not None:
            highest[found[1]] = max(highest.get(found[1], 0), int(found[2]))
    for each in listed:
        if not is_removed(each):
            continue
        found = _NUMBERED.fullmatch(each.key)
        if _UNIQUE.fullmatch(each.key):
            unused, keep = True, KEEP
        else:
            unused, keep = found is not None and int(found[2]) < highest[found[1]] - _LOWER, KEEP_NAME
        if unused and each.modified < now - keep:
            yield each.key
