"""Records, soon after each commit, that the database holds the backup's last change: the sync point (`backup.witness`).

Thanks to it, a node that is killed nearly always finds at its next start that its database is proven current, and needs
no new snapshot, which takes longer the larger the database is.

How a commit is known
---------------------
During call N the hook has read the database file's header, with the change counter at c. The sync point "the file that
looks like F holds change N" is recorded when all of this is found, in this order, by reading files only:

1. the backup ends with change N, so N has been saved (it was answered before, or is being answered now);
2. the counter is exactly c + 1: one commit since call N, or page 1 of one that is under way;
3. no journal is hot. SQLite writes a journal's first bytes before it touches the database, and commits by removing the
   journal. So a transaction that was being written at step 2 has been committed by now;
4. the file still looks as it did at step 2, and the backup still ends with N: so no later change has been answered, and
   lightningd commits none before it is. (It may have begun one. If some of its pages are already in the file, they are
   rolled back at the next start, and what is left is N: the sync point is still true.)
5. lightningd is alive, so nothing else writes the file. Or it was alive less than MAX_DEAD ago, and no other has
   started since: none can have started, committed and ended in so little time. So the commit was that of N. It was not
   that of a run without the plugin, after a lightningd that died before it committed N: that would have counted to
   c + 1, too.

So a sync point is never recorded in the middle of a commit that is rolled back later. If steps 2 and 3 were ever read
wrongly, the rollback would give the file another time, and the version would be one behind.
A file that was touched afterwards differs from F in its counter, its time, or by a hot journal beside it. That includes
a power cut that brings the journal of N back: then the plugin looks closer before the node opens its database.

Where the header tells nothing (WAL mode, a lone PRAGMA, a transaction larger than SQLite's cache), the database is
asked for its version once the node has been idle for a while.
"""

import os
import select
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from backends.base import Position, Report
from backends.change import UNKNOWN_DATABASE, change_counter, database_fingerprint
from backends.errors import BackupError
from backends.log.writer.writer import Writer
from backends.node.database_file import DatabaseFile
from backends.node.directory import database_path
from backends.node.files import sync_directory
from backends.node.memory import sync_point_of
from backends.node.running import lightningd_has_started
from backends.node.sync_point import Fingerprint, OpenSyncPoint, SavedEnd
from backends.sqlite.source import inspect

FAST, SLOW = 0.01, 0.2
"""Seconds between two looks: while calls have come lately, and otherwise."""

LATELY = 1.0
"""Seconds without a call after which nothing is urgent any more."""

IDLE = 2.0
"""Seconds without a call after which the node counts as idle: the sync point is then made durable, once."""

SYNC_EVERY = 0.2
"""The shortest time, in seconds, between two syncs of the database's directory."""

MAX_DEAD = 1.0
"""Seconds for which lightningd may have been dead when the database file is read."""

_COUNTERS = 1 << 32


class Committing(Protocol):
    """What the hook leaves behind after each call: plain attributes, so that nothing is added to its path."""

    directory: Path
    report: Report
    writer: Writer | None
    refusal: str | None
    database_header: bytes | None
    """The database file's first bytes during the last call; None when they could not be read."""
    reading_database: threading.Lock
    """Held by whoever opens the database through SQLite."""
    noting: threading.Lock
    """Held by whoever writes the sync point."""

    @property
    def begins(self) -> SavedEnd | None:
        """Where a new generation begins that is being published, or was published."""

    @property
    def backup_id(self) -> str:
        """The backup's id, once there is a backup."""


class LastCall(Protocol):
    """Knows when lightningd last called, and so was alive."""

    begun: float
    """When the last call came, by `time.monotonic()`."""


class SyncPointThread:
    """Watches the database file of one node. Everything but `stop` happens in its own thread.

    `input` is the descriptor on which lightningd's calls come: it shows whether lightningd is alive.
    """

    def __init__(self, hook: Committing, last_call: LastCall, input: int = 0) -> None:
        self._hook = hook
        self._lightningd = _Lightningd(hook.directory, last_call, input)
        self._file: DatabaseFile | None = None
        self._sync_point: OpenSyncPoint | None = None
        self._last: Position | None = None  # the backup's end when it was last looked at
        self._changed = self._synced = 0.0  # when that changed; when the directory was last synced
        self._noted: Position | None = None
        self._asked: Position | None = None  # for which the database was opened, with whatever result
        self._durable = self._directory_synced = True
        self._node_known = self._complained = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sync point", daemon=True)

    def start(self) -> None:
        """Start the thread; the backup may be opened later."""
        self._thread.start()

    def stop(self) -> None:
        """Record, durably, what is known at the end. lightningd may be dead by now."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        with suppress(Exception):  # a failure only costs a snapshot
            self.look(ending=True)

    def _run(self) -> None:
        pause = FAST
        while not self._stop.wait(pause):
            try:
                pause = self.look()
            except Exception as error:  # whatever went wrong, this thread must go on
                pause = SLOW
                self._complain(f"the sync point cannot be recorded ({error})")

    def look(self, ending: bool = False) -> float:
        """Do what is due; returns the seconds until the next look."""
        writer, now = self._hook.writer, time.monotonic()
        self._lightningd.lives()
        if writer is None or self._hook.refusal is not None:
            return SLOW
        position = writer.position
        if position != self._last:
            self._last, self._changed = position, now
            self._directory_synced = False  # the change before this one was committed
        idle = ending or now - self._changed >= IDLE
        if position != self._noted:
            self._note_if_committed(writer, position)
        if idle and (ending or self._asked != position) and (position != self._noted or not self._node_known):
            self._asked = position
            self._ask_database(writer, position)
        if not self._directory_synced and (ending or now - self._synced >= SYNC_EVERY):
            self._sync_directory()
        if idle and not self._durable and self._sync_point is not None:
            self._sync_point.sync()
            self._durable = True
        return FAST if now - self._changed < LATELY else SLOW

    def _note_if_committed(self, writer: Writer, position: Position) -> None:
        """The proof is at the top of this file; the order of the steps is part of it."""
        before = self._hook.database_header
        if before is None or database_fingerprint(before) == UNKNOWN_DATABASE:
            return
        file, expected = self._database_file(), (change_counter(before) + 1) % _COUNTERS
        seen = file.committed() if file.counter() == expected else None
        if seen is None or seen.change_counter != expected:
            return
        if writer.position == position and self._hook.database_header is before:
            self._note(position, seen)

    def _ask_database(self, writer: Writer, position: Position) -> None:
        """The slow way: open the database, which must not happen twice at once in this process."""
        with self._hook.reading_database, suppress(BackupError):
            file = self._database_file()
            before = file.committed()
            state = inspect(database_path(self._hook.directory), writable=False)
            if (state.data_version or 0) != position.data_version or writer.position != position:
                return
            if before is not None and file.committed() == before and position != self._noted:
                self._note(position, before)
            if state.node_id is not None:
                writer.note_node_id(state.node_id)
                self._node_known = True

    def _note(self, position: Position, seen: Fingerprint) -> None:
        if self._sync_point is None:
            self._sync_point = OpenSyncPoint(self._hook.directory)
        # A failure is recorded after the refusal has been set, and in a new file: this never overwrites it.
        if self._hook.refusal is None and self._lightningd.lived_lately():
            with self._hook.noting:
                self._sync_point.write(sync_point_of(self._hook.backup_id, position, seen, begins=self._hook.begins))
            self._noted, self._durable, self._directory_synced = position, False, False

    def _database_file(self) -> DatabaseFile:
        if self._file is None:
            self._file = DatabaseFile(database_path(self._hook.directory))
        return self._file

    def _sync_directory(self) -> None:
        """Make the removal of the journal durable, because SQLite does not.

        Otherwise a power cut can bring the last commit's journal back. The backup still holds that change; this is for
        nodes that lose power and cannot reach their backup.
        """
        self._synced, self._directory_synced = time.monotonic(), True
        try:
            sync_directory(self._database_file().directory)
        except OSError as error:
            self._complain(
                f"the node's directory cannot be synced ({error.strerror or error}), so after a power cut the database "
                "may be one change behind. The backup is not affected"
            )

    def _complain(self, line: str) -> None:
        if not self._complained:
            self._complained = True
            self._hook.report("unusual", line)


class _Lightningd:
    """Whether the lightningd that started this process is alive, or was lately."""

    def __init__(self, directory: Path, last_call: LastCall, input: int) -> None:
        self._directory, self._last_call = directory, last_call
        self._parent = os.getppid()
        self._poll = select.poll()
        self._poll.register(input, 0)  # reports only that the other end is closed
        self._seen = 0.0

    def lives(self) -> bool:
        """Whether it is alive; remembers when it was."""
        now = time.monotonic()  # taken before the check
        alive = os.getppid() == self._parent and not self._poll.poll(0)
        if alive:
            self._seen = now
        return alive

    def lived_lately(self) -> bool:
        """Whether it is alive, or was less than MAX_DEAD ago and no other has started since."""
        if self.lives():
            return True
        if lightningd_has_started(self._directory):
            return False
        return time.monotonic() - max(self._seen, self._last_call.begun) < MAX_DEAD
