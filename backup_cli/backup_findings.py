"""What the backup itself says about the node's protection: backup.lock, the destination, and how far it has come."""

import time
from collections.abc import Iterator
from pathlib import Path

from backends import backend_for
from backends.database.settled import settled
from backends.database.source import Corrupt, inspect
from backends.errors import BackupError
from backends.node.directory import database_path
from backends.node.handover import restore_command
from backends.node.lockfile import Settings, read_settings
from backends.node.running import running_lightningd
from backends.node.witness import read_witness
from backends.older.file import ahead
from backends.status import Status
from backup_cli.console import age
from backup_cli.findings import Finding, ok, problem, warning
from backup_cli.older import refuse_older_lock
from backup_cli.waiting import answered

FRESH = 120.0
"""Seconds by which a running node's database may be newer than the backup: they are written one after the other."""


def look_at_backup(directory: Path) -> Iterator[Finding]:
    """Whether this node's backup is named, there, its own, in order, and where the node stands."""
    try:
        settings = read_settings(directory)
        refuse_older_lock(directory, settings)
    except BackupError as error:
        yield problem("backup.lock", str(error))
        return
    yield ok("backup.lock", f"names {settings.url}")
    yield from _look_at_destination(directory, settings)
    witness = read_witness(directory)
    if witness is not None and witness.failure is not None:
        yield warning(
            "last run", f"it ended with a failure, the next start begins with a new snapshot: {witness.failure}"
        )


def _look_at_destination(directory: Path, settings: Settings) -> Iterator[Finding]:
    try:
        backend = backend_for(settings.url)
        found = answered(settings.url, backend.identify)
        if settings.backup_id not in (None, found):
            yield problem(
                "destination",
                f"{settings.url} holds the backup {found}, and backup.lock expects {settings.backup_id}: it belongs to "
                "another node, or was made anew; put the right one back, or run: backup-cli init",
            )
            return
        seen, advice, closed = backend.status(settings.url), backend.warnings(directory), backend.unwritable()
    except BackupError as error:
        yield problem("destination", str(error))
        return
    except OSError as error:
        yield problem("destination", f"{settings.url} cannot be read: {error.strerror or error}; is it mounted?")
        return
    if seen.known_damage is not None:
        yield problem("destination", f"{seen.known_damage.sentence()}. {_END_KNOWN_DAMAGE}")
    earlier = 0 if seen.known_damage is None else 1  # told first of all
    for trouble in seen.troubles[earlier:]:
        yield problem("destination", trouble) if seen.damaged else warning("destination", trouble)
    if not seen.damaged:
        last = age(time.time() - seen.last_change)
        yield ok("destination", f"answers; it holds version {seen.data_version}, last changed {last} ago")
        yield from _compare(directory, seen)
    if closed is not None:
        yield problem(
            "destination", f"nothing more can be saved there, and the node stops at its next commit: {closed}"
        )
    for line in advice:
        yield warning("disk", line)
    if not advice:
        yield ok("disk", "the destination is not on the node's own disk")


_END_KNOWN_DAMAGE = (
    "A new snapshot of the node's database ends that: a small one is taken at the node's next commit, any other at its "
    "next start. Keep the node's disk, and start it, or restart it with: lightning-cli stop"
)


def _compare(directory: Path, seen: Status) -> Iterator[Finding]:
    """Is the backup as far as the node?"""
    database = database_path(directory)
    if not database.exists() or database.stat().st_size == 0:
        if seen.data_version:
            yield problem(
                "version",
                f"there is no database at {database}, and its backup holds version {seen.data_version}: do not start "
                f"an empty node; bring the database back with: {restore_command(seen.url, directory)}",
            )
        return
    if running_lightningd(directory) is not None:
        # Its database is left in peace; the clock tells enough.
        behind = database.stat().st_mtime - seen.last_change
        if behind > FRESH:
            yield problem(
                "version",
                f"the running node has written to its database {age(behind)} after the last change in the backup, so "
                "it runs without the plugin; restart it: lightning-cli stop",
            )
        return
    try:
        with settled(database) as file:
            version = inspect(file, writable=False).data_version or 0
    except Corrupt:
        yield problem(
            "version",
            f"{database} is damaged: do not start the node. Keep that file and its disk; the newest state is in the "
            f"backup, bring it back with: {restore_command(seen.url, directory, replace=True)}",
        )
        return
    except BackupError as error:
        yield warning("version", str(error))
        return
    back = restore_command(seen.url, directory, replace=True)
    yield _distance(version, ahead(version, seen.data_version), back)


def _distance(version: int, ahead: int, back: str) -> Finding:
    if ahead in (0, -1):
        return ok("version", f"the database is at {version}, as its backup is" if ahead == 0 else _ONE_BEHIND)
    if ahead > 0:
        return warning(
            "version",
            f"the database is {ahead} change(s) ahead of its backup: the node ran without the plugin; its next start "
            "with it takes a new snapshot by itself, or run now: backup-cli resync",
        )
    return problem(
        "version",
        f"the database has lost {-ahead} change(s), or is an old copy: a node that runs from it can lose every "
        f"channel. Bring back the newest state, which keeps this file aside: {back}",
    )


_ONE_BEHIND = (
    "the database lacks the last change, as when lightningd stops in the middle of one; the next start settles it"
)
