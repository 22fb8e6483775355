"""Whether anything but backup.key opens an encrypted backup, for `verify`.

All of its bytes may be whole, and yet nobody can restore it once the node's disk is gone. A running node reads the key
slots only when it starts, so nobody else would notice for months.
"""

from collections.abc import Sequence

from backends import keyring
from backends.errors import BackupError, DamagedSlot, KeyNeeded
from backends.log.format.keys import KeysDocument
from backends.text import shell_line
from backup_cli.console import warn
from backup_cli.seen_encryption import Encrypted, best_slots


def warn_of_slots(members: Sequence[Encrypted]) -> bool:
    """Warn of what is wrong with the key slots of this backup, which has these members (none if it is not encrypted).

    Returns whether nothing but backup.key opens it any more. A backup whose node has never started may have no slot
    yet, and is only warned of.
    """
    if not members:
        return False
    try:
        document = best_slots(members)
    except (KeyNeeded, DamagedSlot) as error:  # missing, or nothing in it can be read
        warn(str(error))
        return True
    except BackupError as error:
        warn(f"the key slots were not looked at: {error}")
        return False
    return _warn_of(document, members[0])


def _warn_of(document: KeysDocument, member: Encrypted) -> bool:
    add = shell_line("backup-cli", "keys", "--add-passphrase", member.url)
    if (document.backup_id, document.key_id) != (member.backup_id, member.key_id):
        warn(
            f"the file `keys` of this backup is another backup's, or was changed: nothing but backup.key opens this "
            f"backup. Keep a copy of that file, and make new key slots: {add}"
        )
        return True
    if not document.names and document.next == 1:
        warn("this backup has no key slot yet: until its node has started, nothing but backup.key opens it")
        return False
    if not document.slots:
        warn(
            "no key slot of this backup can be used, so nothing but backup.key opens it: if that file is lost with the "
            f"node's machine, so is the backup. Nothing else is affected; make a new key slot: {add}"
        )
        return True
    if document.lost:
        numbers = " and ".join(map(str, document.damaged))
        warn(
            f"key slot {numbers} is damaged, and opens this backup no more; the others do. To replace it, add another "
            f"one ({add}), and then remove what is damaged with --remove SLOT"
        )
    elif keyring.find(member.key_id) is not None and not document.authentic:
        test = shell_line("backup-cli", "keys", "--test", member.url)
        warn(
            "the file `keys` of this backup was changed by somebody who does not have its key, so its key slots may "
            f"open nothing. Try them: {test}"
        )
    return False
