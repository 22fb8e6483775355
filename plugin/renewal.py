"""A new snapshot of a large database, made while lightningd goes on committing.

A snapshot is needed when the backup cannot be trusted to hold what the database holds: the database is ahead, the last
run left a doubt, or damage was found. A small one is taken while lightningd waits. A large one would keep it waiting
for minutes, and peers with it. So:

1. that the backup is in doubt is noted in it, durably, and the log goes on in a segment of its own;
2. the database is copied as it is in front of that segment (backends/sqlite/live_copy.py), in a thread;
3. a process of the lowest priority checks the copy, and makes a snapshot of it, as a compaction does;
4. the writer publishes that snapshot, with the segments since, as a new generation, and the note is gone.

Changes are saved as always, but until step 4 a restore may give another state, or fail: `status`, `verify` and the
node's log say so. If the node dies before, its next start finds the note, and does it all again.
"""

import os
import shutil
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from backends.change import Change, foreign_keys_setting
from backends.compaction.copy_out import CopyOut
from backends.compaction.from_copy import CopiedDatabase
from backends.compaction.space_reserve import ON_THE_NODES_DISK
from backends.log.format.documents import Base
from backends.log.writer.compacted import Anew
from backends.log.writer.pace import Pace
from backends.log.writer.writer import Writer
from backends.node.directory import database_path
from backends.sqlite.live_copy import CopyFailed, LiveCopy
from backends.system.commits import commits
from backends.system.scratch import scratch_directory
from backends.text import mib

FOR_COMMITS = 64 << 20
"""Bytes that stay free at the destination for the changes that come meanwhile."""

_LOWEST = 19
"""The nice value of the thread that copies."""


class Renewal:
    """One new snapshot at a time. `reading_database` is held by whoever opens the database through SQLite."""

    def __init__(self, directory: Path, reading_database: threading.Lock) -> None:
        self._directory, self._reading = directory, reading_database
        self._held = ExitStack()
        self._capturing = threading.Lock()
        """Held while a call of the hook uses the copy: no other thread may close its files then."""
        self._copy: LiveCopy | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._copied: CopiedDatabase | None = None
        self._path = Path()
        self.why = Anew("", 0)
        """Why the snapshot is made, and the version at which the log before it ended."""
        self.began = 0.0
        """When it was begun, by `time.monotonic()`."""

    @property
    def running(self) -> bool:
        """Whether a new snapshot was begun, and is neither published nor given up."""
        return self._copy is not None

    @property
    def begun(self) -> bool:
        """Whether the hook has begun a copy for the change in its hands, and `go_on` is still to be called."""
        return self._copy is not None and self._thread is None

    def lacks(self, free: int) -> str | None:
        """What space is missing, as a clause: for the copy in the node's directory, or for the snapshot at the
        destination, where `free` bytes can be used. None if there is enough of both. Raises OSError."""
        size = database_path(self._directory).stat().st_size
        here = shutil.disk_usage(self._directory).free
        if here <= size + ON_THE_NODES_DISK:
            return f"it needs {mib(size + ON_THE_NODES_DISK)} in {self._directory}, and {mib(here)} are free there"
        if free <= size + FOR_COMMITS:
            return f"it may need {mib(size + FOR_COMMITS)} at the destination, and {mib(free)} are free there"
        return None

    # In the hook

    def begin(self) -> None:
        """Copy the database as it is before the change that the hook has in its hands. Raises CopyFailed or OSError."""
        self.give_up()
        self.began, self._stopping = time.monotonic(), False
        with ExitStack() as held:
            self._path = held.enter_context(scratch_directory(self._directory)) / "copy.sqlite3"
            copy = LiveCopy(database_path(self._directory).resolve(), self._path)
            held.callback(self._close, copy)
            copy.begin()
            with self._capturing:
                self._held, self._copy = held.pop_all(), copy

    def go_on(self, writer: Writer, change: Change, why: str) -> None:
        """The log goes on after the copied state, with this change. Raises BackupError or OSError."""
        assert self._copy is not None
        position = writer.position
        self.why = Anew(why, position.data_version)
        base = Base(position.sequence, change.database_stood_at, position.checksum, foreign_keys=True)
        segment = writer.begin_segment()
        copied = CopiedDatabase(str(self._path), base, segment, writer.manifest.generation)
        thread = threading.Thread(target=self._run, args=(self._copy, copied), name="live copy", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            raise CopyFailed("the thread that copies the database could not be started") from error
        self._thread = thread

    def capture(self, change: Change) -> None:
        """Called with each change, before it is answered: counts after the one of `go_on`. Never raises."""
        if self._copy is None:
            return
        with self._capturing:
            if self._copy is not None and self._thread is not None and self._copied is None:
                self._copy.capture(writes=foreign_keys_setting(change.statements) is None)

    # Beside it

    def _run(self, copy: LiveCopy, copied: CopiedDatabase) -> None:
        with suppress(OSError, AttributeError):  # best effort: it copies at the usual priority then
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
        with CopyOut(self._path, Pace(commits), begin_after=0.0) as out:

            def between(done: int, total: int) -> bool:
                out.go_on()
                return not self._stopping

            copy.run(between)
        self._copied = copied

    def ready(self) -> CopiedDatabase | None:
        """The copy, once it is complete; None before. Raises CopyFailed if it failed."""
        copy = self._copy
        if copy is not None and copy.failure is not None:
            raise copy.failure
        return self._copied

    def give_up(self) -> None:
        """Remove what there is of the copy. Waits for the thread, which notices within a portion. From any thread."""
        self._stopping = True
        thread = self._thread
        if thread is not None:
            thread.join()
        with self._capturing:
            held, self._held = self._held, ExitStack()
            self._thread = self._copied = self._copy = None
        held.close()

    @property
    def wanted(self) -> int:
        """Bytes that should be free at the destination for the snapshot of the copy that was begun."""
        return 0 if self._copy is None else self._copy.size + FOR_COMMITS

    def _close(self, copy: LiveCopy) -> None:
        with self._reading:  # closing a descriptor of the database releases the locks that SQLite holds here
            copy.close()
