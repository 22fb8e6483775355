"""What this node remembers about the end of its backup, compared with what the destination shows now.

Checksums protect a backup from accidents. Somebody who can write to the destination can replace the backup by an older
state, or add changes, and make every checksum fit. But he cannot change the sync point on the node's side
(`backup.witness`). It says which change was the last one that the node had acknowledged. After a session that has
ended, it says which change was the very last, so that whatever follows was written by somebody else.
"""

from contextlib import closing, suppress
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path

from backends.base import LastWriter, Position
from backends.node.session import known_sessions
from backends.node.sync_point import Fingerprint, OpenSyncPoint, SavedEnd, SyncPoint, read_sync_point


class Memory(Enum):
    """How the end of the log at the destination relates to what the node remembers."""

    AGREES = auto()
    """They agree, or the node remembers nothing about this backup."""
    OLDER = auto()
    """The log ends before a change that this node had acknowledged."""
    REWRITTEN = auto()
    """The log ends with another change than the one that this node wrote there."""
    FOREIGN = auto()
    """The log continues after the last change of this node's last session, and this node has not run since."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """The verdict, and the version of the last change that the node remembers (0 if none)."""

    verdict: Memory
    version: int = 0


NOTHING = Remembered(Memory.AGREES)


def remembered(directory: Path, backup_id: str, end: Position | None, writer: LastWriter | None) -> Remembered:
    """What the network directory `directory` remembers about a backup that ends at `end` (None: damage hides it).

    `writer` is the backup's last writer, by its session marker. If that is another machine, the node has moved there
    (`Identity.TAKEN_OVER`), and a person must decide about the changes that follow. Do not call this for a running
    node: its sync point may be newer than what was read from the destination. Raises nothing.
    """
    note = read_sync_point(directory)
    if note is None or note.backup_id != backup_id or end is None:
        return NOTHING
    sessions = known_sessions(directory, backup_id)
    moved = writer is not None and sessions is not None and writer.session_id not in sessions
    return judge(note, end, sessions[-1] if sessions and not moved else None)


def judge(note: SyncPoint, end: Position, newest_session: str | None) -> Remembered:
    """`remembered` as a pure function. `newest_session` is the id of the last session that this directory has begun."""
    last = last_of(note)
    if note.begins is not None and note.begins.sequence >= last.sequence and _is_at(note.begins, end):
        return Remembered(Memory.AGREES, end.data_version)
    if end.sequence < last.sequence:
        return Remembered(Memory.OLDER, last.data_version)
    if end.sequence == last.sequence:
        return Remembered(Memory.AGREES if _is_at(last, end) else Memory.REWRITTEN, last.data_version)
    over = bool(last.session) and last.session == newest_session
    return Remembered(Memory.FOREIGN if over else Memory.AGREES, last.data_version)


def sync_point_of(
    backup_id: str,
    position: Position,
    seen: Fingerprint | None,
    failure: str | None = None,
    *,
    ended: str | None = None,
    begins: SavedEnd | None = None,
) -> SyncPoint:
    """The sync point saying that the database held the backup's last change when its file looked like `seen`."""
    point = (position.sequence, position.data_version, position.checksum)
    return SyncPoint(backup_id, *point, seen, failure, ended=ended, begins=begins)


def saved_end(position: Position, session: str = "") -> SavedEnd:
    """The end of a log at this position; with a session's id if that session ended there."""
    return SavedEnd(session, position.sequence, position.data_version, position.checksum)


def last_of(note: SyncPoint) -> SavedEnd:
    """The last change that the sync point names. It has a session's id if that session ended with this change."""
    if note.written is not None:
        return note.written
    return SavedEnd(note.ended or "", note.sequence, note.data_version, note.checksum)


def record_beginning(directory: Path, backup_id: str, before: Position, begins: Position) -> SavedEnd:
    """Record durably that a generation beginning at `begins` will be published, after a log that ends at `before`.

    The beginning of a new generation has another checksum than the change before it. A node that was killed right after
    the publication took that for somebody else's work, and told its operator not to restore from it. If it cannot be
    recorded, that false alarm is the only cost: it must not prevent a snapshot. Returns the beginning, which every
    later sync point must contain, too.
    """
    note, new = read_sync_point(directory), saved_end(begins)
    if note is None or note.backup_id != backup_id:
        return new  # it contradicts nothing that is remembered
    written = note.begins if note.begins is not None and _is_at(note.begins, before) else note.written
    with suppress(OSError), closing(OpenSyncPoint(directory)) as file:
        file.write(replace(note, written=written, begins=new))
        file.sync()
    return new


def _is_at(point: SavedEnd, end: Position) -> bool:
    return (point.sequence, point.data_version, point.checksum) == (end.sequence, end.data_version, end.checksum)
