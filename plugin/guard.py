"""What stands between a `db_write` call and its answer.

Everything that can be wrong at a start (no backup.lock, destination away, another writer, a database far behind) ends
here in a refused call: lightningd then stops before it commits, however the plugin was configured, and its log shows
the sentence. Nothing but a change that is safely on disk is answered with `continue`.
"""

import secrets
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from backends import backend_for
from backends.base import Backend, Report, Standing
from backends.change import Change
from backends.database.taking import taken
from backends.errors import BackupError, NotABackup, Unreachable
from backends.node.directory import database_path
from backends.node.handover import restore_command
from backends.node.lockfile import LOCK_FILE, Settings, read_settings
from backends.node.session import known_sessions, remember_sessions
from backends.node.witness import Fingerprint
from backends.node.writer_lock import WriterLock
from backends.patience import DEFAULT_PATIENCE, patience_of
from backends.urls import BadURL, parse_url
from plugin.compaction import Compaction
from plugin.damage_watch import DamageWatch
from plugin.decision import RESTORE, Do, decide
from plugin.witness import confess, saw_committed, testify, why_doubted

CONTINUE = {"result": "continue"}

SNAPSHOT_PATIENCE = 10
"""How many times as long a call may take that writes a whole database: at a start, where no peer waits yet."""


class Guard:
    """Answers `db_write` for the node whose network directory is `directory`.

    `seen` is its database file as it was before lightningd opened it: before the manifest was answered.
    """

    def __init__(self, directory: Path, report: Report, seen: Fingerprint | None) -> None:
        self.directory, self.report = directory, report
        self.backend: Backend | None = None
        self.refusal: str | None = None
        """Why everything is refused from now on."""
        self.damage = DamageWatch(directory, report)
        self.compaction: Compaction | None = None
        self.url = ""
        self.patience = DEFAULT_PATIENCE
        """Seconds that one call may wait for the destination."""
        self._seen = seen
        self._doubt: str | None = None
        self._lone_pragma = False  # in this session; foreign keys may be off since
        self._backup_id = ""
        self._testified: Standing | None = None
        self._lock = WriterLock(directory)
        self._reading_database = threading.Lock()

    # The commit path

    def db_write(self, data_version: int, writes: list[str]) -> dict[str, str]:
        """The answer to one call: `continue` once its change is durable, else a refusal that says what to do."""
        if self.refusal is None:
            try:
                backend = self.backend or self.open()
                self._save(backend, Change(data_version, writes))
                if self.refusal is None:  # the watchdog may have given up meanwhile
                    return CONTINUE
            except BackupError as error:
                self._refuse(str(error))
            except OSError as error:
                self._refuse(
                    f"{error.filename or self.directory} cannot be used: {error.strerror or error}. Nothing was "
                    "committed; mend that (space, permission), then start the node again"
                )
            except Exception as error:
                self._refuse(f"something unexpected went wrong in the backup plugin ({type(error).__name__}: {error})")
        return self._refusal()

    def _save(self, backend: Backend, change: Change) -> None:
        decision = decide(backend.standing, change, self._doubt)
        if decision.do is not Do.APPEND:
            self._settle(backend, change, decision.do, decision.why)
        elif self.damage.heal is not None:
            self._heal(backend, change, self.damage.heal)
        if not change.advances:
            self._lone_pragma = True
        backend.append(change)
        self._doubt = None

    # Off the commit path

    def open(self) -> Backend:
        """Become the backup's writer; at the first call, or at `init` if that comes before. Raises BackupError."""
        if self.backend is not None:
            return self.backend
        settings = read_settings(self.directory)
        self.url = settings.url
        self._lock.acquire()
        backend, found = self._find(settings)
        if settings.backup_id is not None and settings.backup_id != found:
            raise BackupError(
                f"backup.lock expects the backup {settings.backup_id}, and {settings.url} holds {found}: it belongs to "
                "another node, or was made anew. Nothing was changed; put the right one back, or run: backup-cli init"
            )
        standing = backend.open(self.report, self._new_session(backend, found))
        self._doubt = self.damage.at_start(backend) or why_doubted(self.directory, self._seen, found, standing)
        sizes = backend.sizes()
        self.report(
            "info",
            f"backing up to {settings.url}: version {standing.data_version}, snapshot {sizes.snapshot} bytes, "
            f"{sizes.records} records in {sizes.segments} bytes since",
        )
        self.compaction = Compaction(settings.url, str(self.directory), self.report, self.damage)
        self._backup_id, self.damage.patience = found, self.patience
        self.backend = backend
        return backend

    def _find(self, settings: Settings) -> tuple[Backend, str]:
        """The backup that backup.lock names, and its id."""
        try:
            self.patience = patience_of(parse_url(settings.url))
            backend = backend_for(settings.url)
        except BadURL as error:
            raise BackupError(
                f"{self.directory / LOCK_FILE} names no destination: {error}. Nothing was changed; stop the node and "
                "run: backup-cli init URL"
            ) from None
        try:
            return backend, backend.identify()
        except (NotABackup, Unreachable) as error:
            if settings.backup_id is not None:
                raise
            raise BackupError(
                f"{self.directory / LOCK_FILE} is of the older backup plugin, and what it names is no backup of this "
                f"one: {error}. Nothing was changed; stop the node and run: backup-cli init URL, with a new URL"
            ) from error

    def _new_session(self, backend: Backend, backup_id: str) -> str:
        """A mark for this session; refused when the backup bears one that was never this node's."""
        last, ours = backend.last_writer(), known_sessions(self.directory, backup_id)
        if last is not None and ours is not None and last.session_id not in ours:
            raise BackupError(
                f"another node ({last.host}) has taken over the backup at {backend.describe()} since this one last "
                "wrote to it. If that one is in use, never start this one again: two nodes with the same keys lose "
                "money. Only if this database is surely the newest, run: backup-cli resync"
            )
        new = secrets.token_hex(8)
        remember_sessions(self.directory, backup_id, [new] if last is None else [last.session_id, new])
        return new

    def _settle(self, backend: Backend, change: Change, do: Do, why: str) -> None:
        """Bring the backup to where the database stands, or refuse."""
        if do is Do.REWIND and saw_committed(self.directory, self._backup_id, backend.standing):
            decision = decide(replace(backend.standing, rewindable=False), change, self._doubt)
            do, why = decision.do, decision.why
        if do is Do.REFUSE:
            raise BackupError(why.replace(RESTORE, self._restore_command()))
        self._refuse_emptied(backend)
        if do is Do.SNAPSHOT or self._failed_before() or self.damage.known is not None:
            patience, self.patience = self.patience, self.patience * SNAPSHOT_PATIENCE
            try:
                self._take_snapshot(backend, change.database_stood_at, why)
            finally:
                self.patience = patience
        else:
            self.report("unusual", f"{why} (version {backend.standing.data_version}): taking it back")
            backend.rewind()

    def _heal(self, backend: Backend, change: Change, why: str) -> None:
        """A new snapshot in the middle of a session. Nothing depends on it: where it cannot be taken, go on as before.

        If it failed at the destination, the append that follows is refused for that.
        """
        if self._lone_pragma:  # a snapshot says that foreign keys are on, as they are when a database is opened
            self.damage.failed("lightningd has migrated its database since its start")
            return
        try:
            self._take_snapshot(backend, change.database_stood_at, why)
        except (BackupError, OSError) as error:
            self.damage.failed(str(error))

    def _refuse_emptied(self, backend: Backend) -> None:
        """An empty database never replaces a backup that holds one, though both may stand at 0: old nodes keep no
        version, and at 2^32 it wraps."""
        if self._seen is not None:
            return
        with backend.read() as generation:
            begins_empty = next(iter(generation.snapshot), None) is None
        if not begins_empty or backend.standing.data_version > 1:
            raise BackupError(
                "the database is empty, and its backup is not: it was lost, or lightningd was started for another "
                "directory. Nothing was changed. Stop lightningd, and bring the database back with: "
                + self._restore_command()
            )

    def _restore_command(self) -> str:
        """To be typed as it stands; lightningd has made a file already, so that one must be moved aside."""
        return restore_command(self.url, self.directory, replace=True)

    def _failed_before(self) -> bool:
        return self._doubt is not None and self._doubt.startswith("the last run ended with a failure")

    def _take_snapshot(self, backend: Backend, database_version: int, why: str) -> None:
        self.report("unusual", f"{why}. Taking a new snapshot of the database at version {database_version} …")
        # Not beside `testify`: closing a file drops the locks that SQLite has on it elsewhere in this process.
        with (
            self._reading_database,
            taken(database_path(self.directory), self.directory, writable=False) as source,
        ):
            if source.data_version != database_version:
                raise BackupError(
                    f"lightningd says its database is at version {database_version}, and the file "
                    f"{database_path(self.directory)} at {source.data_version}: it is not the one that lightningd "
                    "uses. Nothing was changed; is --wallet set to another file?"
                )
            known = backend.node_id()
            if known is not None and source.node_id != known:
                raise BackupError(
                    f"the database belongs to the node {source.node_id}, and the backup at {backend.describe()} to "
                    f"{known}. Nothing was changed; give this node a backup of its own: backup-cli init"
                )
            backend.take_snapshot(source, why)
        self.damage.taken()
        self.report("unusual", f"new snapshot taken at version {database_version}; the backup is complete again")

    def _refuse(self, reason: str) -> None:
        self.refusal = reason
        self.report("broken", reason)
        backend = self.backend
        if backend is not None:
            confess(self.directory, self._backup_id, backend.standing, reason)

    def status(self) -> dict[str, Any]:
        """For the RPC method: answered from memory, so that no commit waits for it."""
        if self.backend is None or self.refusal is not None:
            return {"health": "refused", "reason": self.refusal or "lightningd has not written anything yet"}
        compaction = self.compaction
        return {
            **self.backend.status(self.url).as_json(),
            "compaction_running": compaction is not None and compaction.running,
        }

    def compact(self) -> dict[str, Any]:
        """For the RPC method: the keeper's thread begins it."""
        if self.compaction is None:
            return {"started": False, "reason": self.refusal or "lightningd has not written anything yet"}
        if self.compaction.running:
            return {"started": False, "reason": "a compaction is running already"}
        if self.damage.known is not None:
            return {"started": False, "reason": self.damage.known.sentence()}
        self.compaction.wanted = True
        return {"started": True}

    def where(self) -> str:
        """The destination, as a person would say it."""
        return self.backend.describe() if self.backend is not None else self.url or "backup.lock"

    def give_up(self, reason: str) -> dict[str, str]:
        """The watchdog's: let nothing continue any more. Touches no destination, which may hang."""
        self._refuse(reason)
        return self._refusal()

    def _refusal(self) -> dict[str, str]:
        return {"result": "fail", "message": f"backup: {self.refusal}"}

    def testify(self) -> None:
        """Write down, when the node is idle, that its database holds the backup's last change."""
        backend = self.backend
        if backend is None or self.refusal is not None:
            return
        with self._reading_database:
            standing = backend.standing
            state = testify(self.directory, backend, self._backup_id, self._testified)
            if state is not None:
                self._testified = standing
                if state.node_id is not None:
                    backend.learn_node_id(state.node_id)

    def close(self) -> None:
        """The node stops: leave the backup in order."""
        self.testify()
        if self.backend is not None:
            if self.compaction is not None:
                self.compaction.stop(self.backend)
            self.backend.close()
        self._lock.release()
