"""The fence: the session marker in the backup, which says who writes the backup now.

Two machines with copies of one node's directory are a danger that no lock on either machine can detect. So each writer
puts its own random mark into the backup and checks from time to time that the mark is still there. A writer whose mark
was replaced stops.
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
from backends.keyring import init_command
from backends.log.format.documents import SESSION, Base, Manifest, Session
from backends.log.format.records import time_now
from backends.log.reader.opening import read_session
from backends.log.writer.options import LogOptions
from backends.storage.base import Storage
from backends.storage.deadline import for_a_message
from backends.text import process_in_words

RARELY = 12
"""How many times as seldom a writer looks at the marker where each request is paid for: every 5 seconds would be a
million requests in a month. There, a writer that was replaced can acknowledge nothing anyway."""


class WriterFence:
    """This writer's mark in the backup; making a WriterFence writes it. `before` is the previous writer's marker."""

    def __init__(
        self,
        storage: Storage,
        session_id: str | None,
        before: Session | None,
        generation: int,
        position: Position,
        options: LogOptions,
        key: str | None = None,
    ) -> None:
        """`key` is the public name of the key that the backup is encrypted with."""
        self._storage, self._options = storage, options
        self._before = before.writer if before else None
        mark = session_id or (before.session_id if before else "") or secrets.token_hex(8)
        node_id = before.node_id if before else None
        self.session = Session(
            secrets.token_hex(8), mark, socket.gethostname()[:200], os.getpid(), time_now(),
            generation, position.sequence, position.data_version, False, node_id, None, key,
        )  # fmt: skip
        self._looked = self._noted = time.monotonic()
        self._changed = False
        self._write(self.session)

    def look(self, position: Callable[[], Position], check_generation: Callable[[], None]) -> None:
        """Raise Fenced if the mark or the generation is no longer ours; write down what was acknowledged.

        Does nothing unless `check_every` seconds have passed, or RARELY times as many where looking is costly. Raises
        OSError from the storage.
        """
        now = time.monotonic()
        if now - self._looked < self._options.check_every * (RARELY if self._storage.costly else 1):
            return
        self._looked = now
        self.check()
        check_generation()
        old = now - self._noted >= self._options.note_every and position().sequence != self.session.sequence
        if old or self._changed:
            self._noted, self._changed = now, False
            self._note(position())

    def note_node_id(self, node_id: str) -> None:
        """Record which node this backup belongs to, with the next look."""
        self._change(replace(self.session, node_id=node_id))

    def note_trouble(self, trouble: str | None) -> None:
        """Record a sentence for everyone who looks at the backup, with the next look; None: all is well again."""
        self._change(replace(self.session, trouble=trouble[:900] if trouble else None))

    def _change(self, session: Session) -> None:
        """Use this marker; it is written with the next look."""
        if session != self.session:
            self.session, self._changed = session, True

    def begin_generation(self, manifest: Manifest) -> None:
        """Record a newly published generation, with the next look: from then on an older manifest is recognized."""
        self._change(replace(self.session, generation=manifest.generation, key=manifest.key))

    def encrypt(self, key: str) -> None:
        """Write the marker now, sealed with the key of this public name. Raises Fenced or OSError."""
        self.check()
        self._write(replace(self.session, key=key))

    def note(self, position: Position) -> None:
        """Write the marker now, with this position, instead of with the next look. Raises Fenced or OSError."""
        self.check()
        self._changed = False
        self._note(position)

    def end(self, position: Position) -> None:
        """Write the marker for the last time, as that of a session that ended cleanly. Raises Fenced or OSError."""
        self.check()
        self.session = replace(self.session, closed=True)
        self._note(position)

    def _note(self, position: Position) -> None:
        self._write(replace(self.session, sequence=position.sequence, data_version=position.data_version))

    def _write(self, session: Session) -> None:
        self._storage.publish(SESSION, session.encode())
        self.session = session

    def check(self) -> None:
        """Raise Fenced if the mark is not ours any more.

        Raises OSError if the destination does not answer: that says nothing about the mark.
        """
        try:
            there = read_session(self._storage)
        except BackupError:
            there = None  # overwritten by something other than this release: not our mark, in any case
        if there is None:
            raise Fenced(
                f"the session marker in {self._storage.describe()} is gone: the backup was removed or replaced while "
                "this node wrote to it. Nothing more is saved there; stop the node, and put the backup back; if it is "
                f"lost for good, make a new one: {init_command()}"
            )
        if there.writer != self.session.writer:
            if there.writer == self._before:
                # The writer that we replaced checked the mark just before we wrote ours, and then wrote its own again.
                # It believes that it is alone, and would go on forever in a segment that no longer has a name. Our mark
                # is written again, so that it stops as well.
                with suppress(OSError):
                    self._write(self.session)
            raise _fenced_by(there, self._storage)


def unwritten_session(base: Base, key: str | None) -> Session:
    """The session marker of a backup that no node has written to yet."""
    return Session(
        secrets.token_hex(8), "", socket.gethostname()[:200], os.getpid(), time_now(),
        1, base.sequence, base.data_version, True, None, None, key,
    )  # fmt: skip


def fenced_by(storage: Storage) -> Fenced:
    """The error for a writer whose segment was sealed by another; it names the other if the marker can be read."""
    try:
        with for_a_message():
            other = read_session(storage)
    except (OSError, BackupError):
        other = None
    if other is None or (other.host, other.pid) != (socket.gethostname(), os.getpid()):
        return _fenced_by(other, storage)
    # Our own mark: a person changed the files, or a writer took the backup over and its mark was overwritten by ours.
    return Fenced(
        f"files of the backup in {storage.describe()} were made read-only or removed while this node wrote to them, "
        "and its last change was not committed. Another node that takes the backup over does this: if there is one, "
        "start only one of the two, as two nodes with the same keys lose money. If there is none, find out what "
        "changed the files (chmod, a program that copies or cleans up), then start this node again"
    )


def _fenced_by(other: Session | None, storage: Storage) -> Fenced:
    who = "another process" if other is None else f"another node ({other.host}, {process_in_words(other.pid)})"
    return Fenced(
        f"{who} has taken over the backup in {storage.describe()}, and this node's last change was not committed: two "
        "nodes with the same keys lose money. Stop one of them for good; only the other may go on"
    )
