"""`backup-cli versions`: lists the states of the node that a backup can restore."""

import json
from dataclasses import asdict, dataclass

import click

from backends.change import ahead
from backends.errors import Damaged
from backends.log.backup import Backup
from backends.log.format.documents import reason_in_short
from backends.log.reader.generation import Reader
from backends.log.reader.kept import KEEP_FOR
from backends.log.reader.passes import EndOfLog
from backends.text import shell_line
from backup_cli.console import hand_out, moment, show_line, show_row, size
from backup_cli.finding_keys import find_key
from backup_cli.key_options import KeyOptions, key_options
from backup_cli.old_age import doubt_of
from backup_cli.options import existing_backup_as_owner, url_argument


@dataclass(frozen=True, slots=True)
class Versions:
    """One generation: the versions that it holds, and their times (seconds since 1970). `bytes` is its stored size."""

    generation: int
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
@url_argument
@key_options
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def versions(url: str, key: KeyOptions, as_json: bool) -> None:
    """Say which versions the backup at URL holds, and what a resync or new snapshot has replaced.

    A node may only run from the last version of the newest generation; all others are for looking at: backup-cli
    restore --to-version N --not-for-a-node. What was replaced is kept for a week; to restore it: backup-cli restore
    --kept.

    An encrypted backup says all this without its key, except for the details of why a generation was begun.
    """
    url, backup = existing_backup_as_owner(url)
    find_key(backup, key, needed=False)
    found = _found(backup)
    if as_json:
        hand_out(json.dumps([asdict(each) for each in found]))
    else:
        _table(url, found)
        old = doubt_of(backup, found[-1].last_time)
        if old is not None:
            show_line(f"! {old}", fg="yellow")
    if any(each.damage is not None and each.kept_until is None for each in found):
        raise click.exceptions.Exit(3)


def _found(backup: Backup) -> list[Versions]:
    """The kept generation, if there is one, then the generation in use."""
    found = []
    note = backup.kept()
    if note is not None:
        kept = backup.read_kept()
        if kept is not None:
            with kept:
                found.append(_look(kept, note.since + KEEP_FOR))
    with backup.read() as reader:
        found.append(_look(reader, None))
    return found


def _look(reader: Reader, kept_until: int | None) -> Versions:
    """What a generation holds: the log's records are read and checked, but not decompressed."""
    manifest, scan = reader.manifest, reader.scan()
    damage: str | None = None
    end: EndOfLog | None = None
    try:
        for _ in scan:
            pass
        end = scan.end()
        reader.snapshot.check_ends()
    except Damaged as error:
        damage = str(error)
    return Versions(
        manifest.generation,
        manifest.reason,
        manifest.base.data_version,
        scan.position.data_version,
        manifest.created,
        scan.position.time,
        reader.stored_bytes(),
        kept_until,
        damage,
        None if end is None else end.end_unverified,
    )


def _table(url: str, found: list[Versions]) -> None:
    for each in found:
        state = "in use" if each.kept_until is None else f"replaced, and kept until {moment(each.kept_until)}"
        show_line(f"generation {each.generation:<6}{state} (begun by: {reason_in_short(each.reason)})")
        show_row("  versions", f"{each.first_version} to {each.last_version}, {size(each.bytes)}", 17)
        show_row("  times", f"{moment(each.first_time)} to {moment(each.last_time)}", 17)
        if each.damage is not None:
            show_line(f"! {each.damage}", fg="yellow")
        if each.end_unverified is not None:
            show_line(f"! {each.end_unverified}", fg="yellow")
    *kept, current = found
    if kept and ahead(kept[0].last_version, current.last_version) > 0:
        show_line(
            f"! The generation that was replaced ends at version {kept[0].last_version}, and the one in use at "
            f"{current.last_version}: if it was replaced by mistake, do not start the node, and restore it with: "
            + shell_line("backup-cli", "restore", "--kept", "--replace", url, "DEST"),
            fg="yellow",
        )
