"""A member that was asked and says nothing that counts: why, and what can still be told if only its document is lost.

The document `members` is one small file, and it is rewritten at every change of the epoch. When a filesystem loses or
damages it, everything else may be there. Then the session marker and the end of the log tell whether the member can
have gone on without the others, so that a start need not wait for a person.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from backends.base import Position
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.storage.unreachable import reaching


@dataclass(frozen=True, slots=True)
class Left:
    """What a member without its document holds."""

    session: str
    """The node's session that wrote to it last."""
    end: Position


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a member was not seen, as a clause. `left` is set if only its document is lost."""

    why: str
    left: Left | None = None


def missing_members(why: Mapping[str, str], left: Mapping[str, Left]) -> dict[str, Missing]:
    """The members that were not seen, by their names: the clauses that say why, and what is left of some."""
    return {name: Missing(clause, left.get(name)) for name, clause in why.items()}


def left_at(backup: Backup, backup_id: str | None) -> Left | None:
    """What this member, whose document is lost, still holds; None if that is not a whole state of the wanted backup, or
    if none is wanted."""
    with suppress(BackupError, OSError), reaching(backup.storage):
        facts = backup.look()
        session = facts.session
        if facts.backup_id == backup_id and session is not None and session.session_id:
            return Left(session.session_id, facts.end)
    return None
