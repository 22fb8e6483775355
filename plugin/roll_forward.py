"""A database that a crash or a power cut has set back is brought forward by the changes that its backup holds.

lightningd commits a change after the plugin has saved it, and a power cut can undo a commit that had returned. So the
backup is one or two changes ahead, and peers may have been told of them. Replaying these changes is right in both
cases: the result is the state that the node had, or that it would have had a moment later, before it told anybody. That
also holds for a change of which the last run could not say whether it was saved: it was never committed, and a restore
would contain it.

It is done only with evidence: the file must look as the log says it looked before the change that comes next. Known
damage in the backup is no reason against it: what was found is elsewhere, or a missing change cannot be replayed here
either, and the database is left where it was. The node's first call then makes the backup whole from the database.
"""

import errno
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import apsw

from backends.base import Position
from backends.change import foreign_keys_setting
from backends.errors import BackupError, Damaged
from backends.log.backup import Backup
from backends.log.known_damage import read_damage
from backends.log.reader.last_changes import LastChanges, LoggedChange, database_before, read_end, statements_of
from backends.node.directory import database_path
from backends.node.files import sync_directory
from backends.node.key_file import load_key
from backends.node.lockfile import Settings
from backends.node.memory import sync_point_of
from backends.node.session import known_sessions, were_here
from backends.node.sync_point import fingerprint, look, read_sync_point, write_sync_point
from backends.node.wallet import wallet_elsewhere
from backends.sqlite.as_found import AsFound, Unclear, as_found
from backends.sqlite.connection import Busy, sync
from backends.sqlite.replay import Replay
from backends.sqlite.replay_errors import MemoryFailed, OutOfTime, ReplayFailed
from backends.text import counted
from plugin.alone import ALONE_WITHIN, lock_in_time, why_not_alone
from plugin.at_start import Start, WhyLeft
from plugin.destination import destination_of
from plugin.doubt import why_doubted
from plugin.early_copy import copy_early, is_large
from plugin.last_found import LastFound, forget_found, last_found, leads_to
from plugin.missing_changes import Facts, missing_changes
from plugin.node_key import KEY_ERRORS

READ_WITHIN = 25.0
"""Seconds for reading the end of the backup."""

DONE_WITHIN = 50.0
"""Seconds for the whole roll-forward: lightningd waits 60 for the manifest."""


@dataclass(frozen=True, slots=True)
class Read:
    """What the backup says about the database."""

    backup_id: str
    end: LastChanges
    missing: Sequence[LoggedChange] | WhyLeft
    statements: list[Sequence[str]]
    known_damage: bool
    """Whether anything is known to be wrong, be it a doubt: then the first call begins with a new snapshot."""


def catch_up(directory: Path, settings: Settings) -> Start:
    """Bring the database in this network directory forward, if that is due and proven."""
    began = time.monotonic()
    with ExitStack() as held:
        # First: until the lock is held, another writer may add changes that the database lacks.
        locked = lock_in_time(directory, held, began + ALONE_WITHIN)
        return _catch_up(directory, settings, began, locked)


def _catch_up(directory: Path, settings: Settings, began: float, locked: WhyLeft | None) -> Start:
    found = _found_in_time(database_path(directory), began + ALONE_WITHIN)
    noted = last_found(directory, found)
    try:
        # This may hang, even beyond the manifest: so it must not touch the database.
        read = _within(READ_WITHIN, lambda: _read_backup_of(directory, settings, found, noted))
    except (BackupError, OSError) as error:
        return Start(look(directory), _why_unread(error))
    if read is None:
        return Start(look(directory), WhyLeft.LATE)
    start = Start(None)
    if isinstance(read.missing, WhyLeft):
        start.left = read.missing
    elif read.missing and isinstance(found, AsFound):
        start.left = locked or _why_not_the_nodes(directory) or why_not_alone(directory, began + ALONE_WITHIN)
        _bring_forward(directory, found, noted, read, start, began + DONE_WITHIN)
    start.seen = look(directory)
    if isinstance(found, AsFound) and start.left is None and _begins_anew(directory, found, read, start):
        start.state = found.state
        small = start.seen is not None and not is_large(start.seen.size)
        if small and why_not_alone(directory, began + ALONE_WITHIN) is None:
            start.copy = copy_early(directory, began + DONE_WITHIN)
    return start


def _read_backup_of(directory: Path, settings: Settings, found: AsFound | Unclear, noted: LastFound | None) -> Read:
    load_key(directory)
    return read_backup(directory, destination_of(directory, settings).backup, settings.backup_id, found, noted)


def _why_unread(error: BackupError | OSError) -> WhyLeft:
    """Why the end of the backup could not be read."""
    if isinstance(error, Damaged):
        return WhyLeft.BACKUP_DAMAGED
    return WhyLeft.NO_KEY if isinstance(error, KEY_ERRORS) else WhyLeft.UNREACHABLE


def _why_not_the_nodes(directory: Path) -> WhyLeft | None:
    return None if wallet_elsewhere(directory) is None else WhyLeft.OTHER_DATABASE


def _found_in_time(database: Path, until: float) -> AsFound | Unclear:
    """`as_found`, after giving a process that reads or writes the database, perhaps to copy it, time to finish."""
    while (found := as_found(database)) is Unclear.LOCKED and time.monotonic() < until:
        time.sleep(0.1)
    return found


def _begins_anew(directory: Path, found: AsFound, read: Read, start: Start) -> bool:
    """Whether the first call will find that the backup needs a new snapshot of the database."""
    if start.seen is None:
        return False
    end, version = read.end, found.state.data_version or 0
    position = Position(end.data_version, end.sequence, end.checksum)
    is_ahead = not read.missing and version != end.data_version
    return is_ahead or read.known_damage or why_doubted(directory, start.seen, read.backup_id, position) is not None


def read_backup(
    directory: Path, backup: Backup, expected: str | None, found: AsFound | Unclear, noted: LastFound | None
) -> Read:
    """What the backup says about a database in the state `found`. Only reads. Raises BackupError or OSError."""
    note = read_sync_point(directory)  # before the backup, which may be growing
    with backup.read() as reader:
        last = None if reader.session is None else reader.session.last_writer
        damage = read_damage(backup.storage, reader.manifest.generation)
        backup_id = reader.manifest.backup_id.hex()
        facts = Facts(
            found=found,
            end=read_end(reader),
            backup_id=backup_id,
            expected_id=expected or backup_id,  # the older plugin's backup.lock names none
            last_session=None if last is None else last.session_id,
            sessions=known_sessions(directory, backup_id),
            same_directory=were_here(directory, backup_id),
            node_id=reader.node_id,
            note=note if note is not None and note.backup_id == backup_id else None,
            written=0.0 if noted is None else noted.written,
            begins_empty=_is_empty(found) and next(iter(reader.snapshot), None) is None,
            database_before=partial(database_before, reader),
        )
        missing = missing_changes(facts)
        statements = [] if isinstance(missing, WhyLeft) else list(statements_of(reader, missing))
        return Read(facts.expected_id, facts.end, missing, statements, damage is not None)


def _is_empty(found: AsFound | Unclear) -> bool:
    return isinstance(found, AsFound) and not found.header


def _bring_forward(
    directory: Path,
    found: AsFound,
    noted: LastFound | None,
    read: Read,
    start: Start,
    until: float,
) -> None:
    """Replay the missing changes, and record the result in `start`."""
    assert not isinstance(read.missing, WhyLeft)
    version, end = found.state.data_version or 0, read.end
    behind = f"{counted(sum(change.advances for change in read.missing), 'change')} behind its backup"
    try:
        if start.left is None:
            if noted is not None:
                leads_to(directory, noted, [change.header.data_version for change in read.missing])
            start.left = _replay(directory, found, read, until)
        if start.left is None:
            _note(directory, read.backup_id, Position(end.data_version, end.sequence, end.checksum))
            forget_found(directory)
    except (BackupError, OSError) as error:
        start.left = _why_failed(error)
    if start.left is None:
        start.lines.append((
            "unusual",
            f"the database was {behind} at version {version}: lightningd stopped before it committed, or a power cut "
            "undid what it had committed. Its file looks as it did before these changes, and they were replayed: it is "
            f"now at version {end.data_version}, like the backup",
        ))  # fmt: skip
    else:
        start.lines.append((
            "unusual",
            f"the database is {behind} (version {version}, not {end.data_version}) and could not be brought forward, "
            f"because {start.left.value}",
        ))  # fmt: skip


def _replay(directory: Path, found: AsFound, read: Read, until: float) -> WhyLeft | None:
    """None when the database durably holds all changes; otherwise it holds an earlier state of the same history."""
    assert not isinstance(read.missing, WhyLeft)
    database = database_path(directory).resolve()
    with Replay(database, in_place=True, until=until) as replay:
        if not replay.begins_with(found.header):
            return WhyLeft.IN_USE
        for change, statements in zip(read.missing, read.statements, strict=True):
            if foreign_keys_setting(statements) is None:
                replay.foreign_keys = change.foreign_keys
                replay.execute(statements, change.header.data_version)
    sync(database)
    sync_directory(database.parent)
    after = as_found(database)
    if isinstance(after, Unclear) or (after.state.data_version or 0) != read.end.data_version:
        return WhyLeft.CHANGE_FAILED
    return None


def _note(directory: Path, backup_id: str, position: Position) -> None:
    """Record that the database is known to hold what the backup holds. A failure of the last run is kept."""
    before = read_sync_point(directory)
    failure = before.failure if before is not None and before.backup_id == backup_id else None
    seen = fingerprint(database_path(directory))
    write_sync_point(directory, sync_point_of(backup_id, position, seen, failure))


def _why_failed(error: BackupError | OSError) -> WhyLeft:
    if isinstance(error, OutOfTime):
        return WhyLeft.NO_TIME
    if isinstance(error, ReplayFailed | MemoryFailed):
        return WhyLeft.CHANGE_FAILED
    if isinstance(error, Busy):
        return WhyLeft.IN_USE
    if isinstance(error, PermissionError) or isinstance(error.__cause__, apsw.ReadOnlyError | apsw.CantOpenError):
        return WhyLeft.READ_ONLY
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or isinstance(error.__cause__, apsw.FullError):
        return WhyLeft.DISK_FULL
    return WhyLeft.DISK_FAILED


_T = TypeVar("_T")


def _within(seconds: float, work: Callable[[], _T]) -> _T | None:
    """What `work` returns, or None if it is not done in time: it then goes on in its thread. Raises what it raises."""
    done: list[_T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="roll-forward", daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    return done[0] if done else None
