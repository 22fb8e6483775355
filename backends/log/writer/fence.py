"""The session marker: who writes this backup now.

Two machines with copies of one node's directory are a danger that no lock on either of them sees. So each writer puts
its own random mark into the backup and looks now and then whether it is still there; one that was replaced stops.
"""

import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from backends.base import Position
from backends.errors import BackupError, Fenced
from backends.log.format.documents import SESSION, Base, Session
from backends.log.format.records import time_now
from backends.log.reader.opening import read_session
from backends.log.writer.options import LogOptions
from backends.storage.base import Storage
from backends.text import process_in_words


class WriterFence:
    """This writer's mark in the backup."""

    def __init__(
        self,
        storage: Storage,
        session_id: str | None,
        before: Session | None,
        generation: int,
        position: Position,
        options: LogOptions,
    ) -> None:
        self._storage, self._options = storage, options
        self._before = before.writer if before else None
        mark = session_id or (before.session_id if before else "") or secrets.token_hex(8)
        node_id = before.node_id if before else None
        self.session = Session(
            secrets.token_hex(8), mark, socket.gethostname()[:200], os.getpid(), time_now(),
            generation, position.sequence, position.data_version, False, node_id, None,
        )  # fmt: skip
        self._looked = self._noted = time.monotonic()
        self._changed = False
        self._write(self.session)

    def look(self, position: Callable[[], Position], check_generation: Callable[[], None]) -> None:
        """Raise Replaced when the mark or the generation is not ours any more; note what was acknowledged.

        Does nothing most times.
        """
        now = time.monotonic()
        if now - self._looked < self._options.check_every:
            return
        self._looked = now
        self.check()
        check_generation()
        old = now - self._noted >= self._options.note_every and position().sequence != self.session.sequence
        if old or self._changed:
            self._noted, self._changed = now, False
            self._note(position())

    def note_node_id(self, node_id: str) -> None:
        """Remember whose backup this is."""
        self._change(replace(self.session, node_id=node_id))

    def note_trouble(self, trouble: str | None) -> None:
        """What whoever looks at the backup should know; None: all is well."""
        self._change(replace(self.session, trouble=trouble[:900] if trouble else None))

    def _change(self, session: Session) -> None:
        """To be written with the next look."""
        if session != self.session:
            self.session, self._changed = session, True

    def begin_generation(self, generation: int) -> None:
        """A new generation has been published: from the next note on an older manifest is known to be one."""
        self._change(replace(self.session, generation=generation))

    def note(self, position: Position) -> None:
        """Write down now what else waits for the next look. Raises Replaced or OSError."""
        self.check()
        self._changed = False
        self._note(position)

    def end(self, position: Position) -> None:
        """The last note of a session that ended in order."""
        self.check()
        self.session = replace(self.session, closed=True)
        self._note(position)

    def _note(self, position: Position) -> None:
        self._write(replace(self.session, sequence=position.sequence, data_version=position.data_version))

    def _write(self, session: Session) -> None:
        self._storage.publish(SESSION, session.encode())
        self.session = session

    def check(self) -> None:
        """Raises Replaced, or OSError when the destination does not answer: then nobody knows, and nothing follows."""
        try:
            there = read_session(self._storage)
        except BackupError:
            there = None  # overwritten by something that is not this release: not ours, in any case
        if there is None:
            raise Fenced(
                f"the session marker in {self._storage.describe()} is gone: the backup was removed or exchanged while "
                "this node wrote to it. Nothing more is saved there; stop the node, and put the backup back; if it is "
                "lost for good, make a new one: backup-cli init"
            )
        if there.writer != self.session.writer:
            if there.writer == self._before:
                # The one that we replaced had looked just before. It believes that it is alone, and would go on for
                # ever in a segment that has no name any more: with our mark in place again it stops as well.
                with suppress(OSError):
                    self._write(self.session)
            raise _fenced_by(there, self._storage)


def unwritten_session(base: Base) -> Session:
    """The marker of a backup that no node has written to yet."""
    return Session(
        secrets.token_hex(8), "", socket.gethostname()[:200], os.getpid(), time_now(),
        1, base.sequence, base.data_version, True, None, None,
    )  # fmt: skip


def fenced_by(storage: Storage) -> Fenced:
    """The error for a writer whose file another one has taken; it says who, if the session marker can be read."""
    try:
        other = read_session(storage)
    except (OSError, BackupError):
        other = None
    if other is None or (other.host, other.pid) != (socket.gethostname(), os.getpid()):
        return _fenced_by(other, storage)
    # Our own mark: a person has done it, or one that took the backup over and whose mark was overwritten.
    return Fenced(
        f"files of the backup in {storage.describe()} were made read-only or removed while this node wrote to them, "
        "and its last change was not committed. Another node that takes the backup over does so: if there is one, "
        "start only one of the two, as two nodes with the same keys lose money. If there is none, see what changed "
        "the files (chmod, a program that copies or cleans up), then start this node again"
    )


def _fenced_by(other: Session | None, storage: Storage) -> Fenced:
    who = "another process" if other is None else f"another node ({other.host}, {process_in_words(other.pid)})"
    return Fenced(
        f"{who} has taken over the backup in {storage.describe()}, and this node's last change was not committed: two "
        "nodes with the same keys lose money. Stop one of them for good; only the other may go on"
    )
