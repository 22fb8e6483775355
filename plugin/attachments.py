"""Copying `emergency.recover` into the backup while the node runs: at the start if the two differ, and at each change.

lightningd replaces the file whenever a channel is opened or closed. Only the maintenance thread looks at it, and no
commit waits for that. A copy that failed is tried again, and the node goes on.
"""

import time
from functools import partial
from pathlib import Path

from backends.base import Report
from backends.errors import BackupError, Fenced
from backends.log.attachments import publish_attachment, read_attachment
from backends.log.format.attachments import Attachment
from backends.log.writer.writer import Writer
from backends.members.epochs import clause
from backends.members.running import RunningMembers
from backends.node.attached import Stamp, Unfit, read_node_file, stamp_of
from backends.storage.base import FileFenced
from backends.text import counted

LOOK_EVERY = 1.0
"""Seconds between two looks at the node's file."""

TRY_AGAIN = 10.0
"""Seconds from a failed copy to the next attempt."""

_WHICH = Attachment.EMERGENCY


class AttachmentWatch:
    """Called by the maintenance thread only."""

    def __init__(self, directory: Path, report: Report) -> None:
        self._directory, self._report = directory, report
        self._next_look = 0.0
        self._writer: Writer | None = None
        self._done: Stamp | None = None
        """How the file looked when its content was last found in the backup, stored there, or found unfit."""
        self._told = False
        """Whether the present trouble was reported."""

    def tick(self, writer: Writer, members: RunningMembers | None) -> None:
        """Copy the node's file if it has changed. Raises nothing for a file or a destination that fails."""
        now = time.monotonic()
        if now < self._next_look or writer.failure is not None:
            return
        self._next_look = now + LOOK_EVERY
        try:
            self._look(writer, members)
        except (Fenced, FileFenced):
            return  # the backup is another writer's now, and the next check of the fence says so
        except Unfit as error:
            self._tell(str(error), "It is copied once that is no longer so")
        except (OSError, BackupError) as error:
            self._next_look = now + TRY_AGAIN
            self._tell(clause(error), "It is tried again")

    def _look(self, writer: Writer, members: RunningMembers | None) -> None:
        stamp, first = stamp_of(self._directory, _WHICH), writer is not self._writer
        if stamp is None or (stamp == self._done and not first):
            return
        try:
            file = read_node_file(self._directory, _WHICH)
        except Unfit:
            self._writer, self._done = writer, stamp
            raise
        if not (first and _holds(writer, members, file.content)):
            self._writer, self._done = writer, None  # from here on, nobody knows what is stored
            writer.check_not_fenced()
            publish_attachment(writer.storage, _WHICH, file.content)
            size = counted(len(file.content), "byte")
            self._report("info", f"{_WHICH.value} ({size}) was copied into the backup")
        self._writer, self._done, self._told = writer, file.stamp, False

    def _tell(self, why: str, then: str) -> None:
        """Report a failed copy, once until one has succeeded."""
        if not self._told:
            self._told = True
            self._report(
                "unusual",
                f"{_WHICH.value} could not be copied into the backup: {why}. {then}; changes are saved as before",
            )


def _holds(writer: Writer, members: RunningMembers | None, content: bytes) -> bool:
    """Whether the backup, or each member in sync, holds this content. What cannot be read counts as something else."""
    if members is None:
        try:
            return read_attachment(writer.storage, _WHICH) == content
        except BackupError:
            return False
    # Not through the mirror: a member that lacks the file, or holds an earlier one, has not failed.
    mirror = members.mirror
    works = {name: partial(read_attachment, storage, _WHICH) for name, storage in mirror.in_sync.items()}
    results, errors = mirror.attempt(works)
    return not errors and all(result == content for result in results.values())
