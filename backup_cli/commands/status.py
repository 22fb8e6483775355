"""`backup-cli status`: says what a backup holds and how healthy it is, without changing anything."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import click
from click.core import ParameterSource

from backends.errors import BackupError
from backends.log.backup import Backup
from backends.log.format.documents import reason_in_short
from backends.log.status import HIDDEN, Status, Trouble, TroubleKind
from backends.node.lockfile import Settings, read_settings
from backends.node.present import end_of_backup, inspect_node, pair_at
from backends.node.sync_point import read_sync_point
from backends.text import counted
from backup_cli import as_owner
from backup_cli.checks.backup import NOTHING_MORE
from backup_cli.completing import offered_urls
from backup_cli.console import hand_out, moment, moment_ago, show_line, show_row, size
from backup_cli.finding_keys import find_key
from backup_cli.findings import Finding, Level
from backup_cli.key_options import KeyOptions, key_options
from backup_cli.members_lines import show_members
from backup_cli.old_age import doubt_of
from backup_cli.options import existing_backup, existing_backup_as_owner, lightning_dir
from backup_cli.pairing_text import finding
from backup_cli.prometheus import metrics, unreadable
from backup_cli.seen_encryption import Look, SeenSlots, keys_command, look_for_encryption, seen_slots
from backup_cli.seen_members import SeenBackup, given_members, has_members, own_members
from plugin.foresight import brings_forward


@click.command(short_help="Version, age, sizes and health of a backup.")
@click.argument("urls", metavar="[URL]...", nargs=-1, shell_complete=offered_urls)
@lightning_dir
@key_options
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
@click.option("--prometheus", is_flag=True, help="Print the same for the textfile collector of node_exporter.")
@click.pass_context
def status(
    context: click.Context,
    urls: tuple[str, ...],
    lightning_dir: Path,
    key: KeyOptions,
    as_json: bool,
    prometheus: bool,
) -> None:
    """Show version, age, sizes and health of the backup at URL; without a URL, of the node's own backup.

    Without a URL, or with --lightning-dir, the node's database is also compared with the backup. Of a backup with
    several destinations, each is listed; name all of their URLs, or none. Without its key, an encrypted
    backup does not say which node it is of, nor which members it has.
    """
    with_node = not urls or context.get_parameter_source("lightning_dir") is not ParameterSource.DEFAULT
    if as_json and prometheus:
        raise click.UsageError("--json and --prometheus are two formats of the same output; choose one")
    own = not urls
    try:
        directory = as_owner.node_directory(lightning_dir) if with_node else None
        settings = read_settings(directory) if own and directory is not None else None
        if settings is not None:
            urls = settings.urls
        looked = _look(urls, directory, settings, key, prometheus)
        if own and directory is not None:
            looked = replace(looked, seen=_with_last_run(looked.seen, directory))
    except BackupError as error:
        if prometheus:
            hand_out(unreadable(urls[0] if urls else "", error, time.time()))
        raise
    seen = looked.seen
    if as_json:
        found = looked.database
        database = {} if found is None else {"database": {"level": found.level.value, "text": found.text}}
        slots = {} if looked.slots is None else looked.slots.as_json()
        hand_out(json.dumps({**seen.as_json(), "old": looked.old, **slots, **database}))
    elif prometheus:
        hand_out(metrics(seen, time.time()))
    else:
        _table(looked)
    if seen.damaged:
        raise click.exceptions.Exit(3)


@dataclass(frozen=True, slots=True)
class _Looked:
    seen: Status
    database: Finding | None
    """How the node's database compares with the backup; None if nobody asked."""
    old: str | None
    """Why the last change is suspiciously old, as a sentence; None if it is not."""
    elsewhere: str | None = None
    """Why the newest state may be in a member that was not asked, as a sentence."""
    slots: SeenSlots | None = None
    """The key slots of an encrypted backup; None if it is not encrypted."""


def _look(
    urls: tuple[str, ...], directory: Path | None, settings: Settings | None, key: KeyOptions, prometheus: bool
) -> _Looked:
    """The backup's status; with a node's directory, also how its database compares.

    `settings` are those of the node whose own backup this is.
    """
    where: Backup | tuple[str, ...] = urls
    if len(urls) == 1 and not (settings is not None and settings.members):
        url, where = existing_backup_as_owner(urls[0]) if directory is None else existing_backup(urls[0])
        urls = (url,)
    elif directory is None:
        as_owner.backups(urls)
    found = look_for_encryption(where, patient=False)
    find_key(found, key, [] if directory is None else [directory], needed=False)
    if found.is_closed:
        one = (urls[0], where) if isinstance(where, Backup) else existing_backup(found.members[0].url)
        looked = _look_at_one(*one, directory, prometheus)
    elif isinstance(where, Backup) and not has_members(where):
        looked = _look_at_one(urls[0], where, directory, prometheus)
    elif settings is not None and settings.members and directory is not None:
        looked = _look_at_members(own_members(directory, settings), directory, prometheus)
    else:
        looked = _look_at_members(given_members(urls), directory, prometheus)
    return _with_slots(looked, found, directory) if found.members else looked


def _with_slots(looked: _Looked, found: Look, directory: Path | None) -> _Looked:
    """The same, with the key slots of this encrypted backup, and what is wrong with them."""
    whose = [member.url for member in found.members] if directory is None else ["--lightning-dir", directory]
    slots = seen_slots(found.members, keys_command(*whose))
    return replace(
        looked, slots=slots, seen=looked.seen if slots.health is None else slots.health.added_to(looked.seen)
    )


def _look_at_one(url: str, backup: Backup, directory: Path | None, prometheus: bool) -> _Looked:
    seen = backup.status(url)
    old = doubt_of(backup, seen.last_change)
    if directory is None or prometheus:
        return _Looked(seen, None, old)
    return _Looked(_with_closed(seen, backup), _database(url, backup, seen, directory), old)


def _look_at_members(several: SeenBackup, directory: Path | None, prometheus: bool) -> _Looked:
    """The same for a backup with several members."""
    seen, backup = several.status, several.backup
    old, elsewhere = doubt_of(backup, seen.last_change), several.doubt()
    if directory is None or prometheus:
        return _Looked(seen, None, old, elsewhere)
    closed = tuple(Trouble(TroubleKind.NOT_WRITABLE, sentence) for sentence in several.closed())
    with_closed = replace(seen, troubles=(*seen.troubles, *closed))
    return _Looked(with_closed, _database(seen.url, backup, seen, directory), old, elsewhere)


def _with_last_run(seen: Status, directory: Path) -> Status:
    """The status, with a trouble that only the node's side knows of: its last run ended with an unsaved change."""
    last = read_sync_point(directory)
    if last is None or last.failure is None:
        return seen
    told = f"the last run ended with a failure, so the next start begins with a new snapshot: {last.failure}"
    return replace(seen, troubles=(*seen.troubles, Trouble(TroubleKind.LAST_RUN_FAILED, told)))


def _with_closed(seen: Status, backup: Backup) -> Status:
    """The status, with a trouble if the destination cannot be written to. That matters to a node, not to somebody who
    only reads the backup."""
    closed = backup.place.why_unwritable()
    if closed is None:
        return seen
    told = Trouble(TroubleKind.NOT_WRITABLE, f"{NOTHING_MORE}: {closed}")
    return replace(seen, troubles=(*seen.troubles, told))


def _database(url: str, backup: Backup, seen: Status, directory: Path) -> Finding:
    """How the node's database compares with the backup: the same finding as in check-config."""
    settings = None
    with suppress(BackupError):  # no backup.lock: then any backup may be compared
        settings = read_settings(directory)
    pairing = pair_at(directory, settings, end_of_backup(backup, url, seen), inspect_node(directory))
    return finding(pairing, url, directory, lambda: brings_forward(directory, backup))


def _table(looked: _Looked) -> None:
    seen, found = looked.seen, looked.database
    begun = reason_in_short(seen.generation_reason)
    rows = [
        ("backup", f"{seen.url} ({seen.backup_id})"),
        ("health", seen.health),
        ("version", str(seen.data_version)),
        ("last change", moment_ago(seen.last_change)),
        ("log", f"{counted(seen.records, 'record')} in {size(seen.segment_bytes)} since the snapshot"),
        ("snapshot", f"{size(seen.snapshot_bytes)}, generation {seen.generation} ({begun})"),
        ("compacted", _compacted(seen)),
        ("free space", _free_space(seen)),
        ("encrypted", "no" if looked.slots is None else looked.slots.in_words()),
        ("node", HIDDEN if seen.hidden else seen.node_id or "not known yet"),
    ]
    if seen.history_generations:
        kept = counted(seen.history_generations, "earlier generation")
        since = "" if seen.history_oldest is None else f", since {moment(seen.history_oldest)}"
        rows.insert(7, ("history", f"{kept} in {size(seen.history_bytes)}{since} (backup-cli versions)"))
    if found is not None and found.level is Level.OK:
        rows.append(("database", found.text))
    for name, value in rows:
        show_row(name, value, 13)
    show_members(seen)
    remarks = [found.text] if found is not None and found.level is not Level.OK else []
    remarks += [line for line in (looked.old, looked.elsewhere) if line is not None]
    if seen.hidden:
        remarks.append(_WHY_HIDDEN)
    for line in (*remarks, *(trouble.sentence for trouble in seen.troubles)):
        show_line(f"! {line}", fg="yellow")


_WHY_HIDDEN = (
    "This backup is encrypted, and its key is not here, so which node it is of is hidden, and so are its other members "
    "if it has several. Name what opens it: --hsm-secret FILE, --passphrase-file FILE or --key-file FILE"
)


def _free_space(seen: Status) -> str:
    if seen.free_bytes is None or seen.total_bytes is None:
        return "not known: this destination has no size of its own"
    return f"{size(seen.free_bytes)} of {size(seen.total_bytes)}"


def _compacted(seen: Status) -> str:
    """When the backup was last compacted. Nothing is known about the time before a new snapshot, so only a backup in
    its first generation was `never` compacted."""
    if seen.last_compaction is not None:
        return moment_ago(seen.last_compaction)
    return "never" if seen.generation == 1 else f"not since the snapshot of {moment(seen.generation_begun)}"
