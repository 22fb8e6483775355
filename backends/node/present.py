"""How a node's database and its backup relate now: the facts for `pairing`, read without changing anything."""

from pathlib import Path

from backends.base import Position
from backends.errors import BackupError, Damaged
from backends.log.backup import Backup
from backends.log.reader.newest import newest_saved
from backends.log.status import Status
from backends.node.copied import may_have_gone_its_own_way
from backends.node.directory import database_path
from backends.node.lockfile import Settings
from backends.node.memory import NOTHING, remembered
from backends.node.pairing import BackupEnd, Found, NodeDatabase, Pairing, pair
from backends.node.running import running_lightningd
from backends.node.session import known_sessions
from backends.node.sync_point import look
from backends.sqlite.recovered_copy import recovered_copy
from backends.sqlite.source import Corrupt, inspect

IN_USE = NodeDatabase(Found.IN_USE)


def inspect_database(path: Path) -> NodeDatabase:
    """What is at `path`. No process may have it open, not even this one. Raises nothing, changes nothing."""
    try:
        if path.is_symlink() and not path.exists():
            return NodeDatabase(
                Found.UNREADABLE,
                why=f"{path} is a link to {path.readlink()}, and nothing is there: is that disk mounted?",
            )
        if not path.exists() or path.stat().st_size == 0:
            return NodeDatabase(Found.NOTHING)
        with recovered_copy(path) as file:
            state = inspect(file, writable=False)
    except Corrupt:
        return NodeDatabase(Found.CORRUPT, why=f"the database {path} is damaged")
    except BackupError as error:
        return NodeDatabase(Found.UNREADABLE, why=str(error))
    except OSError as error:
        return NodeDatabase(Found.UNREADABLE, why=f"{path} cannot be read: {error.strerror or error}")
    if state.empty:
        return NodeDatabase(Found.NOTHING)
    if not state.is_lightningd:
        return NodeDatabase(Found.UNREADABLE, why=f"{path} is not a database of lightningd (its tables are missing)")
    if state.data_version is None:
        return NodeDatabase(Found.NO_VERSION, None, state.node_id, unknown_objects=state.unknown_objects.sentence())
    return NodeDatabase(
        Found.VERSION, state.data_version, state.node_id, unknown_objects=state.unknown_objects.sentence()
    )


def inspect_node(directory: Path) -> NodeDatabase:
    """The database of the node in this network directory, unless a lightningd uses it. Raises nothing."""
    return IN_USE if running_lightningd(directory) is not None else inspect_database(database_path(directory))


def end_of_backup(backup: Backup, url: str, seen: Status | None = None) -> BackupEnd:
    """Where the backup ends, damaged or not. `seen` is its status, if the caller has it.

    Raises BackupError when nothing in the backup even tells its id.
    """
    backup_id = backup.id()
    try:
        seen = seen or backup.status(url)
    except Damaged:  # a whole file is missing
        version = _newest(backup, 0)
        return BackupEnd(backup_id, backup.node_id(), version, False, True, 0, backup.last_writer())
    version = _newest(backup, seen.data_version) if seen.damaged else seen.data_version
    empty = False
    if version == 0 and seen.records == 0 and not seen.damaged:
        with backup.read() as reader:
            empty = next(iter(reader.snapshot), None) is None
    writer = backup.last_writer()
    return BackupEnd(
        *(backup_id, seen.node_id, version, empty, seen.damaged, seen.last_change, writer, _end(backup)),
        known=seen.known_damage,
    )


def _end(backup: Backup) -> Position | None:
    try:
        return backup.end()
    except Damaged:
        return None


def _newest(backup: Backup, reached: int) -> int:
    return newest_saved(backup.storage, reached)


def pair_at(directory: Path, settings: Settings | None, backup: BackupEnd, database: NodeDatabase) -> Pairing:
    """How the database in this directory and `backup` relate to each other."""
    expected = None if settings is None else settings.backup_id
    known = known_sessions(directory, backup.backup_id)
    memory = NOTHING
    if database.found is not Found.IN_USE:  # a running node's sync point is newer than what was read from its backup
        memory = remembered(directory, backup.backup_id, backup.end, backup.writer)
    return pair(database, backup, expected, known, copied=_copied(directory, backup, database), memory=memory)


def _copied(directory: Path, backup: BackupEnd, database: NodeDatabase) -> bool:
    if database.found is Found.IN_USE:  # its plugin has decided, and its database must not be opened
        return False
    return may_have_gone_its_own_way(directory, backup.backup_id, backup.writer, backup.end, look(directory))
