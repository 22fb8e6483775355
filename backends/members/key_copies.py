"""The key slots of a backup with several members: of two documents `keys` that differ, which one counts.

Every member holds the same slots, but a slot may have been added or removed while one of them was away. So the document
is not simply copied along with the newest state: the one that was written last wins. Somebody who holds one destination
must not be able to replace the slots of all others by useless ones: where the key is known, a document that its holder
has written comes before any other (`KeysDocument.authentic`).
"""

from collections.abc import Mapping
from contextlib import suppress

from backends.errors import BackupError
from backends.log.format.keys import KEYS, MAX_KEYS_SIZE, KeysDocument
from backends.storage.base import Storage


def replaces(data: bytes, there: bytes | None) -> bool:
    """Whether the document `data` is to take the place of `there` (None: there is none)."""
    return _rank(data) > _rank(there)


def newest_keys(storages: Mapping[str, Storage]) -> bytes | None:
    """The document that counts at these members; None if there is none. One that cannot be read is passed over."""
    found = [data for storage in storages.values() if (data := read_keys_file(storage)) is not None]
    return max(found, key=_rank, default=None)


def read_keys_file(storage: Storage) -> bytes | None:
    """The bytes of the document; None if there is none, or it cannot be read."""
    with suppress(OSError):
        return storage.read_small(KEYS, MAX_KEYS_SIZE)
    return None


def rank(keys: KeysDocument) -> tuple[bool, int, int, bool]:
    """The document with the greatest rank counts, of those of one backup: a slot that was removed must not come back
    from a member that was away."""
    return keys.authentic, keys.next, -len(keys.names), keys.intact


def _rank(data: bytes | None) -> tuple[int, bool, int, int, bool]:
    """A greater one counts. Adding a slot raises the number of the next one; removing one leaves fewer."""
    try:
        keys = None if data is None else KeysDocument.decode(data)
    except BackupError:
        keys = None
    if keys is None:
        return (0 if data is None else -1), False, 0, 0, False
    return 1, *rank(keys)
