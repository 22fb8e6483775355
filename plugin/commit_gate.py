"""What decides how a `db_write` call is answered.

Everything that can be wrong at a start (no backup.lock, destination unreachable, another writer, a database far behind)
ends here in a refused call: lightningd then stops before it commits, however the plugin was configured, and its log
shows the sentence. `continue` is the answer only to a change that is safely on disk.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from backends.base import Position, Report, SnapshotSource
from backends.change import UNKNOWN_DATABASE, Change, database_fingerprint
from backends.commit_timeout import DEFAULT_COMMIT_TIMEOUT
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.log.facts import Facts
from backends.log.known_damage import KnownDamage
from backends.log.slots_health import SlotsHealth
from backends.log.writer.writer import Writer
from backends.members.running import RunningMembers
from backends.node.bring_back import bring_back
from backends.node.directory import database_path
from backends.node.hand_over import restore_command
from backends.node.lockfile import read_settings
from backends.node.sync_point import SavedEnd
from backends.node.writer_lock import WriterLock
from backends.sqlite.connection import refuse_old_sqlite
from backends.text import counted, one_line, unexpected
from plugin.at_start import Start
from plugin.compaction import Compaction
from plugin.database_header import DatabaseHeader
from plugin.decision import Decision, Do, decide
from plugin.destination import Destination, destination_of
from plugin.doubt import changed_ago, record_end, record_failure, why_doubted
from plugin.encrypted_start import EncryptedStart
from plugin.members_by_rpc import add_by_rpc, remove_by_rpc, reopened, several_of_one, status_with_members
from plugin.misread import why_unsavable
from plugin.new_snapshot import NewSnapshots
from plugin.start import (
    ask_memory,
    check_beginning_anew,
    check_database_is_here,
    check_last_writer,
    check_source,
    identified,
    remember_new_session,
)

CONTINUE = {"result": "continue"}


class CommitGate:
    """Answers `db_write` for the node whose network directory is `directory`.

    `start` is what was found before the manifest was answered, and so before lightningd opened its database.
    """

    def __init__(self, directory: Path, report: Report, start: Start) -> None:
        self.directory, self.report = directory, report
        self.writer: Writer | None = None
        self.refusal: str | None = None
        """Why every call is refused from now on; None while changes are accepted."""
        self.snapshots = NewSnapshots(directory, report, start, self._check_source)
        self.renewal, self.damage = self.snapshots.renewal, self.snapshots.damage
        self.reading_database, self.noting = self.snapshots.reading_database, self.snapshots.noting
        self.compaction: Compaction | None = None
        self.members: RunningMembers | None = None
        """The members of a backup that has several, once it is open."""
        self.slots_health: SlotsHealth | None = None
        """What the maintenance thread has last seen of the key slots of an encrypted backup."""
        self.url, self._urls = "", tuple[str, ...]()
        self._commit_timeout = DEFAULT_COMMIT_TIMEOUT
        self.saved = False
        """Whether a change was saved since the start: until then, a new snapshot may be needed first."""
        self.database_header: bytes | None = None
        """The first bytes of the database file as they were during the last call: at the commit before it."""
        self._found_at_start = start
        self._header: DatabaseHeader | None = None
        self._session = ""
        self._doubt: str | None = None
        self._backup_id = self._place = ""
        self._node_id: str | None = None
        self._lock = WriterLock(directory)

    # The commit path

    def db_write(self, data_version: int, writes: list[str]) -> dict[str, str]:
        """The answer to one call: `continue` once its change is durable, otherwise a refusal that says what to do."""
        if self.refusal is None:
            try:
                unsavable = why_unsavable(data_version, writes)
                if unsavable is not None:
                    raise BackupError(unsavable)
                writer = self.writer or self._start(Change(data_version, writes))
                self._save(writer, Change(data_version, writes, self._fingerprint()))
                if self.refusal is None:  # otherwise the watchdog has given up meanwhile
                    return CONTINUE
            except BackupError as error:
                self._refuse(str(error))
            except OSError as error:
                self._refuse(
                    f"{error.filename or self.directory} cannot be used: {error.strerror or error}. Nothing was "
                    "committed; fix that (space, permission), then start the node again"
                )
            except MemoryError:
                self._refuse(
                    f"there is not enough memory to save a change of {sum(map(len, writes)) / 1e6:.1f} MB (a 32-bit "
                    "process has at most 3 GB, whatever the machine has). Nothing was committed, and what was saved "
                    "before is safe; end other programs, or add swap, then start the node again"
                )
            except Exception as error:
                self._refuse(f"in the backup plugin {unexpected(error)}")
        return self._refusal()

    def _save(self, writer: Writer, change: Change) -> None:
        self.renewal.capture(change)
        decision = decide(writer.position, change, self._doubt)
        if decision.do is Do.REFUSE:
            raise self._refused(decision, writer.position)
        if decision.do is Do.SNAPSHOT:
            self.snapshots.take(writer, change, decision.why)
        elif self.damage.heal is not None and change.advances:
            self.snapshots.heal(writer, change, self.damage.heal)
        writer.append(change)
        self._doubt, self.saved = None, True

    def _fingerprint(self) -> int:
        """The fingerprint of the database as it is before the change: one `pread`."""
        if self._header is None:
            return UNKNOWN_DATABASE
        try:
            self.database_header = self._header.read()
        except OSError:  # lightningd will report the trouble with its disk
            self.database_header = None
            return UNKNOWN_DATABASE
        return database_fingerprint(self.database_header)

    # Off the commit path

    def _start(self, change: Change) -> Writer:
        """Become the backup's writer, at the first call. Raises BackupError; a refusal has changed nothing."""
        check_database_is_here(self.directory)
        refuse_old_sqlite()  # otherwise found at the next copy, or on the day of a restore
        settings = read_settings(self.directory)
        self.url, self._urls = settings.url, settings.urls
        self._lock.acquire()
        key = EncryptedStart(self.directory, settings, self.report)
        destination = destination_of(self.directory, settings)
        backup, self._commit_timeout = destination.backup, destination.commit_timeout
        seen = identified(self.directory, settings, backup)
        self._backup_id, self._node_id, self._place = seen.backup_id, seen.node_id, backup.describe()
        self.snapshots.backup_id = seen.backup_id
        key.check_key(seen)
        last = check_last_writer(self.directory, backup, seen)
        self._check_start(destination, seen)
        key.check_slots(seen, destination.storages())
        ask_memory(self.directory, backup, seen, change.database_stood_at, self.report)
        decision = self._judge(seen.known_damage, seen.end, change)
        if decision.do is Do.SNAPSHOT:
            check_beginning_anew(self.directory, backup, seen, self._found_at_start.seen)
            self._refuse_emptied(backup, seen.end)
            self.snapshots.prepare(backup, change)
        else:
            self.snapshots.forget_early_copy()
        self._session = remember_new_session(self.directory, self._backup_id, last)
        writer = destination.open(self.report, self._session, seen)
        self.members, position = destination.members, writer.position
        try:
            key.finish(writer)
        except BaseException:
            writer.close()
            raise
        self.writer = writer
        again = self._judge(writer.damage.read(), position, change)  # another writer may have appended until now
        if again.do is not Do.SNAPSHOT:
            self.renewal.give_up()
        with suppress(OSError):  # lightningd may use another file: then its header stays unknown
            self._header = DatabaseHeader(database_path(self.directory))
        sizes = writer.sizes()
        self.report(
            "info",
            f"backing up to {' and '.join(settings.urls)}: version {position.data_version}, "
            f"snapshot {sizes.snapshot} bytes, {counted(sizes.records, 'record')} in {sizes.segments} bytes since"
            + ("" if writer.manifest.key is None else ", encrypted"),
        )
        self.compaction = Compaction(
            settings.url, str(self.directory), self.report, self.damage, self.renewal, self.members
        )
        self.damage.commit_timeout = self._commit_timeout
        return writer

    def _check_start(self, destination: Destination, seen: Facts) -> None:
        """Raise BackupError if the node may not start with the members that are here."""
        found = self._found_at_start.seen
        proven = found is not None and why_doubted(self.directory, found, self._backup_id, seen.end) is None
        destination.check_start(proven=proven, changed_ago=changed_ago(found, seen.end))

    def _judge(self, damage: KnownDamage | None, position: Position, change: Change) -> Decision:
        """What the first call means for a backup that ends at `position`; BackupError when it is refused."""
        unfit = self.damage.at_start(damage)
        self._doubt = unfit or why_doubted(self.directory, self._found_at_start.seen, self._backup_id, position)
        decision = decide(position, change, self._doubt, self._found_at_start.left)
        if decision.do is Do.REFUSE:
            raise self._refused(decision, position)
        return decision

    def _refused(self, decision: Decision, position: Position) -> BackupError:
        if not decision.restore:
            return BackupError(decision.why)
        back = self._bring_back("keep this database, and restore the newest state with", position.data_version)
        return BackupError(f"{decision.why} {back}")

    def _check_source(self, source: SnapshotSource, version: int) -> None:
        check_source(self.directory, self.where(), self._node_id, source, version)

    def _refuse_emptied(self, backup: Backup, position: Position) -> None:
        """Refuse to replace a backup that holds a database by an empty one.

        Both may be at version 0: old nodes keep no version, and at 2^32 it wraps.
        """
        if self._found_at_start.seen is not None:
            return
        with backup.read() as generation:
            begins_empty = next(iter(generation.snapshot), None) is None
        if not begins_empty or position.data_version > 1:
            raise BackupError(
                "the database is empty, but its backup is not: the database was lost, or lightningd was started for "
                "another directory or with another wallet setting. Nothing was changed. "
                + self._bring_back("and restore the database with")
            )

    def _bring_back(self, what: str, give_up: int | None = None) -> str:
        """What to type: `what` with the restore command, or what is safe if something is noted against the backup,
        which may end at `give_up`. lightningd has created a database already, which must be moved aside."""
        known = self.damage.known
        if known is None:
            return f"Stop lightningd, {what}: {restore_command(self._urls, self.directory, replace=True)}"
        back = bring_back(known, self._urls, self.directory, replace=True, give_up=give_up)
        return f"Stop lightningd, and keep its files: {known.sentence()}. {back}"

    def _refuse(self, reason: str) -> None:
        self.refusal = reason = one_line(reason)
        self.report("broken", reason)
        if self.writer is not None:
            record_failure(self.directory, self._backup_id, self.writer.position, reason)

    def status(self) -> dict[str, Any]:
        """For the RPC method backup-status: answered from memory, so that no commit waits for it."""
        if self.writer is None or self.refusal is not None:
            return {"health": "refused", "reason": self.refusal or "lightningd has not written anything yet"}
        compaction = self.compaction
        seen = self.writer.status(self.url)
        if self.members is not None:
            seen = status_with_members(seen, self.members)
        if self.slots_health is not None:
            seen = self.slots_health.added_to(seen)
        return {
            **seen.as_json(),
            "compaction_running": compaction is not None and compaction.running and not self.renewal.running,
            "new_snapshot_running": self.renewal.running,
        }

    def compact(self) -> dict[str, Any]:
        """For the RPC method backup-compact: the maintenance thread begins the compaction."""
        if self.compaction is None:
            return {"started": False, "reason": self.refusal or "lightningd has not written anything yet"}
        if self.compaction.running:
            return {"started": False, "reason": "a compaction is already running"}
        if self.damage.known is not None:
            return {"started": False, "reason": self.damage.known.sentence()}
        self.compaction.wanted = True
        return {"started": True}

    def add_member(self, url: str, name: str | None) -> dict[str, Any]:
        """For the RPC method backup-member-add. Called between two calls of the hook. Raises BackupError."""
        writer = self._writer_to_change()
        if self.members is not None:
            return add_by_rpc(self.members, writer, url, name)
        # With another member, the backup is opened again, as one of several.
        before, added = several_of_one(self.directory, url, name)
        end = _end(writer)
        if self.compaction is not None:
            self.compaction.stop(writer)
        writer.close()
        self.writer, self.members, self._session = reopened(self.report, self.directory, before)
        if _end(self.writer) != end:
            self._refuse("the backup ends at another change than a moment ago: somebody else has written to it")
        self.compaction = Compaction(
            self.url, str(self.directory), self.report, self.damage, self.renewal, self.members
        )
        if self.members is None:
            raise BackupError(f"{url} was not added; the node's log says why. The backup goes on as before")
        return added

    def remove_member(self, name: str) -> dict[str, Any]:
        """For the RPC method backup-member-remove. Called between two calls of the hook. Raises BackupError."""
        writer = self._writer_to_change()
        if self.members is None:
            raise BackupError("this backup has one destination, and no node runs without any. Nothing was changed")
        return remove_by_rpc(self.members, writer, name)

    def _writer_to_change(self) -> Writer:
        if self.writer is None or self.refusal is not None:
            raise BackupError(f"{self.refusal or 'lightningd has not written anything yet'}. Nothing was changed")
        return self.writer

    def where(self) -> str:
        """The destination, as a person would name it."""
        if self.members is not None:
            return self.members.mirror.describe()
        return self._place or self.url or "backup.lock"

    def give_up(self, reason: str) -> dict[str, str]:
        """Refuse every call from now on; callable from any thread. Touches no destination, which may hang."""
        if self.refusal is None:
            self._refuse(reason)
        return self._refusal()

    def _refusal(self) -> dict[str, str]:
        return {"result": "fail", "message": f"backup: {self.refusal}"}

    @property
    def commit_timeout(self) -> float:
        """Seconds that the present call may wait for the destination."""
        return self._commit_timeout * self.snapshots.timeout_factor

    @property
    def begins(self) -> SavedEnd | None:
        """Where a new generation begins, for the sync point."""
        return self.snapshots.begins

    @property
    def encrypted(self) -> bool | None:
        """Whether the backup is encrypted; None before it is open."""
        return None if self.writer is None else self.writer.manifest.key is not None

    @property
    def backup_id(self) -> str:
        """The id of the backup that is being written."""
        return self._backup_id

    def close(self) -> None:
        """The node is stopping: end the session cleanly."""
        if self.members is not None:
            self.members.hurry()
        if self.writer is not None:
            if self.compaction is not None:
                self.compaction.stop(self.writer)
            if self.refusal is None:
                record_end(self.directory, self._backup_id, self.writer.position, self._session)
            self.writer.close()
        if self.members is not None:
            self.members.close()
        self.snapshots.close()
        self._lock.release()


def _end(writer: Writer) -> tuple[int, int, int]:
    """Where the log ends, whatever the time is."""
    return writer.position.sequence, writer.position.data_version, writer.position.checksum
