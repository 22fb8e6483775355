"""The newest state is never given up silently: each command compares versions first, and discards a newer state only if
the user has typed its version out."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

from backends import backup_at
from backends.change import VERSIONS, ahead
from backends.errors import BackupError
from backends.legacy import LegacyBackup, legacy_backup_at
from backends.node.directory import database_path
from backends.node.lockfile import LOCK_FILE, Settings, read_settings
from backends.node.pairing import BackupEnd, Found, Identity, NodeDatabase, Relation, pair
from backends.node.present import end_of_backup, pair_at
from backends.node.sync_point import look, read_sync_point
from backends.text import shell_line
from backends.urls import names_a_mount
from backup_cli.console import age, warn
from backup_cli.pairing_text import TWO_NODES, why_copied
from backup_cli.seen_members import newest_url
from backup_cli.waiting import answered

UNKNOWN = "unknown"
"""What the user types instead of a version that nobody can tell."""

_MAX_DIGITS = 20
"""The most digits of a version that is typed; `int` raises for thousands."""

RECENT = 3600.0
"""A database whose last change is at most this many seconds old is believed to be the one that the node just ran from.
"""


def _versions(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    for value in values:
        number = value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS and int(value) < VERSIONS
        if value != UNKNOWN and not number:
            raise click.BadParameter(f"{value!r} is neither a version (a number) nor the word {UNKNOWN}")
    return tuple(value if value == UNKNOWN else str(int(value)) for value in values)


discard_newer = click.option(
    "--discard-newer",
    "consent",
    metavar="VERSION",
    multiple=True,
    callback=_versions,
    help="Give up the newer state of this version (it is kept aside); only when the command asks for it.",
)


class WouldDiscard(BackupError):
    """Going on would replace a state by an older one, or by one that cannot be compared with it."""


@dataclass(frozen=True, slots=True)
class State:
    """What would be given up: what a sentence calls it, and its version; None when nobody can tell the version."""

    what: str
    version: int | None


def demand_consent(why: str, lost: State, advice: str, consent: Sequence[str]) -> None:
    """Raise WouldDiscard unless exactly the version of `lost` was typed out, and is in `consent`.

    `why` names both versions and says why going on is dangerous; `advice` says what to do instead.
    """
    wanted = UNKNOWN if lost.version is None else str(lost.version)
    if wanted in consent:
        warn(f"{why}; because of --discard-newer {wanted}, {lost.what} is given up, and kept aside")
        return
    mistaken = "" if not consent else f"--discard-newer {' '.join(consent)} does not name what would be given up: "
    raise WouldDiscard(
        f"{mistaken}{why}. Nothing was changed. {advice}. Only if you know that it must be given up, add "
        f"--discard-newer {wanted} (it is kept aside anyway)"
    )


# What a node's directory knows about the backup that its backup.lock names


def demand_newest(
    directory: Path, kept: NodeDatabase, what: str, consent: Sequence[str], *, restored: str | None = None
) -> None:
    """Raise WouldDiscard if the backup that this directory's backup.lock names holds, or may hold, a newer state than
    `kept`, unless the user has consented.

    `what` is `kept` in words. `restored` is the id of the backup from which `kept` was restored; None if `kept` is the
    node's own database.
    """
    settings = None
    with suppress(BackupError):  # missing or invalid: then it names nothing to compare with
        settings = read_settings(directory)
    if settings is None:
        return
    if settings.backup_id is None:
        _compare_with_legacy(directory, settings, kept, what, consent)
        return
    end, missing = _end_of(settings)
    if end is None:
        _compare_with_note(directory, settings, kept, what, consent, missing, restored)
        return
    own = restored is None
    pairing = pair_at(directory, settings, end, kept) if own else pair(kept, end, settings.backup_id, None)
    if pairing.identity is Identity.OTHER_NODE:
        if not own:
            _demand_other_node(directory, settings, end, what, consent)
        return
    if pairing.database_surely_newest:
        return
    lost = State(f"the state in the backup at {settings.url}", end.version)
    if pairing.identity is Identity.TAKEN_OVER and end.writer is not None:
        demand_consent(
            f"{what}, and {settings.url}, which {LOCK_FILE} names, is at version {end.version} and was last written by "
            f"another node ({end.writer.host})",
            lost,
            f"If that one is in use, never start this one again: {TWO_NODES}",
            consent,
        )
    elif pairing.copied and pairing.relation is not Relation.BEHIND:
        demand_consent(
            f"{what}, and {settings.url}, which {LOCK_FILE} names, is at version {end.version}; {why_copied(pairing)}",
            lost,
            f"If that one is in use, never start this one: {TWO_NODES}",
            consent,
        )
    elif pairing.relation is Relation.NO_VERSION:
        demand_consent(
            f"{what}, and neither does {settings.url}, which {LOCK_FILE} names: nobody can tell which is newer",
            State(lost.what, None),
            "Find out which of them the node last ran with",
            consent,
        )
    else:
        demand_consent(
            f"{what}, and {settings.url}, which {LOCK_FILE} names, is at version {end.version}: that is the newer "
            "state, and a node that runs from an older one can lose every channel",
            lost,
            "Keep the database aside, and bring the newest state back first; to see how, run: backup-cli check-config",
            consent,
        )


def _demand_other_node(directory: Path, settings: Settings, end: BackupEnd, what: str, consent: Sequence[str]) -> None:
    """Demand consent to restore another node's database here: this directory's own node may only have lost its
    database, and the other one would start in its place."""
    demand_consent(
        f"{what} of another node: {directory} belongs to the node {end.node_id}, whose backup {LOCK_FILE} names "
        f"there ({settings.url})",
        State("this directory as that node's", None),
        "Restore to another directory; each node needs one of its own",
        consent,
    )


def _end_of(settings: Settings) -> tuple[BackupEnd | None, str]:
    """The end of the backup that backup.lock names; or None, and why it cannot be read."""
    try:
        url = newest_url(settings)
        backup = backup_at(url)
        found = answered(url, backup.id)
        if found != settings.backup_id:
            return None, f"{url} holds another backup now"
        return end_of_backup(backup, url), ""
    except BackupError as error:
        return None, str(error)
    except OSError as error:
        return None, f"{settings.url} cannot be read: {error.strerror or error}"


def _compare_with_note(
    directory: Path,
    settings: Settings,
    kept: NodeDatabase,
    what: str,
    consent: Sequence[str],
    missing: str,
    restored: str | None,
) -> None:
    """Compare `kept` with the sync point: all there is when the backup cannot be reached (`missing` says why)."""
    note = read_sync_point(directory)
    if note is not None and note.backup_id != settings.backup_id:
        note = None
    nothing = kept.found is Found.NOTHING
    if note is not None and (note.data_version > 0 if nothing else ahead(note.data_version, kept.version or 0) > 0):
        demand_consent(
            f"{what}, and this node was at version {note.data_version} or later when it last wrote to {settings.url}, "
            f"which {LOCK_FILE} names and which cannot be reached ({missing})",
            State(f"the state in the backup at {settings.url}", note.data_version),
            f"{_reach(settings.url)}, and bring its state back",
            consent,
        )
        return
    if restored == settings.backup_id or (nothing and note is not None):
        return
    current = note is not None and note.fingerprint is not None and note.fingerprint == look(directory)
    if restored is None and current and _changed_ago(directory) < RECENT:
        warn(
            f"the database cannot be compared with {settings.url}, which {LOCK_FILE} names ({missing}). It is as the "
            "plugin last saw it, less than an hour ago, and counts as the newest state"
        )
        return
    demand_consent(
        f"{what}, and nobody can tell whether {settings.url}, which {LOCK_FILE} names, holds a newer state: {missing}",
        State(f"the state in the backup at {settings.url}", None),
        f"{_reach(settings.url)}, then repeat this. If it is lost for good, go on only with the database that the node "
        "last ran with, never with a copy of it",
        consent,
    )


def _compare_with_legacy(
    directory: Path, settings: Settings, kept: NodeDatabase, what: str, consent: Sequence[str]
) -> None:
    """Compare `kept` with the older plugin's backup, which backup.lock names; that file's header names its version."""
    try:
        path = legacy_backup_at(settings.url)
        if path is None:
            raise BackupError("it is not there")
        with LegacyBackup(path) as older:
            named = older.named_version
    except BackupError as error:
        if kept.found is Found.NOTHING or _changed_ago(directory) < RECENT:
            return
        demand_consent(
            f"{what}, was last changed {age(_changed_ago(directory))} ago, and nobody can tell whether the older "
            f"plugin's backup {settings.url}, which {LOCK_FILE} names, holds a newer state: {error}",
            State(f"the state in {settings.url}", None),
            "Go on only with the database that the node last ran with, never with a copy of it",
            consent,
        )
        return
    if named > 0 if kept.found is Found.NOTHING else ahead(named, kept.version or 0) > 0:
        demand_consent(
            f"{what}, and the older plugin's backup {path}, which {LOCK_FILE} names, is at version {named}: that is "
            "the newer state, and a node that runs from an older one can lose every channel",
            State(f"the state in {path}", named),
            f"Bring it back first: {shell_line('backup-cli', 'restore', settings.url, 'DEST')} (docs/migrating.md)",
            consent,
        )


def _reach(url: str) -> str:
    return f"Make that backup reachable{' (mount it, plug it in)' if names_a_mount(url) else ''}"


def _changed_ago(directory: Path) -> float:
    """Seconds since the database was last changed; 0 when there is none."""
    with suppress(OSError):
        return time.time() - database_path(directory).stat().st_mtime
    return 0.0
