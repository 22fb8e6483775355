"""Whether a store keeps the promises that a backup is built on. Several gateways accept conditions and ignore them.

Everything that is safe about a bucket rests on one thing: a conditional put fails if its condition is not met. A store
that answers "done" instead lets an old writer replace what a new one has saved. So that is tried, not believed.
"""

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from backends.errors import BackupError
from backends.storage.objects.presence import MARKER, new_marker
from backends.storage.objects.store import Changed, Exists, ObjectStore

_PROBES = "probe/"
_RACERS = 8
_LEFTOVER = 3600.0
"""Seconds after which the objects of a probe are those of one that was killed."""


class Unfit(BackupError):
    """The store does not do what a backup needs."""

    def __init__(self, store: ObjectStore, what: str) -> None:
        super().__init__(
            f"{store.describe()} cannot hold a backup: {what}. Two writers could destroy each other's changes there "
            "and never know. Nothing was saved there; use a store that keeps conditions (docs/s3.md names some), or "
            "another kind of destination",
            clause=f"the store cannot hold a backup: {what}",
        )


_IGNORES_CREATION = (
    "the store ignores If-None-Match. It replaced an object that it was told to make only if there is none"
)

_RACE = "the store does not keep {} when several writers come at once: more than one was told to have {} an object"


def probe(store: ObjectStore) -> None:
    """Try with a few objects whether the store keeps its promises, and leave none behind. Raises Unfit, OSError."""
    _clear(store)
    place = f"{_PROBES}{secrets.token_hex(8)}/"
    keys = [f"{place}{name}" for name in ("made", "raced", "replaced")]
    try:
        _creates_only_once(store, keys[0])
        _race(store, keys[1], lambda data: store.create(keys[1], data), _RACE.format("If-None-Match", "made"))
        _replaces_only_what_was_seen(store, keys[2])
        listed = [each.key for each in store.list(place)]
        if listed != sorted(keys):
            raise Unfit(store, "its listing does not show objects that were made just now")
    finally:
        with suppress(OSError):
            store.delete(keys)
    if list(store.list(place)):
        raise Unfit(store, "its listing still shows objects that were deleted just now")


def probe_again(store: ObjectStore) -> None:
    """One put: whether the store, which holds a backup, still refuses to make an object that is there.

    The object is the marker. If the backup has lost that, the first put brings it back, and the second one tells.
    Raises Unfit, OSError.
    """
    with suppress(Exists):
        store.create(MARKER, new_marker())
        store.create(MARKER, new_marker())
        raise Unfit(store, _IGNORES_CREATION)


def _creates_only_once(store: ObjectStore, key: str) -> None:
    store.create(key, secrets.token_bytes(64))
    with suppress(Exists):  # only if the first bytes are still there: `create` has looked
        store.create(key, secrets.token_bytes(64))
        raise Unfit(store, _IGNORES_CREATION)


def _replaces_only_what_was_seen(store: ObjectStore, key: str) -> None:
    first = store.create(key, secrets.token_bytes(64))
    second = secrets.token_bytes(64)
    version = store.replace(key, second, first)
    with suppress(Changed):
        store.replace(key, secrets.token_bytes(64), first)
        raise Unfit(store, "the store ignores If-Match. It replaced an object that was no longer as it had been seen")
    if store.get(key).data != second:
        raise Unfit(store, "it does not return what was saved last")
    _race(store, key, lambda data: store.replace(key, data, version), _RACE.format("If-Match", "replaced"))


def _race(store: ObjectStore, key: str, put: Callable[[bytes], str], what: str) -> None:
    """Several writers at once, of whom exactly one must win."""
    start = threading.Barrier(_RACERS)
    won: list[bytes] = []
    failures: list[Exception] = []

    def run(data: bytes) -> None:
        try:
            start.wait()
            with suppress(Exists, Changed):
                put(data)
                won.append(data)
        except (OSError, BackupError) as error:
            failures.append(error)

    racers = [threading.Thread(target=run, args=(secrets.token_bytes(64),)) for _ in range(_RACERS)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    if failures:
        raise failures[0]
    if len(won) > 1:
        raise Unfit(store, what)
    if not won or store.get(key).data != won[0]:
        raise Unfit(store, "of several writers at once none won, or the wrong one did")


def _clear(store: ObjectStore) -> None:
    """Delete what killed probes have left."""
    old = [each.key for each in store.list(_PROBES) if each.modified < time.time() - _LEFTOVER]
    if old:
        store.delete(old)
