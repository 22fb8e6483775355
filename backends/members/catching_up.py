"""Bringing one member up to the others while the node runs: whole files first, then the tail of the open segments.

A pass copies whatever the member lacks, beside the running writer. Once a pass has found nothing to copy but a few
bytes, the member joins between two operations: the last bytes are copied, the mirror adopts the member with the files
that are open, and from then on every change goes there, too. A member that trails never joins.

While it is being caught up, the member keeps the document of the epoch in which it was put out of sync (or, if it is
new or was wiped, one of epoch 0), so that nobody takes it for one that holds everything.
"""

import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from backends.errors import BackupError, Damaged
from backends.log.format.documents import SESSION
from backends.log.format.members import Member
from backends.log.format.records import segment_index
from backends.members.epochs import clause
from backends.members.examine import Obstacle, Obstructed, examine, seen_as_foreign
from backends.members.files import make_equal
from backends.members.host import Host
from backends.members.own_document import OwnDocument
from backends.members.source import Sources
from backends.members.tails import Tails
from backends.places.base import Place
from backends.storage.base import Lock, Storage
from backends.storage.mirror.handles import MirrorWriteHandle
from backends.system.locks import Locked

PAUSE = 0.5
"""Seconds between two passes over a member that trails, or that could not join yet."""

COSTLY_PAUSE = 5.0
"""The same where each request is paid for, if the member trails: a pass is about 30 requests."""

LOOK_EVERY = 60.0
"""Seconds after which a member that trails is looked at although nothing was written."""

COSTLY_LOOK_EVERY = 3600.0
"""The same where each request is paid for: a look a minute was 1.3 million requests a month, for nothing."""

RETRY = (1.0, 2.0, 5.0, 10.0)
"""Seconds to wait before a member that failed is tried again, after the first failure, the second, and so on."""

SMALL = 256 << 10
"""The most bytes that are copied while commits wait."""

JOIN_WITHIN = 0.05
"""Seconds that commits wait for a member that joins. If that is too short for its disk, it is doubled for the next try,
up to what every commit may wait."""

ANSWERS_WITHIN = 0.5
"""Seconds in which a member that has just failed may end what it was doing, before it counts as one that hangs."""

_TRIES = 400


class _Stopped(OSError):
    """The node is stopping, or the member has failed again."""


@dataclass(slots=True)
class CatchingUp:
    """The thread that brings one member up to the others. It ends when the member has joined."""

    member: Member
    place: Place
    host: Host
    waiting: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when the thread has ended."""
    _locked: Lock | None = None
    """The lock in the member, while this thread holds it."""
    _tails: Tails = field(init=False)
    _ended: bool = False
    _join_within: float = JOIN_WITHIN
    _behind: bool = False
    """Whether so much was copied in the last pass that the next one should follow at once."""
    _holds: tuple[int, int, int] | None = None
    """The state of the others that a member that trails holds."""
    _look_again: float = 0.0
    _sources: Sources = field(init=False)
    _document: OwnDocument = field(init=False)
    _checked: bool = False
    """Whether the content of what the member already had was compared, and not only the names and sizes."""

    def __post_init__(self) -> None:
        self._tails = Tails(self.storage, self._pause)
        self._sources = Sources(lambda: self.host.mirror.in_sync)
        self._document = OwnDocument(self.name, self.storage, self.host.epochs, self._check_ours)

    @property
    def name(self) -> str:
        """The member's name."""
        return self.member.name

    @property
    def storage(self) -> Storage:
        """The member's directory."""
        return self.place.storage

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self.run, name=f"catching up {self.name}", daemon=True).start()

    def stop(self) -> None:
        """Have the thread end soon. It may be stuck in a call that never returns, so nothing waits for it."""
        self._ended = True
        self.waiting.set()

    def run(self) -> None:
        """Until the member has joined or the thread is stopped: make passes, and wait between them."""
        try:
            self._run()
        finally:
            self._let_go()
            self.ended.set()

    def _run(self) -> None:
        failures = 0
        while not self._ended:
            joined = self.turn()
            if joined:
                return
            failures = failures + 1 if joined is None else 0
            if failures or not self._behind:
                pause = COSTLY_PAUSE if self.member.trailing and self.storage.costly else PAUSE
                self.waiting.wait(RETRY[min(failures, len(RETRY)) - 1] if failures else pause)
                self.waiting.clear()

    def _answers(self) -> bool:
        """Whether the member has done all that it was asked before; it has `ANSWERS_WITHIN` to end that."""
        until = time.monotonic() + ANSWERS_WITHIN
        while not (idle := self.host.mirror.workers.idle(self.name)) and time.monotonic() < until and not self._ended:
            time.sleep(0.01)
        return idle

    def turn(self) -> bool | None:
        """One step of the thread. Returns whether the member has joined, None if something stands in the way."""
        try:
            if not self._answers():
                raise Obstructed(Obstacle.NOT_THERE, "it has not answered yet")
            return self.step()
        except _Stopped:
            return False
        except Obstructed as error:
            self._lost(error.obstacle, error.why)
        except Damaged as error:
            self._source_is_damaged(error.finding)
        except (OSError, BackupError) as error:
            at_whom = self._sources.at_whom(error)
            if at_whom:
                self._sources.is_unfit()
            self._lost(Obstacle.NOT_THERE, at_whom + clause(error))
        return None

    def _source_is_damaged(self, finding: str) -> None:
        """The next pass copies from another member, if there is one; and so the damaged one is mended, if it may be."""
        source = self._sources.name
        self._sources.is_unfit()
        try:
            mended = self.host.damaged(source, finding) or source not in self.host.mirror.in_sync
        except (OSError, BackupError) as error:
            self._lost(Obstacle.NOT_THERE, clause(error))
            return
        if mended:
            self._forget()
        else:
            self._lost(Obstacle.SOURCE_DAMAGED, finding, self._sources.unfit())

    def _lost(self, obstacle: Obstacle, why: str, sources: Collection[str] = ()) -> None:
        self._forget()
        self.host.obstructed(self.name, obstacle, why, sources)

    def _forget(self) -> None:
        """What was known about the member counts no more."""
        self._checked, self._behind, self._holds = False, False, None
        self._let_go()

    def step(self) -> bool:
        """One pass, and joining if the member is ready. Returns whether it has joined. Raises Obstructed, OSError or
        BackupError."""
        host, mirror = self.host, self.host.mirror
        if self.member.trailing and self._holds == self._state() and time.monotonic() < self._look_again:
            return False  # nothing has happened, and a far member is spared
        look_every = COSTLY_LOOK_EVERY if self.storage.costly else LOOK_EVERY
        state, self._look_again = self._state(), time.monotonic() + look_every
        self._prepare()
        seen, epoch, position = mirror.changes, host.epochs.note.epoch, host.position()
        quiet = not mirror.unfinished
        copied = self._pass()
        host.copied_to(self.name, position, self.storage.space())
        self._behind = copied > SMALL and not self.member.trailing  # otherwise a busy log would always be ahead
        if self.member.trailing:
            if host.epochs.note.epoch == epoch:
                self._document.publish()
                self._holds = state
            return False
        return not self._behind and quiet and self._join(seen)

    def _state(self) -> tuple[int, int, int]:
        """What changes with everything that is written at the others."""
        ends = sum(handle.end for handle in self.host.mirror.open_files())
        return self.host.mirror.changes, ends, self.host.epochs.note.epoch.number

    # One pass

    def _prepare(self) -> None:
        """Make sure that the member may be written to, and lock it."""
        for handle in self.host.mirror.open_files():
            if handle.name not in self._tails:
                handle.drop(self.name)
        self._tails.refuse_fenced()
        there = examine(self.name, self.member.url, self.place, self.host.epochs.note)
        if not there:
            self.storage.make()
        if self._locked is None:
            try:
                self._locked = self.storage.lock("lightningd")
            except Locked as error:
                raise Obstructed(Obstacle.NOT_THERE, f"another process ({error.holder}) is writing to it") from None
        self._document.prepare(there=there)

    def _pass(self) -> int:
        """Copy everything that the member lacks as of now. Returns the number of bytes."""
        self.host.check_not_fenced()
        source = self._sources.choose()
        open_files = {handle.name: handle for handle in self.host.mirror.open_files() if _is_segment(handle.name)}
        self._tails.end_all_but(open_files)
        deep, copied = not self._checked, 0
        copied += make_equal(
            source, self.storage, deep=deep, pause=self._pause, keep={*open_files, SESSION, *self._tails}
        )
        for name, handle in sorted(open_files.items()):
            copied += self._tails.extend(source, name, handle.end, self.host.epochs.note.backup_id)
        copied += self._copy_session(source)
        self._checked = True
        return copied

    def _pause(self, copied: int) -> None:
        if self._ended:
            raise _Stopped
        if not copied:  # files are about to get their names
            self._check_ours()
        self.host.pause(copied)

    def _check_ours(self) -> None:
        """Raise Fenced or Obstructed if another node has taken over the others, or this member, since the pass began.

        A node that was taken over must not set a member back to what it knew before.
        """
        self.host.check_not_fenced()
        if seen_as_foreign(self.storage, self.host.epochs.note, in_sync=False):
            raise Obstructed(Obstacle.OTHER_NODE, "another node has written to it")

    def _copy_session(self, source: Storage) -> int:
        """The session marker says how far the log was acknowledged, so it comes after the log."""
        data = source.read_small(SESSION)
        with suppress(FileNotFoundError):
            if self.storage.read_small(SESSION) == data:
                return 0
        self._check_ours()  # the tail took long: another node's marker is never replaced by an older one
        self.storage.publish(SESSION, data)
        return len(data)

    def _let_go(self) -> None:
        """Close everything that is open at the member: while anything is, its filesystem cannot be unmounted."""
        for tail in self._tails.values():
            self.host.mirror.workers.leave(self.name, tail.part.close)  # after what it may still be writing
        self._tails.clear()
        lock, self._locked = self._locked, None
        if lock is not None:
            with suppress(OSError):
                lock.release()

    # Joining

    def _join(self, seen: int) -> bool:
        """Join, if nothing but the open segments has changed since `seen`. Returns whether it has."""
        with self.host.structure:
            if not self._adopted(seen):
                return False
            try:
                self.host.join(self.name)
            except (OSError, BackupError):
                self._ended = True  # the commit that needs this epoch reports it
                raise
        return True

    def _adopted(self, seen: int) -> bool:
        mirror = self.host.mirror
        for _ in range(_TRIES):
            with mirror.between_operations() as alone:
                if alone:
                    handles = {handle.name: handle for handle in mirror.open_files()}
                    if mirror.changes != seen or handles.keys() != self._tails.keys():
                        return False
                    if sum(handles[name].end - tail.end for name, tail in self._tails.items()) > SMALL:
                        return False
                    return self._adopt(handles)
            time.sleep(0.0005)
        return False

    def _adopt(self, handles: Mapping[str, MirrorWriteHandle]) -> bool:
        """Copy the last bytes, and hand the open files over; False if that takes too long. Commits wait meanwhile.

        Either member may hang just now, so another thread copies. What it still writes after we have given up are the
        right bytes in the right place; the next pass begins when it is done.
        """
        mirror, source = self.host.mirror, self._sources.choose()
        ends = {name: handles[name].end for name in self._tails}
        round_ = mirror.workers.begin({self.name: lambda: self._tails.copy_last(source, ends)})
        if not round_.wait(self._join_within):
            self._join_within = min(2 * self._join_within, mirror.options.grace)
            return False
        _, errors = round_.outcome()
        if errors:
            raise errors[self.name]
        for name, tail in self._tails.items():
            handles[name].adopt(self.name, tail.part)
        self._tails.clear()
        mirror.adopt(self.name, self.storage, self._locked)
        self._locked = None
        return True


def _is_segment(name: str) -> bool:
    return segment_index(name) is not None
