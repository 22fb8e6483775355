"""What the backup shows about the node's protection: backup.lock, the destination, and whether it holds the newest
change."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from backends import backup_at
from backends.errors import BackupError
from backends.log.backup import Backup
from backends.log.status import Status, TroubleKind
from backends.members.where import place_warnings
from backends.node.directory import database_path
from backends.node.lockfile import Settings, read_settings
from backends.node.pairing import BackupEnd, Identity, NextStart, NodeDatabase, Pairing, Relation
from backends.node.present import end_of_backup, inspect_node, pair_at
from backends.node.sync_point import read_sync_point
from backends.urls import names_a_mount
from backup_cli.checks.key import check_key
from backup_cli.checks.members import OF_MEMBERS, check_members
from backup_cli.checks.space import check_space
from backup_cli.console import age, ago
from backup_cli.findings import Finding, ok, problem, warning
from backup_cli.legacy import refuse_legacy_lock
from backup_cli.old_age import doubt_of
from backup_cli.pairing_text import finding
from backup_cli.seen_members import own_members
from backup_cli.waiting import answered
from plugin.foresight import brings_forward, why_no_start

NOTHING_MORE = "nothing more can be saved there, and the node stops at its next commit"

FRESH = 120.0
"""Seconds by which a running node's database may be newer than the backup: they are written one after the other."""


def check_backup(directory: Path) -> Iterator[Finding]:
    """Whether this node's backup is configured, reachable, its own and undamaged, and how the database compares."""
    try:
        settings = read_settings(directory)
        refuse_legacy_lock(directory, settings)
    except BackupError as error:
        yield problem("backup.lock", str(error))
        return
    yield ok("backup.lock", f"names {' and '.join(settings.urls)}")
    yield from check_key(directory, settings)
    check = _check_several if settings.members else _check_destination
    yield from check(directory, settings)
    sync_point = read_sync_point(directory)
    if sync_point is not None and sync_point.failure is not None:
        yield warning(
            "last run",
            f"it ended with a failure, so the next start begins with a new snapshot: {sync_point.failure}",
        )


def _check_destination(directory: Path, settings: Settings) -> Iterator[Finding]:
    try:
        backup = backup_at(settings.url)
        found = answered(settings.url, backup.id)
        database = inspect_node(directory)
        if settings.backup_id not in (None, found):
            end = BackupEnd(found, None, 0, False, False, 0, None)  # another backup's content does not matter here
            yield finding(pair_at(directory, settings, end, database), settings.url, directory, _no_proof)
            return
        seen, advice, closed = (
            backup.status(settings.url),
            place_warnings(settings.url, backup.place, directory),
            backup.place.why_unwritable(),
        )
        pairing = pair_at(directory, settings, end_of_backup(backup, settings.url, seen), database)
    except BackupError as error:
        yield problem("destination", str(error))
        return
    except OSError as error:
        yield problem("destination", _unreadable(settings.url, error))
        return
    yield from _check_log(directory, settings, backup, seen, pairing)
    yield from _check_schema(database)
    if closed is not None:
        yield problem("destination", f"{NOTHING_MORE}: {closed}")
    for line in advice:
        yield warning("disk", line)
    if not advice and closed is None:
        yield ok("disk", "the destination is not on the node's own disk")


def _check_several(directory: Path, settings: Settings) -> Iterator[Finding]:
    """The same for a backup with several members. Each has a line of its own; what is in the log is checked once."""
    try:
        several = own_members(directory, settings)
        database, backup = inspect_node(directory), several.backup
        seen = replace(
            several.status, troubles=tuple(each for each in several.status.troubles if each.kind not in OF_MEMBERS)
        )
        pairing = pair_at(directory, settings, end_of_backup(backup, settings.url, seen), database)
    except BackupError as error:
        yield problem("destination", " ".join([str(error), "; ".join(error.listed)]).strip())
        return
    except OSError as error:
        yield problem("destination", _unreadable(settings.url, error))
        return
    yield from _check_log(directory, settings, backup, seen, pairing)
    yield from _check_schema(database)
    yield from check_members(several, directory)
    refused = None
    if pairing.relation is not Relation.RUNNING:
        behind = pairing.relation is Relation.BEHIND
        refused = why_no_start(directory, settings, backup, several.found.survey, behind=behind)
    if refused is not None:
        yield problem("next start", f"the node would not start now: {refused}")


def _unreadable(url: str, error: OSError) -> str:
    asked = "; is it mounted?" if names_a_mount(url) else ""
    return f"{url} cannot be read: {error.strerror or error}{asked}"


def _check_log(
    directory: Path, settings: Settings, backup: Backup, seen: Status, pairing: Pairing
) -> Iterator[Finding]:
    """What the log shows: damage, its age, whether it holds the node's newest change, and space for the next start."""
    if seen.known_damage is not None:
        refused = pairing.next_start(lambda: brings_forward(directory, backup)) is NextStart.REFUSE
        remedy = _NO_START if refused else _END_KNOWN_DAMAGE
        yield problem("destination", f"{seen.known_damage.sentence()}. {remedy}")
    yield from _check_troubles(seen)
    if not seen.damaged:
        last = ago(seen.last_change)
        yield ok("destination", f"answers; it holds version {seen.data_version}, last changed {last}")
    yield from _check_age(backup, seen, pairing)
    yield from _compare(directory, settings.url, backup, pairing)
    yield from check_space(directory, backup, seen, pairing)


def _check_troubles(seen: Status) -> Iterator[Finding]:
    """The backup's troubles, except known damage, which `_check_destination` reports with its remedy."""
    for trouble in seen.troubles:
        if trouble.kind is not TroubleKind.KNOWN_DAMAGE:
            found = problem if seen.damaged else warning
            yield found("destination", trouble.sentence)


def _check_age(backup: Backup, seen: Status, pairing: Pairing) -> Iterator[Finding]:
    """Warn of an old last change; not while the node runs, since its own database then tells more than a clock."""
    if pairing.relation is not Relation.RUNNING and not seen.damaged:
        old = doubt_of(backup, seen.last_change)
        if old is not None:
            yield warning("destination", old)


def _check_schema(database: NodeDatabase) -> Iterator[Finding]:
    if database.unknown_objects:
        yield warning(
            "schema",
            f"the database holds objects that no lightningd makes: {database.unknown_objects}. restore and verify "
            "refuse them unless given --accept-schema; if you did not add them, somebody else has changed the database",
        )


_END_KNOWN_DAMAGE = (
    "A new snapshot of the node's database repairs that: it is made by itself, "
    "beside the running node if the database is large; its log says when it is complete. Keep the node's disk, and "
    "start the node if it does not run"
)


_NO_START = (
    "A new snapshot of the node's database would repair that, but the next start takes none: see `version` below"
)


def _no_proof() -> bool:
    return False


def _compare(directory: Path, url: str, backup: Backup, pairing: Pairing) -> Iterator[Finding]:
    """Whether the backup belongs to the node, and holds the node's newest change."""
    path = database_path(directory)
    if pairing.relation is not Relation.RUNNING:
        yield finding(pairing, url, directory, lambda: brings_forward(directory, backup))
        return
    if pairing.identity is not Identity.OURS:
        yield finding(pairing, url, directory, _no_proof)
        return
    # The node runs, so its database is not opened; the time of its last change tells enough.
    with suppress(OSError):
        behind = path.stat().st_mtime - pairing.backup.last_change
        if behind > FRESH:
            yield problem(
                "version",
                f"the running node has written to its database {age(behind)} after the last change in the backup, so "
                "it runs without the plugin; restart it: lightning-cli stop",
            )
