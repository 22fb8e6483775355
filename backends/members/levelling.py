"""Making the members equal when a backup is opened: the writer that went before may have died between two of them."""

from backends.errors import Damaged
from backends.log.format.keys import KEYS
from backends.members.files import make_equal
from backends.members.key_copies import newest_keys, read_keys_file, replaces
from backends.members.source import Source
from backends.storage.base import Storage
from backends.storage.mirror.in_sync import InSync


def copy_to_others(mirror: InSync, name: str) -> None:
    """Give the others the files of the member `name`. If these have changed or cannot be read, that one has failed.

    None of the others has: the node must not put the whole members out of sync, and go on with the damaged one.
    """
    original, at_source = mirror.in_sync[name], list[Exception]()

    def copy(other: str, storage: Storage) -> None:
        if other == name:
            return
        source = Source(original)
        try:
            make_equal(source, storage, deep=False)
        except Damaged as error:  # always at the one that is copied from: the other's damage is overwritten
            at_source.append(error)
        except OSError as error:
            if not source.has_raised(error):
                raise
            at_source.append(error)

    mirror.each(copy)
    if at_source:
        mirror.failed({name: at_source[0]})


def spread_keys(mirror: InSync) -> None:
    """Give every member the key slots that count: `make_equal` would take those of the member that it copies from,
    and a slot may have been added while that one was away."""
    newest_slots = newest_keys(mirror.in_sync)
    if newest_slots is not None:
        mirror.each(lambda _, storage: _publish_keys(storage, newest_slots))


def _publish_keys(storage: Storage, data: bytes) -> None:
    if replaces(data, read_keys_file(storage)):
        storage.publish(KEYS, data)
