"""Whether anything but backup.key opens an encrypted backup, for `verify`."""

from collections.abc import Sequence

from backends.errors import BackupError, DamagedSlot, KeyNeeded
from backends.log.slots_health import health_of, health_of_unreadable
from backup_cli.console import warn
from backup_cli.seen_encryption import Encrypted, best_slots, keys_command


def warn_of_slots(members: Sequence[Encrypted]) -> bool:
    """Warn of what is wrong with the key slots of this backup, which has these members (none if it is not encrypted).

    Returns whether nothing but backup.key opens it any more. A backup whose node has never started may have no slot
    yet, and is only warned of.
    """
    if not members:
        return False
    first = members[0]
    try:
        document = best_slots(members)
        health = health_of(document, first.backup_id, first.key_id, keys_command(first.url))
    except (KeyNeeded, DamagedSlot) as error:  # missing, or nothing in it can be read
        health = health_of_unreadable(error)
    except BackupError as error:
        warn(f"the key slots were not looked at: {error}")
        return False
    if health.trouble is not None:
        warn(health.trouble.sentence)
    elif not health.usable:
        warn("this backup has no key slot yet: until its node has started, nothing but backup.key opens it")
    return health.closed
