"""Which destination to follow: of a backup with several members, one that holds the newest state.

For a copy that follows, any member may be away: it only gets later what that one holds. A promotion demands what a
restore does.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from backends import backup_at
from backends.log.backup import Backup
from backends.log.format.members import MembersDocument
from backends.log.reader.opening import read_members as read_document
from backends.members.newest import newest
from backends.members.survey import ask_all
from backends.storage.unreachable import reaching
from backup_cli.members_read import read_members
from backup_cli.options import existing_backup
from backup_cli.seen_members import has_members
from backup_cli.waiting import answered

LOOK_EVERY = 30.0
"""Seconds between two looks at the documents of all members. Each has some hundred bytes."""

_WITHIN = 5.0


@dataclass(slots=True)
class Followed:
    """The destination to follow, and the others of a backup that has several."""

    url: str
    backup: Backup
    name: str = ""
    document: MembersDocument | None = None
    urls: dict[str, str] = field(default_factory=dict)
    """Where each member that was read is."""
    _looked: float = field(default_factory=time.monotonic)

    def is_newest(self) -> bool:
        """Whether it is still right to follow this one: no other member is in a later epoch. Asks them only now and
        then."""
        if self.document is None or time.monotonic() - self._looked < LOOK_EVERY:
            return True
        documents, _ = ask_all({name: partial(_document_at, url) for name, url in self.urls.items()}, _WITHIN)
        self._looked = time.monotonic()
        read = {name: document for name, document in documents.items() if document is not None}
        own = read.get(self.name, self.document)
        return all(document.epoch.number <= own.epoch.number for document in read.values())


def followed_at(urls: Sequence[str]) -> Followed:
    """The destination to follow now. Raises BackupError: NotABackup, Unreachable, Diverged, KeyNeeded, Damaged."""
    if len(urls) == 1:
        url, backup = existing_backup(urls[0])
        if not answered(url, lambda: has_members(backup)):
            return Followed(url, backup)
        urls = [url]
    read = read_members(urls)
    best = newest(list(read.seen.values()))
    url = read.urls[best.name]
    return Followed(url, backup_at(url), best.name, best.document, read.urls)


def _document_at(url: str) -> MembersDocument | None:
    """The document of the member there; None if it has none. Raises BackupError."""
    backup = backup_at(url)
    with reaching(backup.storage):
        return read_document(backup.storage)
