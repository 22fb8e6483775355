"""How a replay fails, and what a person should do next."""

from pathlib import Path

import apsw

from backends.errors import BackupError, Unrestorable
from backends.sqlite.connection import as_backup_error, error_text
from backends.sqlite.functions import FunctionRefused
from backends.sqlite.schema import UnknownObjects

_DO_NEXT = (
    "Do not start a node from it; keep every disk, and if the node's own database is intact, stop the node and run: "
    "backup-cli resync"
)

_NOT_THE_NODES = f"; the backup does not hold what the node did. {_DO_NEXT}"

_ALTERED = (
    "; this backup was altered, or does not come from a node. Do not start a node from it; look for another copy of "
    "the backup"
)


class ReplayFailed(Unrestorable):
    """The backup does not hold what the node did: its snapshot or one of its changes is not what a node makes.

    The message is `what` (what happened, without a full stop) followed by `advice`. `finding` is as in Unrestorable.
    `withheld` is the statement, and anything else that may hold the node's secrets.
    """

    def __init__(self, what: str, finding: str, advice: str = "", withheld: str = "") -> None:
        super().__init__(what + advice, finding)
        self.what, self.withheld = what, withheld


def creates_unknown(data_version: int | None, objects: UnknownObjects) -> ReplayFailed:
    """The error for the change with this data version: `objects` are in the schema after it, some of them new."""
    makes = f"the change with data version {data_version} creates what no lightningd creates"
    return ReplayFailed(f"{makes}: {objects.sentence()}", makes, f". {_DO_NEXT}")


def leads_elsewhere(data_version: int | None, reached: int) -> ReplayFailed:
    """The error for the change with this data version after which the database is at the version `reached`."""
    leads = f"the change with data version {data_version} leads to version {reached}"
    return ReplayFailed(leads, leads, _NOT_THE_NODES)


def fails_check(what: str) -> ReplayFailed:
    """The error for a rebuilt database in which SQLite has found these faults."""
    rebuilt = "the database rebuilt from this backup fails SQLite's integrity check"
    return ReplayFailed(f"{rebuilt}: {what}", rebuilt, f". {_DO_NEXT}")


def unusable(error: apsw.Error, path: Path, *, in_place: bool = False) -> BackupError:
    """The error for a rebuilt database (or the node's own, `in_place`) at `path` that SQLite fails to read."""
    if isinstance(error, FunctionRefused) and not in_place:
        holds = "the database in this backup holds what no node's database does"
        return ReplayFailed(f"{holds} (something that calls the function {error.name})", holds, _ALTERED)
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        snapshot = "the snapshot in this backup is not an intact database"
        return ReplayFailed(f"{snapshot}: {error_text(error)}", snapshot, f". {_DO_NEXT}")
    return as_backup_error(error, path)


class MemoryFailed(BackupError):
    """A change needs more memory than any node's change does, or this machine has run out: nothing can tell which.

    The message is `what` (what happened, without a full stop) followed by `advice`.
    """

    exit_code = 3

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(what + advice)
        self.what = what


class MemoryMissing(MemoryFailed):
    """A change is larger than the memory of this machine allows, and not larger than what a node may write."""

    exit_code = 1
    kind = "memory_missing"


class TooLarge(BackupError):
    """The database grew beyond the size that `Replay.grow_to` allows."""


class OutOfTime(BackupError):
    """The changes could not be executed before the deadline (`until` of a Replay)."""


FOR_A_STATEMENT_BYTE = 6
"""Bytes of memory that the whole process takes per byte of a large statement while it is executed. Measured: 3.5 for a
blob, 4.5 for a text, 5.5 for a text that is in an index."""


def memory_for(statement: int) -> str:
    """For people: the most memory that executing a statement of so many bytes takes."""
    return f"{FOR_A_STATEMENT_BYTE * statement >> 20} MiB"


def memory_missing(statement: int, data_version: int | None) -> MemoryMissing:
    """The error where this machine lacks the memory for a large statement of so many bytes in this change."""
    return MemoryMissing(
        f"the change with data version {data_version} holds a statement of {statement >> 20} MiB, and executing it "
        f"takes up to {memory_for(statement)} of memory, which this machine does not have, or does not allow (ulimit "
        "-v, a container's limit)",
        ". Nothing was made from the backup, which is as it was. Free so much memory, add swap space, or go to a "
        "machine that has so much, then repeat the command. If it fails there, too, the backup was altered, or does "
        "not come from a node: do not start a node from it",
    )
