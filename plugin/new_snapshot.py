"""A new snapshot of the node's database, when the backup needs one: taken while lightningd waits, or begun beside it.

Everything here is called by the hook, with a change in its hands: the database is as it was before that change. A small
database is copied and written at once; the copy of a large one is only begun (plugin/renewal.py).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from backends.base import Position, Report, SnapshotSource
from backends.change import Change
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.log.writer.writer import Writer
from backends.node.directory import database_path
from backends.node.memory import record_beginning
from backends.node.sync_point import SavedEnd
from backends.sqlite.copy import consistent_copy
from backends.sqlite.live_copy import CopyFailed
from backends.sqlite.source import inspect
from backends.storage.base import is_full
from backends.text import mib
from plugin.at_start import Start
from plugin.damage_watch import TRY_AGAIN, DamageWatch
from plugin.early_copy import is_large
from plugin.renewal import Renewal

SNAPSHOT_TIMEOUT_FACTOR = 10
"""How many commit timeouts a call may take that writes a whole database: at a start, where no peer waits yet."""


class NewSnapshots:
    """`start` is what was found before lightningd opened its database; `check` raises BackupError unless a database is
    the backup's, and at this version."""

    def __init__(
        self, directory: Path, report: Report, start: Start, check: Callable[[SnapshotSource, int], None]
    ) -> None:
        self.directory, self.report, self._start, self._check = directory, report, start, check
        self.reading_database = threading.Lock()
        """Held while this process has the database open through SQLite; not on the commit path."""
        self.renewal = Renewal(directory, self.reading_database)
        self.damage = DamageWatch(directory, report, self.renewal)
        self.backup_id = ""
        self.noting = threading.Lock()
        """Held while the sync point is written."""
        self.begins: SavedEnd | None = None
        """Where this session's last new generation begins: in every sync point, until that generation is the log."""
        self.timeout_factor = 1
        """How many commit timeouts the present call may take."""
        self._copies = ExitStack()
        if start.copy is not None:
            self._copies.callback(start.copy.close)
        self._copied: SnapshotSource | None = None

    def prepare(self, backup: Backup, change: Change) -> None:
        """The first call will need a new snapshot: copy the database, or begin to. Raises BackupError or OSError."""
        if not self._begin_copy(backup, change):
            self._copy_database(change)

    def forget_early_copy(self) -> None:
        """Remove the copy that was made before lightningd opened the database: the first call needs no new snapshot."""
        self._copies.close()
        self._start.copy = None

    def close(self) -> None:
        """Remove all copies."""
        self.renewal.give_up()
        self._copies.close()

    def take(self, writer: Writer, change: Change, why: str) -> None:
        """Bring the backup to the state of the database, or begin to. Raises BackupError or OSError."""
        if self.renewal.begun:
            self._renew(writer, change, why)
            return
        self.renewal.give_up()  # a commit that no call announced is not in that copy
        source = self._copied or self._copy_database(change)
        try:
            with self._longer_timeout():
                self._begin_generation(writer, source, why)
        except BackupError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and is_full(cause):
                raise BackupError(self._no_space(writer, why, cause)) from error
            raise
        self._copied = None
        self._copies.close()

    def heal(self, writer: Writer, change: Change, why: str) -> None:
        """Take a new snapshot in the middle of a session, before a change that advances the version. If it cannot be
        taken, go on as before: nothing depends on it.

        If it failed at the destination, the append that follows is refused for that. Peers are waiting, so the commit
        timeout stays.
        """
        if not writer.foreign_keys:  # a snapshot implies that they are on, as they are when a database is opened
            self.damage.failed("lightningd is migrating its database, and foreign keys are off", TRY_AGAIN)
            return
        database = database_path(self.directory)
        try:
            if not self.damage.waits_for(database.stat().st_size):
                self.renewal.begin()
                self._renew(writer, change, why)
                return
            with self.reading_database, consistent_copy(database, self.directory, writable=False) as source:
                self._check(source, change.database_stood_at)
                self._begin_generation(writer, source, why)
        except (BackupError, OSError) as error:
            self.renewal.give_up()
            self.damage.could_not(error)

    def _no_space(self, writer: Writer, why: str, error: OSError) -> str:
        size = 0 if self._start.seen is None else self._start.seen.size
        try:
            free = f", where {mib(writer.space().free)} are free"
        except BackupError:
            free = ""
        return (
            f"{why}. So the backup needs a new snapshot of the database, and there is no space for it at "
            f"{writer.describe()}{free} ({error.strerror}). Nothing was committed, and everything that was saved is "
            f"safe. Make room there (a snapshot takes {mib(size)} at most, and usually far less), then "
            "start the node again"
        )

    # What these are made of

    def _begin_generation(self, writer: Writer, source: SnapshotSource, why: str) -> None:
        self.report("unusual", f"{why}. Taking a new snapshot of the database at version {source.data_version} ...")
        before = writer.position

        def announce(begins: Position) -> None:
            with self.noting:
                self.begins = record_beginning(self.directory, self.backup_id, before, begins)

        writer.take_snapshot(source, why, announce)
        self.begins = None
        self.damage.taken()
        self.report("unusual", f"new snapshot taken at version {source.data_version}; the backup is complete again")

    def _renew(self, writer: Writer, change: Change, why: str) -> None:
        """Go on with the log; the copy of the database was begun, and becomes a new snapshot beside the node."""
        self.damage.doubted(writer, why)
        self.renewal.go_on(writer, change, why)
        self.damage.begun()
        self.report(
            "unusual",
            f"{why}. A new snapshot of the database at version {change.database_stood_at} is being made while the node "
            "runs. Changes are saved, but do not rely on this backup until the node's log says that it is complete",
        )

    def _begin_copy(self, backup: Backup, change: Change) -> bool:
        """Begin to copy a large database, without waiting for it. Returns whether that is possible.

        Raises BackupError if it is not the backup's.
        """
        seen = self._start.seen
        if seen is None or not is_large(seen.size):
            return False
        free = backup.space().free + backup.history_bytes()  # what is only kept for its history is given up for it
        try:
            if self.renewal.lacks(free) is not None:
                return False
        except OSError:
            return False
        state = self._start.state
        if state is None or (state.data_version or 0) != change.database_stood_at:
            # Not otherwise: a large transaction lets nobody read the database, and the hook would wait for SQLite.
            with suppress(BackupError), self.reading_database:
                state = inspect(database_path(self.directory), writable=False)
        if state is None:
            return False
        self._check(SnapshotSource((), state.data_version or 0, state.node_id), change.database_stood_at)
        try:
            self.renewal.begin()
        except (CopyFailed, OSError):
            return False
        return True

    def _copy_database(self, change: Change) -> SnapshotSource:
        """A copy of the database as lightningd had it before the change, kept until a snapshot of it is taken."""
        early = self._start.copy
        if early is not None and early.source.data_version == change.database_stood_at:
            self._check(early.source, change.database_stood_at)
            self._copied = early.source
            return early.source
        # Nobody else may use SQLite now: closing a file releases the locks that SQLite holds on it in this process.
        with self.reading_database, self._longer_timeout():
            source = self._copies.enter_context(
                consistent_copy(database_path(self.directory), self.directory, writable=False)
            )
        self._check(source, change.database_stood_at)
        self._copied = source
        return source

    @contextmanager
    def _longer_timeout(self) -> Iterator[None]:
        """Extend the commit timeout while a whole database is copied or written."""
        self.timeout_factor = SNAPSHOT_TIMEOUT_FACTOR
        try:
            yield
        finally:
            self.timeout_factor = 1
