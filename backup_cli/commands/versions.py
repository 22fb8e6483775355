"""`backup-cli versions`: lists the states of the node that a backup can restore."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import click

from backends.change import ahead
from backends.errors import BackupError, Damaged
from backends.log.backup import Backup
from backends.log.format.documents import Kept, Manifest, reason_in_short
from backends.log.format.records import time_now
from backends.log.reader.generation import Reader
from backends.log.reader.kept import KEEP_FOR
from backends.log.reader.timeline import State, states_of
from backends.node.lockfile import read_settings
from backends.text import shell_line
from backends.times import UNKNOWN_TIME
from backup_cli import as_owner
from backup_cli.completing import offered_urls
from backup_cli.console import age, fail, hand_out, moment, moment_ago, show_line, show_row, size
from backup_cli.finding_keys import find_key
from backup_cli.key_options import KeyOptions, key_options
from backup_cli.old_age import doubt_of
from backup_cli.options import existing_backup, existing_backup_as_owner, lightning_dir

IN_USE, REPLACED, KEPT = "in use", "replaced", "kept"
"""The states of a generation: the newest one, one that a resync or a new snapshot has replaced, and one that was
compacted and is kept for its history."""


@dataclass(frozen=True, slots=True)
class Versions:
    """One generation: the versions that it holds, and their times (seconds since 1970). `bytes` is its stored size."""

    url: str
    generation: int
    state: str
    reason: str
    first_version: int
    last_version: int
    first_time: int
    last_time: int
    bytes: int
    kept_until: int | None
    """When a generation that was replaced will be removed (seconds since 1970); None for the one in use."""
    damage: str | None
    """What is damaged in it; None if nothing was found. The records up to `last_version` are whole."""
    end_unverified: str | None
    """Why nobody can tell whether its end is missing; None if that was checked."""


@click.command(short_help="List the versions that a backup can restore.")
@click.argument("urls", metavar="[URL]...", nargs=-1, shell_complete=offered_urls)
@lightning_dir
@key_options
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def versions(urls: tuple[str, ...], lightning_dir: Path, key: KeyOptions, as_json: bool) -> None:
    """Say which versions the backup at URL holds, of which time they are, and what is kept of earlier generations.

    Without a URL, it is the node's own backup. Of a backup with several destinations, all that are named are listed.

    A node may only run from the last version of the newest generation; all others are for looking at: backup-cli
    restore --to-version N (or --to-time T) --not-for-a-node. What a resync or a new snapshot has replaced is kept for a
    week; to restore it: backup-cli restore --kept.

    An encrypted backup says all this without its key, except for the details of why a generation was begun.
    """
    found: list[Versions] = []
    failed = 0
    backups = list(_backups(urls, lightning_dir))
    for url, backup_of in backups:
        try:
            named, backup = backup_of()
            find_key(backup, key, needed=False)
            listed = _found(named, backup)
        except BackupError as error:
            if len(backups) == 1:
                raise
            fail(str(error))
            failed = max(failed, error.exit_code)
            continue
        found += listed
        if not as_json:
            if len(backups) > 1:
                show_line(url, bold=True)
            _table(named, listed)
            _tell_kept(backup)
            old = doubt_of(backup, listed[-1].last_time)
            if old is not None:
                show_line(f"! {old}", fg="yellow")
    if as_json:
        hand_out(json.dumps([asdict(each) for each in found]))
    if any(each.damage is not None and each.state == IN_USE for each in found):
        failed = 3
    if failed:
        raise click.exceptions.Exit(failed)


def _backups(urls: tuple[str, ...], directory: Path) -> Iterator[tuple[str, Callable[[], tuple[str, Backup]]]]:
    """Each URL, and what opens the backup there."""
    if not urls:
        urls = read_settings(as_owner.node_directory(directory)).urls
        opening = existing_backup
    elif len(urls) == 1:
        opening = existing_backup_as_owner
    else:
        as_owner.backups(urls)
        opening = existing_backup
    for url in urls:
        yield url, partial(opening, url)


def _found(url: str, backup: Backup) -> list[Versions]:
    """The generations that are kept, oldest first, then the one in use."""
    found: list[Versions] = []
    before: State | None = None
    now = time_now()
    history, replaced = backup.history().aged(0, now), backup.kept()
    for kept in backup.held():
        until = now + history.left(kept)
        if replaced is not None and replaced.manifest.generation == kept.manifest.generation:
            until = max(until, replaced.since + KEEP_FOR)
        each, before = _held(url, backup, kept, until, before)
        found.append(each)
    with backup.read() as reader:
        found.append(_look(url, reader, None, before)[0])
    return found


def _held(url: str, backup: Backup, kept: Kept, until: int, before: State | None) -> tuple[Versions, State | None]:
    try:
        with backup.read_held(kept) as reader:
            return _look(url, reader, until, before)
    except Damaged as error:  # one of its files is missing
        nothing = (State(0, 0, kept.manifest.base.data_version, kept.manifest.created),) * 2
        return _versions(url, kept.manifest, _state(kept), *nothing, 0, until, _in_kept(error)), None


def _in_kept(error: Damaged) -> str:
    return f"this generation is damaged: {error.finding}. The one in use does not need it"


def _look(url: str, reader: Reader, kept_until: int | None, before: State | None) -> tuple[Versions, State]:
    """What a generation holds, and its last state: the log's records are read and checked, but not decompressed.

    `before` is the last state of the generation before it.
    """
    manifest, scan = reader.manifest, reader.scan()
    base = manifest.base
    follows = before is not None and before.sequence == base.sequence
    first = last = State(manifest.generation, base.sequence, base.data_version, manifest.created)
    damage: str | None = None
    try:
        for number, last in enumerate(states_of(manifest, scan, follows=follows)):
            first = first if number else last
        reader.snapshot.check_ends()
    except Damaged as error:
        damage = str(error) if kept_until is None else _in_kept(error)
    if before is not None and follows and first.time == UNKNOWN_TIME:
        first = replace(first, time=before.time)
    unverified = None if damage is not None else scan.end().end_unverified
    state = _state(reader.kept)
    return _versions(url, manifest, state, first, last, reader.own_bytes(), kept_until, damage, unverified), last


def _state(kept: Kept | None) -> str:
    return IN_USE if kept is None else REPLACED if kept.last_sequence is None else KEPT


def _versions(
    url: str,
    manifest: Manifest,
    state: str,
    first: State,
    last: State,
    stored: int,
    kept_until: int | None,
    damage: str | None,
    end_unverified: str | None = None,
) -> Versions:
    return Versions(
        url,
        manifest.generation,
        state,
        manifest.reason,
        first.data_version,
        last.data_version,
        first.time,
        last.time,
        stored,
        kept_until,
        damage,
        end_unverified,
    )


def _tell_kept(backup: Backup) -> None:
    """What is kept for the history, and the limits of that."""
    keep = backup.history().keep
    if keep.seconds:
        taken, most = size(backup.history_bytes()), size(keep.bytes)
        show_line(f"The history is kept for {age(keep.seconds)} within {most}; it takes {taken}")


def _table(url: str, found: Sequence[Versions]) -> None:
    for each in found:
        until = "" if each.kept_until is None else f"kept until {moment(each.kept_until)}"
        state = {IN_USE: IN_USE, KEPT: until, REPLACED: f"replaced, and {until}"}[each.state]
        show_line(f"generation {each.generation:<6}{state} (begun by: {reason_in_short(each.reason)})")
        show_row("  versions", f"{each.first_version} to {each.last_version}, {size(each.bytes)}", 17)
        show_row("  times", f"{moment(each.first_time)} to {moment_ago(each.last_time)}", 17)
        if each.damage is not None:
            show_line(f"! {each.damage}", fg="yellow")
        if each.end_unverified is not None:
            show_line(f"! {each.end_unverified}", fg="yellow")
    *_, current = found
    kept = [each for each in found if each.state == REPLACED]
    if kept and ahead(kept[-1].last_version, current.last_version) > 0:
        show_line(
            f"! The generation that was replaced ends at version {kept[-1].last_version}, and the one in use at "
            f"{current.last_version}: if it was replaced by mistake, do not start the node, and restore it with: "
            + shell_line("backup-cli", "restore", "--kept", "--replace", url, "DEST"),
            fg="yellow",
        )
