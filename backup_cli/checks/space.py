"""Whether the node's next start will have the space it needs, at the destination and on the node's own disk."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from backends.errors import BackupError, Damaged
from backends.log.backup import Backup
from backends.log.status import Status
from backends.node.directory import database_path
from backends.node.pairing import Identity, NextStart, Pairing, Relation
from backends.sqlite.copy import SPARE
from backends.text import shell_line
from backup_cli.console import size
from backup_cli.findings import Finding, problem, warning
from plugin.foresight import takes_snapshot


def check_space(directory: Path, backup: Backup, seen: Status, pairing: Pairing) -> Iterator[Finding]:
    """Whether the next start would be refused for lack of space.

    A new snapshot is counted with the size of the whole database; it may need less.
    """
    if pairing.identity is not Identity.OURS:
        return
    try:
        snapshot = _snapshot(directory, seen, pairing)
        # What is only kept for its history is given up before a start would be refused.
        needed, free = backup.space_to_open(snapshot), backup.space().free + backup.history_bytes()
        here = shutil.disk_usage(directory).free
    except Damaged:
        return  # reported already, and the start is refused because of it
    except (BackupError, OSError) as error:
        yield warning("destination", f"nobody can tell whether there is enough space for the next start: {error}")
        return
    what = "" if snapshot is None else f", with a new snapshot of the database ({size(snapshot)}) in it"
    if free < needed:
        yield problem(
            "destination",
            f"only {size(free)} are free in {backup.describe()}, and the node's next start takes up to {size(needed)} "
            f"there{what}: it would be refused. Nothing that was saved is lost; free some space there first",
        )
    if snapshot is not None and here < snapshot + SPARE:
        yield problem(
            "disk",
            f"only {size(here)} are free in {directory}, and the node's next start copies its database there "
            f"({size(snapshot)}) for a new snapshot: it would be refused. Free some space there first, or take the "
            "snapshot now, with the copy on another disk: "
            + shell_line("backup-cli", "resync", "--lightning-dir", directory, "--scratch")
            + " DIR",
        )


def _snapshot(directory: Path, seen: Status, pairing: Pairing) -> int | None:
    """The size of the database in bytes if the next start will take a new snapshot of it; else None."""
    if pairing.relation is Relation.RUNNING or pairing.backup.end is None:
        return None  # a running node's plugin has made that decision already
    due = pairing.next_start(lambda: False) is NextStart.SNAPSHOT
    if not due and pairing.relation in (Relation.EQUAL, Relation.NO_VERSION):
        known = seen.known_damage is not None
        due = takes_snapshot(directory, pairing.backup.backup_id, pairing.backup.end, known_damage=known)
    return database_path(directory).stat().st_size if due else None
