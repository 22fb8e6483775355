"""What this node itself remembers of how far its backup had come, held against what the destination shows now.

Checksums protect a backup from accidents. Whoever can write to the destination can put an older state in its place, or
add changes, and make every checksum fit. He cannot change the note on the node's side (`backup.witness`). It says which
change was the last one that the node had acknowledged; after a session that has ended it says which one was the last
of all, so that whatever follows it was written by somebody else.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path

from backends.base import LastWriter, Position
from backends.node.session import known_sessions
from backends.node.sync_point import OpenSyncPoint, SavedEnd, SyncPoint, read_sync_point


class Memory(Enum):
    """How the destination's end of the log stands to what the node remembers."""

    AGREES = auto()
    """Also where the node remembers nothing of this backup."""
    OLDER = auto()
    """It ends before a change that this node had acknowledged."""
    REWRITTEN = auto()
    """It ends with another change than this node has written there."""
    FOREIGN = auto()
    """It goes on after the last change of this node's last session, and this node has not run since."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """The verdict, and the version of the last change that the node remembers."""

    verdict: Memory
    version: int = 0


NOTHING = Remembered(Memory.AGREES)


def remembered(directory: Path, backup_id: str, end: Position | None, writer: LastWriter | None) -> Remembered:
    """What the network directory `directory` says of a backup that ends there (None: damage hides it).

    `writer` is who wrote it last by its own marker. If that is another machine, the backup goes on because the node has
    moved there (`Identity.TAKEN_OVER`): what follows then is a person's to decide.
    Not while the node runs: the note may be newer than what was read of the destination. Raises nothing.
    """
    note = read_sync_point(directory)
    if note is None or note.backup_id != backup_id or end is None:
        return NOTHING
    sessions = known_sessions(directory, backup_id)
    moved = writer is not None and sessions is not None and writer.session_id not in sessions
    return judge(note, end, sessions[-1] if sessions and not moved else None)


def judge(note: SyncPoint, end: Position, newest_session: str | None) -> Remembered:
    """The same as a pure function. `newest_session` is the id of the last session that this directory has begun."""
    last = last_of(note)
    if note.begins is not None and note.begins.sequence >= last.sequence and _is_at(note.begins, end):
        return Remembered(Memory.AGREES, end.data_version)
    if end.sequence < last.sequence:
        return Remembered(Memory.OLDER, last.data_version)
    if end.sequence == last.sequence:
        return Remembered(Memory.AGREES if _is_at(last, end) else Memory.REWRITTEN, last.data_version)
    over = bool(last.session) and last.session == newest_session
    return Remembered(Memory.FOREIGN if over else Memory.AGREES, last.data_version)


def last_of(note: SyncPoint) -> SavedEnd:
    """The last change that it tells of. With a session when that has ended with it."""
    if note.written is not None:
        return note.written
    return SavedEnd(note.ended or "", note.sequence, note.data_version, note.checksum)


def record_beginning(directory: Path, backup_id: str, before: Position, begins: Position) -> SavedEnd:
    """Note durably that a generation which begins at `begins` is about to be published, after a log that ends `before`.

    A new generation gives its beginning another checksum than the change before it has. A node that was killed right
    after the publication called that the work of somebody else, and told its operator not to restore from it.
    Where it cannot be noted, that false alarm is all that it costs: it must not keep a snapshot from being taken.
    Returns what any later note has to say of it, too.
    """
    note, new = read_sync_point(directory), SavedEnd("", begins.sequence, begins.data_version, begins.checksum)
    if note is None or note.backup_id != backup_id:
        return new  # nothing is remembered that it could contradict
    written = note.begins if note.begins is not None and _is_at(note.begins, before) else note.written
    with suppress(OSError):
        file = OpenSyncPoint(directory)
        try:
            file.write(replace(note, written=written, begins=new))
            file.sync()
        finally:
            file.close()
    return new


def _is_at(point: SavedEnd, end: Position) -> bool:
    return (point.sequence, point.data_version, point.checksum) == (end.sequence, end.data_version, end.checksum)
