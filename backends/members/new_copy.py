"""Making a new member: a copy of a backup in a directory that does not exist yet."""

from contextlib import suppress

from backends.errors import BackupError
from backends.log.backup import Backup
from backends.log.errors import making
from backends.log.format.members import MEMBERS, MembersDocument
from backends.members.copy_file import Pause
from backends.members.files import make_equal
from backends.members.shared_files import shared_names
from backends.storage.base import Storage
from backends.storage.unreachable import reaching
from backends.system.interrupts import deferred


def create_copy(source: Backup, target: Backup, document: MembersDocument, pause: Pause, what: str) -> None:
    """Make a copy of `source` at `target`, durably; after a failure everything there is removed again.

    Nobody may write to `source` meanwhile. The copy gets `document` before anything else: at no moment can it be taken
    for a backup with one destination, which would be restored without asking for the other members. Afterwards
    `target.created` is set, as after `create`: who made the copy removes it if a later step fails. `pause` is called
    with the bytes that were just copied; `what` names this process to others.

    Raises BackupError. It does not tell errors of the source from those of the target.
    """
    with making(target.storage):
        try:
            with deferred():
                target.storage.make()
                target.created = True
            target.hold(what)  # so that nobody takes the unfinished copy for leftovers
            target.storage.publish(MEMBERS, document.encode())
            make_equal(source.storage, target.storage, deep=False, pause=pause)
        except BaseException:
            target.let_go()  # an open file can keep its directory from being removed
            if target.created:
                with deferred(), suppress(OSError, BackupError):
                    target.storage.unmake()
                    target.created = False
            raise
        finally:
            target.let_go()


def copied_bytes(storage: Storage) -> int:
    """How many bytes a copy of this backup has. Raises BackupError."""
    total = 0
    with reaching(storage):
        for name in shared_names(storage.names()):
            with suppress(FileNotFoundError):  # a compaction has just removed it
                handle = storage.open(name)
                try:
                    total += handle.size()
                finally:
                    handle.close()
    return total


def publish_document(backup: Backup, document: MembersDocument) -> None:
    """Write a member's document, durably. Raises BackupError."""
    with reaching(backup.storage):
        backup.storage.publish(MEMBERS, document.encode())
