"""What does this call mean? A pure function of where the backup ends and what the call says.

Facts about lightningd (v26.06), seen on real nodes:
- A call that ends with the bump was made while the database was at one version less; a lone PRAGMA while it was at the
  version that the call carries. So an equal version does *not* mean that the change before was not committed.
- If lightningd dies between the hook's answer and its commit, the backup holds one change that the database lacks; a
  power cut on its machine undoes one or two commits. If it could be proven, either was fixed before lightningd opened
  the database (plugin/roll_forward.py); a database that is still behind is refused.
"""

from dataclasses import dataclass
from enum import Enum, auto

from backends.base import Position
from backends.change import Change, ahead, bumped_from, foreign_keys_setting
from backends.sqlite.authorizer import never_replayed
from backends.sqlite.statement_outline import outline
from backends.text import counted
from plugin.at_start import WhyLeft


class Do(Enum):
    """What to do about a call, before its change is appended."""

    APPEND = auto()
    SNAPSHOT = auto()  # first begin a new generation from the database
    REFUSE = auto()


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why, in words for the node's log."""

    do: Do
    why: str = ""
    restore: bool = False
    """Of a refusal: whether the newest state must be restored from the backup. `why` does not say how."""


_APPEND = Decision(Do.APPEND)


def decide(position: Position, change: Change, doubt: str | None, left: WhyLeft | None = None) -> Decision:
    """What `change` means for a backup that ends at `position`.

    `left` says why a database that is behind was not brought forward. `doubt` says why the database may not hold what
    the backup holds although their versions agree. It is None when they are known to be equal: in later calls of a
    session, or if nobody has touched the database file since.
    """
    unreadable = _why_unreplayable(change) if change.advances else _why_unreadable(change)
    if unreadable is not None:
        return Decision(Do.REFUSE, unreadable)
    database = change.database_stood_at
    away = ahead(database, position.data_version)
    if away == 0:
        return _APPEND if doubt is None else Decision(Do.SNAPSHOT, doubt)
    if away > 0:
        return Decision(Do.SNAPSHOT, f"the database is {away} ahead: changes were made without this plugin")
    why_left = "" if left is None else f" It was not brought forward, because {left.words}."
    return Decision(
        Do.REFUSE,
        f"the database is at version {database} and its backup at {position.data_version}: the database has lost "
        f"{counted(-away, 'change')}, or is an old copy.{why_left} A node that runs from it can lose every channel. "
        "Nothing was changed.",
        restore=True,
    )


def _why_unreplayable(change: Change) -> str | None:
    """Why a restore would refuse this change, which must then not be acknowledged; None if it would not."""
    unknown = never_replayed(change.statements)
    if unknown is None:
        return None
    return (
        f"lightningd sent a statement that this release does not know ({outline(unknown)}), so a restore would fail. "
        "Nothing was saved and nothing committed; update lightningd-backup"
    )


def _why_unreadable(change: Change) -> str | None:
    if not change.statements:
        return (
            "lightningd sent a change without statements, as it does with a PostgreSQL database, which this plugin "
            "cannot back up. Remove it from the configuration and protect PostgreSQL by its own means"
        )
    last = change.statements[-1]
    if bumped_from(last) is not None:
        return (
            f"lightningd sent version {change.data_version} with a statement that leads to another one ({last[:120]}). "
            "Nothing was saved and nothing committed; report this with your lightningd version"
        )
    lone_pragma = len(change.statements) == 1 and last.lstrip().upper().startswith("PRAGMA")
    if lone_pragma and foreign_keys_setting(change.statements) is None:
        return (
            f"lightningd sent a PRAGMA that this release does not know ({last[:120]}), so a restore might go wrong. "
            "Nothing was saved and nothing committed; update lightningd-backup"
        )
    return _why_unreplayable(change)
