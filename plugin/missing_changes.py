"""Which changes a database lacks, if that is proven: a pure function of what was found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backends.base import Position
from backends.change import UNKNOWN_DATABASE, ahead, database_fingerprint, previous
from backends.log.reader.last_changes import LastChanges, LoggedChange
from backends.node.memory import Memory, judge, last_of
from backends.node.sync_point import SyncPoint
from backends.sqlite.as_found import AsFound, Unclear
from backends.sqlite.limits import FOR_A_STORED_BYTE
from plugin.at_start import WhyLeft

MAX_SQL = 256 << 20
"""Bytes of SQL in the missing changes together: they are read before the first of them is replayed."""


MAX_SWOLLEN = 16 << 20
"""Bytes of SQL that a change may always have, however few bytes it takes when stored."""


SOON = 30.0
"""Seconds from saving a change within which lightningd has surely written it to its own disk.

A commit of another run, without this plugin, leaves the same header behind as the commit that it replaces. But it comes
later.
"""


def _in_header(change: LoggedChange) -> int:
    return change.header.database


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the decision depends on."""

    found: AsFound | Unclear
    end: LastChanges
    backup_id: str
    expected_id: str
    last_session: str | None
    """The session that wrote to the backup last."""
    sessions: list[str] | None
    """The sessions that this directory has had with the backup."""
    same_directory: bool
    """Whether this directory is the one that these sessions worked in, and not a copy."""
    node_id: str | None
    """The node that the backup belongs to."""
    written: float = 0.0
    """When the database file was last written, in seconds since 1970."""
    begins_empty: bool = False
    """Whether the backup's snapshot is of a node that had never started."""
    note: SyncPoint | None = None
    """This directory's sync point for this backup."""
    database_before: Callable[[LoggedChange], int] = _in_header
    """The fingerprint of the database before a change. Asked for few changes: an encrypted one must be decrypted."""


def missing_changes(facts: Facts) -> Sequence[LoggedChange] | WhyLeft:
    """The changes that the database lacks, if that is proven; empty when it lacks none; else why it is not.

    Raises what `facts.database_before` raises.
    """
    found, end = facts.found, facts.end
    if isinstance(found, Unclear):
        return WhyLeft[found.name]
    version = found.state.data_version or 0
    if version == end.data_version or ahead(version, end.data_version) > 0:
        return ()
    foreign = _why_foreign(facts, found)
    if foreign is not None:
        return foreign
    possible = [
        (number, facts.database_before(change))
        for number, change in enumerate(end.changes)
        if (previous(change.header.data_version) if change.advances else change.header.data_version) == version
    ]
    if not possible:
        return WhyLeft.TOO_FAR
    seen = database_fingerprint(found.header)
    proven = [number for number, database in possible if database == seen != UNKNOWN_DATABASE]
    if not proven:
        unknown = all(database == UNKNOWN_DATABASE for _, database in possible)
        return WhyLeft.NO_FINGERPRINT if unknown else WhyLeft.OTHER_HISTORY
    if not found.header and not (facts.begins_empty and end.whole and proven[-1] == 0):
        return WhyLeft.EMPTY
    if facts.written > end.time + SOON:
        return WhyLeft.TOUCHED
    missing = end.changes[proven[-1] :]
    fits = sum(change.header.size for change in missing) <= MAX_SQL
    return missing if fits and not any(map(_is_swollen, missing)) else WhyLeft.TOO_LARGE


def _is_swollen(change: LoggedChange) -> bool:
    """Whether a few stored bytes would fill the node's memory: no change from lightningd compresses that well."""
    return change.header.size > MAX_SWOLLEN + FOR_A_STORED_BYTE * change.header.length


def _why_foreign(facts: Facts, found: AsFound) -> WhyLeft | None:
    if facts.backup_id != facts.expected_id:
        return WhyLeft.OTHER_BACKUP
    if facts.last_session is None or facts.sessions is None or facts.last_session not in facts.sessions:
        return WhyLeft.OTHER_WRITER
    if not facts.same_directory:
        return WhyLeft.COPIED_DIRECTORY
    if None not in (facts.node_id, found.state.node_id) and facts.node_id != found.state.node_id:
        return WhyLeft.OTHER_NODE
    return None if facts.note is None else _why_disowned(facts.note, facts.end, facts.sessions)


_DISOWNED = {
    Memory.OLDER: WhyLeft.OLDER_BACKUP,
    Memory.REWRITTEN: WhyLeft.REWRITTEN,
    Memory.FOREIGN: WhyLeft.NOT_OURS,
}


def _why_disowned(note: SyncPoint, end: LastChanges, sessions: Sequence[str]) -> WhyLeft | None:
    """Why the log's end may be somebody else's work, which must not get into the node's database; None if it is not."""
    position = Position(end.data_version, end.sequence, end.checksum)
    verdict = judge(note, position, sessions[-1] if sessions else None).verdict
    last = last_of(note)
    if any(
        change.header.sequence == last.sequence and change.header.checksum != last.checksum for change in end.changes
    ):
        return WhyLeft.REWRITTEN
    return _DISOWNED.get(verdict)
